"""Signals that data tell up to their sign: moves to the mode of the other sign, which no gradient leads to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.random import Draws
from invsolve.problem import Problem
from invsolve.strategies.mcmc.kernels import Chains, Normal, Target, heated, metropolis
from invsolve.strategies.mcmc.noise_map import NoiseMap

_LOOKS = 4  # draws whose likelihoods are compared with those of their reflections


def flipped(target: Target, chains: Chains, beta: Tensor, normal: Normal, *, gradients: bool) -> Chains:
    """Half of the chains, chosen at random, moved to ``-u`` if that is as likely: to a mode of the other sign."""
    value, grad = target.pullback(-chains.u) if gradients else (target.log_likelihood(-chains.u), chains.grad)
    there = Chains(u=-chains.u, log_likelihood=value, grad=grad)
    log_ratio = heated(beta, value) - heated(beta, chains.log_likelihood)
    chosen = normal(8, tuple(log_ratio.shape[1:])) > 0
    return metropolis(chains, there, torch.where(chosen, log_ratio, -math.inf), beta, normal, index=9)[0]


def symmetric(problem: Problem, noise_map: NoiseMap) -> Tensor:
    """Of which items ``(items,)`` ``u`` and ``-u`` are equally likely, as far as some draws show.

    As for magnitudes of signals of either sign.
    """
    items = len(problem.data)
    rows = problem.take(torch.arange(items, device=problem.data.device).repeat(2 * _LOOKS))
    draws = Draws.for_rows(0, [0] * _LOOKS, list(range(_LOOKS)), problem.data.device, purpose="symmetry")
    z = draws.normal(problem.shape, problem.signal_dtype, step=0)
    x = noise_map(torch.cat((z, -z))).repeat_interleave(items, 0)
    here, there = rows.noise.log_prob(rows.data, rows.operator(x), rows.operator.observed).double().chunk(2)
    rounding = 100 * torch.finfo(problem.data.dtype).eps
    same = (here - there).abs() <= rounding * (1 + here.abs())
    return same.view(_LOOKS, items).all(0) & (here.view(_LOOKS, items).std(0) > 0)
