"""Which noise levels a posterior needs, and the signals at the highest of them.

The grid belongs to the solver, not to how the prior was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt
from typing import final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import direction, inner, norm
from invsolve.core.validation import real_dtype
from invsolve.errors import OperatorError, UnsupportedError, invalid
from invsolve.noise import Gaussian
from invsolve.operators.base import BlackBox
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw
from invsolve.problem import Problem
from invsolve.samplers import custom_grid, log_grid, prior_range
from invsolve.strategies.base import Run

_TOP = 10.0  # in units of the prior's scale: the distribution of x_t no longer knows the signal
_BOTTOM = 0.1  # in units of the smallest posterior std: what stopping there removes is 0.5 % of that std

_POINTS = 4  # of the prior's size, where the Jacobian at its mean says nothing
_DETAIL = 0.05  # in units of the scale: what samples of a prior that does not say are taken to resolve


def noise_levels(problem: Problem, prior: Prior) -> tuple[float | Tensor, float | Tensor]:
    """The highest and the lowest level > 0, each a number, or (batch,) where items differ in operator or noise.

    The smallest posterior std is taken as ``(detail^-2 + |G^-1/2 A C^1/2|^2)^-1/2``: no direction is better known than
    the best measured one, and the finest one of the prior. A non-linear operator counts through its Jacobian at the
    prior's mean, noise that is not Gaussian by its Fisher information there.
    """
    if prod(problem.operator.out_shape) == 0:
        return prior_range(prior)
    low, high = prior.sigma_range
    top = _TOP * prior.scale
    detail = prior.detail or _DETAIL * prior.scale
    precision = detail**-2 + information(problem, prior) ** 2
    bottom = _BOTTOM * precision.rsqrt()
    top, bottom = min(top, high), bottom.clamp(min=low)
    if not bool((bottom < top).all()):
        raise invalid(
            "solve",
            "prior.sigma_range",
            f"reaching below {top:.3g} and above {float(bottom.max()):.3g}",
            prior.sigma_range,
        )
    return (top, float(bottom[0])) if _alike(problem) else (torch.full_like(bottom, top), bottom)


def _alike(problem: Problem) -> bool:
    """True if every item has the same G: where noise is not Gaussian that may depend on the data."""
    return problem.shared and isinstance(problem.noise, Gaussian)


def solver_grid(problem: Problem, prior: Prior, num_steps: int, top: Tensor | None = None) -> Tensor:
    """Log-spaced levels between `noise_levels`, then 0: ``(N + 1,)``, or ``(batch, N + 1)`` where items differ.

    ``top``: a level, () or (batch,), above which there is nothing to do.
    """
    high, low = noise_levels(problem, prior)
    if top is not None:
        least = 10 * torch.as_tensor(low, dtype=torch.float64, device="cpu")
        top = torch.maximum(top.double().cpu(), least)
        high = torch.minimum(top, torch.as_tensor(high, dtype=torch.float64, device="cpu"))
        high, low = (high, low) if isinstance(low, Tensor) else (float(high), low)
    return log_grid(high, low, num_steps)


def shared_grid(owner: str, grid: Tensor) -> Tensor:
    """Levels of the caller, one grid for all rows, ``(N + 1,)``."""
    grid = custom_grid(grid)
    if grid.ndim != 1:
        raise invalid(owner, "grid", "one grid for all rows, 1-d", tuple(grid.shape))
    return grid


def first_signals(run: Run, top: Tensor) -> Tensor:
    """Where a walk starts at level ``top``, () or (rows,).

    ``mean + sqrt(C_fit + t^2) z`` where the prior states a covariance, else ``mean + t z``.
    """
    prior = run.prior
    top = top.to(run.problem.data.device, prior.dtype)
    if isinstance(prior, HasLaw):
        z = run.normal(-1).reshape(run.rows, *prior.law.modes.mode_shape)
        return prior.law.sample(z, top.view(-1, *([1] * (z.ndim - 1))) if top.ndim else top)
    level = top.view(-1, *([1] * len(prior.shape))) if top.ndim else top
    return prior.mean + level * run.noise(-1)


def entry_std(prior: Prior) -> float:
    """The root mean variance of an entry of the prior, in units of the diffusion noise.

    Its scale where it states no distribution. It is what papers on images of unit variance take for 1.
    """
    return sqrt(float(prior.law.variances.double().mean())) if isinstance(prior, HasLaw) else prior.scale


def noise_size(prior: Prior) -> float:
    """The root mean square of an entry of diffusion noise of level 1, in units of the signal: 1 where it is white."""
    if prior.white_noise:
        return 1.0
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(16, *prior.shape, generator=rng, dtype=prior.mean.dtype, device="cpu").to(prior.device)
    return float((prior.noise(z).abs().square().mean() / z.abs().square().mean()).sqrt())


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PerRow:
    """One number for every row, prepared once."""

    values: Tensor  # (rows,), float64, on the device of the data

    @classmethod
    def of(cls, problem: Problem, values: Tensor) -> PerRow:
        """From one for each item, or one for all of them."""
        return cls(values=values.to(problem.data.device).expand(len(problem.data)))

    def like(self, x: Tensor) -> Tensor:
        """``(rows, 1, ..., 1)`` with the axes and precision of ``x``."""
        return self.values.to(real_dtype(x.dtype)).view(-1, *([1] * (x.ndim - 1)))

    def take(self, index: Tensor) -> PerRow:
        return PerRow(values=self.values[index.to(self.values.device)])


def information(problem: Problem, prior: Prior, *, max_iter: int = 30, rtol: float = 0.02) -> Tensor:
    """``|G^-1/2 A C^1/2|`` per item, by power iteration on ``A^H G^-1 A C``.

    (batch,) or (1,) where shared, float64 on CPU. A non-linear operator counts through its Jacobian at the prior's
    mean; where that vanishes there (moduli, squares), through the largest at a few points of the prior's size.
    """
    if isinstance(problem.operator, BlackBox):
        raise UnsupportedError(
            f"solve: {type(problem.operator).__name__} is a black box, guidance needs its derivative."
        )
    one = problem.take(torch.zeros(1, dtype=torch.int64, device=problem.data.device)) if _alike(problem) else problem
    found = _information_at(one, prior, prior.mean, max_iter, rtol)
    if not bool(found.isfinite().all()):
        raise _not_finite(one, prior)
    if (problem.linear and isinstance(problem.noise, Gaussian)) or bool((found > 0).all()):
        return found
    rng = torch.Generator().manual_seed(1)
    for _ in range(_POINTS):
        if isinstance(prior, HasLaw):
            u = torch.randn(1, *prior.law.modes.mode_shape, generator=rng, dtype=problem.signal_dtype, device="cpu")
            point = prior.law.sample(u.to(problem.data.device))[0]
        else:
            z = torch.randn(1, *prior.shape, generator=rng, dtype=problem.signal_dtype, device="cpu").to(
                problem.data.device
            )
            point = prior.mean + prior.scale * prior.noise(z)[0]
        found = torch.maximum(found, _information_at(one, prior, point, max_iter, rtol))
    return found


def _not_finite(one: Problem, prior: Prior) -> OperatorError:
    """Of an operator whose value or derivative is no number at the prior's mean."""
    clean = one.operator(prior.mean.expand(len(one.data), *prior.shape))
    what = "derivative" if bool(clean.isfinite().all()) else "value"
    return OperatorError(
        f"solve: the {what} of {type(one.operator).__name__} at the prior's mean must be finite, got NaN or infinity "
        "(a root or a logarithm at 0?). Guidance starts there: move the mean, write a change of variable into the "
        "operator, or take a strategy without derivatives, NoiseMCMC()."
    )


