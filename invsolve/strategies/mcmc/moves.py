"""One move of all chains: Hamiltonian or autoregressive, in the metric of the other half; spike-and-slab sites too."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from invsolve.strategies.mcmc.kernels import Chains, Normal, Target, autoregressive, hamiltonian
from invsolve.strategies.mcmc.spike_slab import Sites
from invsolve.strategies.mcmc.state import NoiseMCMCState
from invsolve.strategies.mcmc.tempering import autocorrelation

Kernel = Literal["hmc", "mala", "pcn"]
_ACCEPT = {"hmc": 0.8, "mala": 0.6, "pcn": 0.3}  # acceptance that the step size is steered to
_TRAJECTORY = 1.6  # length of an HMC trajectory in the coordinates of the metric: a quarter of an oscillation
_LEAPS = 16  # steps of a trajectory at most


def moved(
    kernel: Kernel, part: NoiseMCMCState, target: Target, sites: Sites | None, normal: Normal, i: int
) -> NoiseMCMCState:
    """The chains after move ``i``, and, while they settle, step sizes nearer to the acceptance that is wanted."""
    kind = 0 if kernel == "pcn" else i % 2
    metric, size = part.metrics[kind], part.log_step[:, kind].exp()
    if kernel == "pcn":
        chains, accept = autoregressive(target, part.chains, metric, part.beta, size, normal)
    else:
        leaps = torch.ones_like(size).long()
        if kernel == "hmc":
            full = (_TRAJECTORY / size).ceil().clamp(1, _LEAPS)
            turn = torch.special.ndtr(normal(3, (1,))[:, 0].double())
            leaps = (full * (0.5 + 0.5 * turn)).ceil().long()  # of random length: no trajectory closes on itself
        chains, accept = hamiltonian(target, part.chains, metric, part.beta, size, leaps, normal)
    if sites is not None:
        u = sites.sweep(chains.u, part.beta, normal)
        value, grad = target.pullback(u) if kernel != "pcn" else (target.log_likelihood(u), chains.grad)
        chains = Chains(u=u, log_likelihood=value, grad=grad)
    rate = accept.mean(1)
    change = torch.where(part.done < 0, 0.7 * (rate - _ACCEPT[kernel]), 0.0)
    log_step = part.log_step.clone()
    log_step[:, kind] += change
    return replace(
        part,
        u=chains.u,
        log_likelihood=chains.log_likelihood,
        grad=chains.grad,
        accept=rate,
        log_step=log_step,
        left=part.left * autocorrelation(part.metrics[0], part.chains, chains),
        moves=part.moves + 1,
    )
