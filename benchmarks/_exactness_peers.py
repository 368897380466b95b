"""deepinv's and azula's moment matching on the sparse problems, given the exact denoiser of the prior.

Of their samplers these two come closest to known posteriors (docs/posterior.md); each runs with the evaluations of that
table and with as many as a given method of ours took.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from _exactness_problems import Known
from _network import Calls
from torch import Tensor

from invsolve.priors.base import Prior


@dataclass(frozen=True, kw_only=True, eq=False)
class PeerCase:
    """What `_peers_azula` and `_peers_deepinv` ask of a problem of one item, with real data."""

    problem: Known
    std: float = 1.0  # of an entry of the signal
    unit_interval: bool = False
    unit: float = 1.0

    @property
    def dense(self) -> list[tuple[Tensor, Tensor]]:
        matrix, y = self.problem.matrix, self.problem.real_data
        assert matrix is not None and y is not None  # linear problems
        seen = matrix.abs().amax(1) > 1e-12  # an imaginary part that no signal reaches is not data
        return [(matrix[seen], y[seen])]

    @property
    def noise(self) -> float:
        return self.problem.noise

    @property
    def size(self) -> int:
        return self.problem.d

    @property
    def image_shape(self) -> tuple[int, int, int]:
        shape = self.problem.shape
        return (1, *shape) if len(shape) == 2 else (1, 1, self.size)


@dataclass(eq=False)
class _Held:
    """A pullback on its way from the forward to the backward pass; torch.func would copy a list."""

    pull: Callable[[Tensor], Tensor] | None = None
    shape: tuple[int, ...] = ()


class _Denoise(torch.autograd.Function):
    """``D(x, sigma)``, its pullback the prior's own."""

    @staticmethod
    def forward(x: Tensor, sigma: Tensor, prior: Prior, calls: Calls, held: _Held) -> Tensor:
        value, pull = prior.pullback(x.double().view(-1, *prior.shape), sigma.double())
        held.pull, held.shape = pull, tuple(value.shape)
        calls.forward += len(x)
        return value.view(x.shape).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.calls, ctx.held = inputs[3:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.calls.vjp += len(grad)
        return ctx.held.pull(grad.double().view(ctx.held.shape)).view(grad.shape).to(grad.dtype), None, None, None, None


class PriorNetwork(torch.nn.Module):
    """``D(x, sigma)`` of a prior as a network on ``x`` ``(rows, size)``, differentiable once, its calls counted."""

    def __init__(self, problem: Known) -> None:
        super().__init__()
        self.prior, self.calls = problem.prior, Calls()
        self.register_buffer("mean", problem.prior.mean.float().flatten())

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return _Denoise.apply(x, sigma.detach(), self.prior, self.calls, _Held())


def methods() -> dict[str, Callable[[int], Callable[[PeerCase, int, int, PriorNetwork], Tensor]]]:
    """By name: a number of steps -> a sampler."""
    import _peers_azula as azula
    import _peers_deepinv as deepinv

    def azula_mmps(steps: int) -> Any:
        def build(case: Any, denoiser: Any, y: Tensor, linear: Any) -> Any:
            covariance = azula.IsotropicCovariance(case.noise**2)
            guided = azula.MMPSDenoiser(denoiser, y, linear, covariance, solver="cg", iterations=16)
            return azula.xEABSampler(guided, order=2, steps=steps, silent=True)

        return azula._run(build, azula._ve)

    def deepinv_mmps(steps: int) -> Any:
        return deepinv._posterior_diffusion(
            lambda: deepinv.MomentMatchingDataFidelity(cg_max_iter=20), euler=True, steps=steps
        )

    return {
        "azula: MMPS, 16 CG, VE, second order": azula_mmps,
        "deepinv: MomentMatching, 20 CG, VE, Euler": deepinv_mmps,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class PeerDraws:
    samples: Tensor
    nfe: float
    vjps: float


def draw(sampler: Callable[..., Tensor], problem: Known, n: int, seed: int) -> PeerDraws:
    """``n`` samples of a peer, which draws from torch's global generator."""
    network = PriorNetwork(problem)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        x = sampler(PeerCase(problem=problem), 0, n, network)
    return PeerDraws(samples=x.view(n, *problem.shape), nfe=network.calls.forward / n, vjps=network.calls.vjp / n)
