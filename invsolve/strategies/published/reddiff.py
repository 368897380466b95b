"""RED-diff: an optimiser on the signal, with the denoiser's error as the gradient of the prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import expand
from invsolve.core.validation import check_choice, check_positive
from invsolve.noise import Gaussian
from invsolve.operators.base import LinearOperator
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.samplers import vp_grid
from invsolve.samplers.base import Level
from invsolve.strategies.base import Info, Run, needs_derivative
from invsolve.strategies.noise_levels import first_signals
from invsolve.strategies.published.annealed import OnLevels, WalkBound, check_optional, root
from invsolve.strategies.published.likelihood_step import likelihood_gradient
from invsolve.strategies.published.proximal import DataStep

_BETAS, _EPS = (0.9, 0.99), 1e-8  # of Adam
_RATE = 0.05  # in stds of an entry
Weight = Literal["score", "linear", "sqrt", "square", "log", "trunc", "const"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class REDDiffState:
    """Adam's iterate and its moments."""

    x: Tensor  # (rows, *shape): mu
    first: Tensor  # moments of the gradient
    second: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class REDDiff(OnLevels[REDDiffState, None]):
    """An optimiser on the signal, with the denoiser's error as the gradient of the prior.

    Adam on ``mu``, one step a level t from high to low: gradient of the misfit plus ``lam w(t) (e_hat - e)``, with
    ``x = mu + t e`` and ``e_hat = (x - D(x, t)) / t``.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 500 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    loss : {"likelihood", "published"}
        "likelihood" (ours): the misfit is -log p(y | A mu). With its ``weight="score"``, w = 1/t, and lam = 1 the mean
        of the second term is ``(C + t^2)^-1 (mu - m)`` for a Gaussian prior: as t falls, mu goes to the posterior mode.
        It is taken at e and at -e, and the rate falls to 0 as a cosine. "published": half the mean square residual over
        the m data, ``lam w`` divided by the n entries, in units of ``unit``; no noise level appears.
    weight : {"score", "linear", "sqrt", "square", "log", "trunc", "const"}, optional
        w: 1/t (the default of our loss), t (of the published one), its root, its square, log(1 + t), min(t, 1), 1.
    lam : float
        Weight of the prior, > 0; 1 unless given.
    learning_rate : float, optional
        In the units of the signal, > 0; by default 0.05 stds of an entry.
    unit : float, optional
        The std of an entry that the paper has as 1; by default the prior's root mean variance.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    An estimate, not a sample: runs differ by the optimiser's noise only. Starts (published) from ``A^+ y``, or from the
    data's answer to a white prior of that std; from a draw of the prior's stated distribution where the operator is not
    linear. One evaluation (ours: two) and one gradient of the misfit a step, no derivative of the denoiser.

    References
    ----------
    Mardani, Song, Kautz & Vahdat 2023, A Variational Perspective on Solving Inverse Problems with Diffusion Models,
    arXiv 2305.04391.
    """

    note: ClassVar[str] = "An optimiser: the spread of its answers is not that of the posterior."
    num_steps: int = 500
    loss: Literal["likelihood", "published"] = "likelihood"
    weight: Weight | None = None
    lam: float = 1.0
    learning_rate: float | None = None
    unit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("REDDiff", "loss", self.loss, ("likelihood", "published"))
        names = ("score", "linear", "sqrt", "square", "log", "trunc", "const")
        if self.weight is None:
            object.__setattr__(self, "weight", "score" if self.loss == "likelihood" else "linear")
        check_choice("REDDiff", "weight", self.weight, names)
        check_positive("REDDiff", "lam", self.lam)
        for name in ("learning_rate", "unit"):
            check_optional("REDDiff", name, getattr(self, name))

    @classmethod
    def published(cls, *, unit: float = 1.0) -> Self:
        """The authors' configuration: learning rate 0.1, lam 0.25, weight t, 1000 variance-preserving levels.

        Parameters
        ----------
        unit : float
            The std of an entry of the signal, which levels and rate are in units of.
        """
        return cls(
            loss="published", weight="linear", lam=0.25, learning_rate=0.1 * unit, unit=unit, grid=unit * vp_grid(1000)
        )

    def missing(self, problem: Problem, prior: Prior) -> str:
        if self.loss == "published" and not isinstance(problem.noise, Gaussian):
            return "Gaussian noise, or loss='likelihood'"
        if self.loss == "published" and not prior.white_noise:
            return "white diffusion noise, or loss='likelihood'"
        return needs_derivative(problem)

    def init(self, run: Run[WalkBound[None]]) -> REDDiffState:
        A, y, prior = run.problem.operator, run.problem.data, run.prior
        x = prior.mean.expand(run.rows, *prior.shape).clone()
        if not isinstance(A, LinearOperator):  # the mean may be a stationary point, as zero is of moduli
            x = first_signals(run, torch.zeros((), dtype=torch.float64, device="cpu"))
        elif self.loss == "published":
            x = x + A.pinv(y - A(x))
        else:
            x = DataStep.from_problem(run.problem, prior).mean(x, run.bound.unit**2)
        return REDDiffState(x=x, first=torch.zeros_like(x), second=torch.zeros_like(x))

    def step(self, run: Run[WalkBound[None]], state: REDDiffState, i: int) -> tuple[REDDiffState, Info]:
        bound = run.bound
        scale = bound.unit * bound.noise
        grad = _real(self._gradient(run, state.x, bound.level(i, state.x), i))
        first = torch.lerp(grad, _real(state.first), _BETAS[0])
        second = torch.lerp(grad.square(), _real(state.second), _BETAS[1])
        size = (second / (1 - _BETAS[1] ** (i + 1))).sqrt() + _EPS / scale
        rate = self.learning_rate or _RATE * scale
        if self.loss == "likelihood":
            rate *= 0.5 * (1 + math.cos(math.pi * i / self.num_steps))
        x = _real(state.x) - rate / (1 - _BETAS[0] ** (i + 1)) * first / size
        return REDDiffState(**{k: _as(v, state.x) for k, v in {"x": x, "first": first, "second": second}.items()}), {}

    def _gradient(self, run: Run[WalkBound[None]], x: Tensor, t: Level, i: int) -> Tensor:
        prior, problem = run.prior, run.problem
        unit = self.unit or run.bound.unit
        e = run.noise(i)
        if self.loss == "likelihood":
            # (e_hat - e) / t is (C + t^2)^-1 (mu - m) plus noise of size 1/t, which drowns it; e and -e cancel that.
            force = (x - (prior.denoise(x + t * e, t) + prior.denoise(x - t * e, t)) / 2) / t
        else:
            force = (x - prior.denoise(x + t * e, t)) / t
        assert self.weight is not None
        pull = self.lam * _WEIGHTS[self.weight](t / unit) / unit * force
        if self.loss == "likelihood":
            return prior.noise_covariance(likelihood_gradient(problem, x)) + pull
        clean, back = problem.operator.vjp(x)
        rest = clean - problem.data
        observed = problem.operator.observed
        rest = rest if observed is None else rest * observed
        numbers = problem.num_data.clamp_min(1)
        share = expand(numbers.to(x.real.dtype), x) / (prod(x.shape[1:]) * (2 if x.is_complex() else 1))
        return back(rest) / unit**2 + share * pull  # both times the number of data: Adam sees no common factor


_WEIGHTS: dict[str, Callable[[Level], Level]] = {
    "score": lambda t: 1 / t,
    "linear": lambda t: t,
    "sqrt": root,
    "square": lambda t: t * t,
    "log": lambda t: torch.log1p(t) if isinstance(t, Tensor) else math.log1p(t),
    "trunc": lambda t: t.clamp_max(1.0) if isinstance(t, Tensor) else min(t, 1.0),
    "const": lambda t: 1.0,
}


def _real(x: Tensor) -> Tensor:
    """Adam works on real numbers: parts of complex ones."""
    return torch.view_as_real(x) if x.is_complex() else x


def _as(x: Tensor, like: Tensor) -> Tensor:
    return torch.view_as_complex(x.contiguous()) if like.is_complex() else x