def _information_at(one: Problem, prior: Prior, point: Tensor, max_iter: int, rtol: float) -> Tensor:
    rows = len(one.data)
    mean = point.expand(rows, *prior.shape).clone()  # forward mode refuses rows that share their memory
    operator = one.operator.linearize(mean)
    one = one.gaussianised(one.operator(mean))
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, *prior.shape, generator=rng, dtype=one.signal_dtype, device="cpu").to(one.data.device)
    x = direction(x).expand(rows, *prior.shape).clone()
    value = torch.zeros(rows, dtype=torch.float64, device=x.device)
    done = torch.zeros(rows, dtype=torch.bool, device=x.device)
    for _ in range(max_iter):
        colored = prior.noise_covariance(x)
        white = one.whiten(operator(colored))
        length = inner(x, colored).double().sqrt()
        now = torch.where(length > 0, norm(white) / length, 0.0)  # data that say nothing
        found = done | ((now - value).abs() <= rtol * now)
        # A finished row keeps its value: its grid must not depend on how long the others take.
        value, done = torch.where(done, value, now), found
        # Of unit length at either end: the product of both maps leaves single precision where its root is in range.
        x = direction(operator.adjoint(one.unwhiten_adjoint(direction(white))))
        if bool(done.all()):
            break
    return value.cpu()
