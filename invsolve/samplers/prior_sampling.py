"""Samples of a prior that is known through its denoiser only."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from invsolve.core.random import DrawLike
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Kind, Shape, check_int, kind_dtype
from invsolve.samplers.base import Sampler
from invsolve.samplers.grids import log_grid
from invsolve.samplers.plan import Plan
from invsolve.samplers.unipc import UniPC

_DENSITY = 5  # steps per factor e: UniPC's flow is then right to 3e-4 on 0.3 N(-1, 0.3^2) + 0.7 N(1, 0.5^2)


class _Modes(Protocol):
    """The shape of a law's modes."""

    @property
    def mode_shape(self) -> Shape: ...


class _Law(Protocol):
    """A Gaussian of about the prior's mean and covariance: `iv.priors.GaussianLaw`."""

    @property
    def variances(self) -> Tensor: ...

    @property
    def modes(self) -> _Modes: ...

    def sample(self, z: Tensor, t: Tensor | float = 0.0) -> Tensor: ...


class Denoisable(Protocol):
    """What sampling asks of an `iv.priors.Prior`, which says what each of these is."""

    @property
    def shape(self) -> Shape: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def mean(self) -> Tensor: ...

    @property
    def scale(self) -> float: ...

    @property
    def sigma_range(self) -> tuple[float, float]: ...

    @property
    def law(self) -> _Law | None: ...

    def noise(self, z: Tensor) -> Tensor: ...

    def denoise(self, x: Tensor, sigma: Tensor | float) -> Tensor: ...


@in_defined_state
def prior_range(prior: Denoisable) -> tuple[float, float]:
    """The noise levels ``(high, low)`` between which a prior is sampled, clipped to ``prior.sigma_range``.

    From 20 times the largest standard deviation (the flow forgets nothing, so the start must not know the signal) down
    to a thousandth of it, or to a twentieth of the smallest one that the prior's Gaussian law states, if that is less
    (not below 1e-5 of the largest).

    Parameters
    ----------
    prior : Prior
        The prior to be sampled.

    Returns
    -------
    high, low : float
        Noise levels in the prior's units.
    """
    low = 1e-3 * prior.scale
    if prior.law is not None:
        variances = prior.law.variances
        positive = variances[variances > 0]
        if positive.numel():
            low = min(low, max(0.05 * math.sqrt(float(positive.min())), 1e-5 * prior.scale))
    floor, ceiling = prior.sigma_range
    high = min(20 * prior.scale, ceiling)
    return high, min(max(low, floor), high)


@in_defined_state
def sample_prior(
    prior: Denoisable, n: int, draws: DrawLike, *, sampler: Sampler | None = None, num_steps: int | None = None
) -> Tensor:
    """Samples of a prior through its denoiser: a walk down a log grid over `prior_range`.

    The walk starts from the prior's Gaussian law with the noise on top, or, where none is stated, from
    ``mean + sqrt(high^2 + scale^2/2) noise``: no variance is then missed by more than half of scale^2.

    Parameters
    ----------
    prior : Prior
        The prior to be sampled.
    n : int
        How many samples, >= 1.
    draws : DrawLike
        The random numbers of the n rows.
    sampler : Sampler, optional
        How noise is removed; ``UniPC(order=3)`` by default.
    num_steps : int, optional
        Steps of the grid; five per factor e between the two levels by default, about 48.

    Returns
    -------
    Tensor, shape (n, *prior.shape)
        Of the prior's kind and precision.

    Raises
    ------
    InputError, InputTypeError
        If ``n`` or ``num_steps`` is no positive integer.
    """
    n = check_int("sample_prior", "n", n, minimum=1)
    high, low = prior_range(prior)
    if num_steps is None:
        num_steps = 1 + math.ceil(_DENSITY * math.log(high / low))
    sampler = UniPC(order=3) if sampler is None else sampler.in_units(prior.scale)
    plan = Plan.make(sampler, log_grid(high, low, num_steps))
    dtype = kind_dtype(prior.dtype, prior.kind)
    if prior.law is not None:
        x = prior.law.sample(draws.normal(prior.law.modes.mode_shape, dtype, step=0), high)
    else:
        spread = math.hypot(high, prior.scale / math.sqrt(2))
        x = prior.mean + spread * prior.noise(draws.normal(prior.shape, dtype, step=0))
    state = plan.sampler.init(x)
    for i in range(plan.num_steps):

        def noise(index: int, step: int = i + 1) -> Tensor:
            return prior.noise(draws.normal(prior.shape, dtype, step=step, index=index))

        state = plan.step(prior.denoise, state, i, noise)
    return state.x
