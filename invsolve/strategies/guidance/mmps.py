"""Moment matching (MMPS): the exact score for Gaussian priors and linear operators, a good proposal elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.conjugate_gradients import conjugate_gradients, default_rtol, expand
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.systems import DENSE_SIZE, DenseSystem, IterativeSystem, System, Update, make_system, taken
from invsolve.noise import Gaussian
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasLaw, IsGaussian, Learned
from invsolve.problem import Problem
from invsolve.samplers import Sampler
from invsolve.strategies.base import Info, needs_derivative
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.guidance.gauss_newton import gauss_newton
from invsolve.strategies.guidance.guided import BoundGuidance, Guidance, Guided
from invsolve.strategies.guidance.head_start import HeadStart
from invsolve.strategies.guidance.preset import Preset, guided
from invsolve.strategies.guidance.sketched_law import sketched_law
from invsolve.strategies.noise_levels import PerRow, noise_levels

_DROWNED = 2.0  # noise, in rms of the signal, above which a learned prior's stated Gaussian replaces its Jacobian
_LARGE = 2**20  # entries of a dense system from which on its factors, of every level, are kept: 8 MiB
_KNOWN = 5.0  # times the lowest level, half a posterior std of what is known best: below it the Gaussian will do, too
_ROUGH_ITER = 12  # products with the operator in a solve with the Gaussian: the walk forgets what is left
_TRUSTED = 3  # products with the Jacobian of a network that are taken whatever it is
_PAID = 2  # products with it where the stated Gaussian answers for what they leave
_LEARNED_RTOL = 1e-2


@final
@dataclass(frozen=True, kw_only=True)
class MomentMatching(Guidance):
    """Guidance ``D_y = D + V A^H (A V A^H + G)^-1 (y - A D)`` with the Tweedie covariance ``V = t^2 C J^H``.

    Parameters
    ----------
    covariance : {"auto", "law", "jacobian"}
        "jacobian": V by vector-Jacobian products of the denoiser. "law": V from the prior's stated Gaussian
        distribution, no derivative of the prior at all. "auto" (the default): the stated distribution where the prior
        is that distribution; for learned priors that state one, two products with the Jacobian, and the stated
        distribution for what they leave of the residual, or for all of it at levels above twice the rms of the signal,
        where the noise drowns what is not Gaussian, and below half of the smallest posterior std; of others that state
        one, the stated one where products would differentiate a network; else the Jacobian, from a first guess
        under the covariance that a small prior's denoiser has in much noise.
    rtol : float, optional
        Relative residual to which conjugate gradients solve, > 0: `core.conjugate_gradients.default_rtol` unless given,
        1e-2 with Jacobians of networks. 1e-3 saves up to half of the products, and rows then agree between batches to
        that.
    max_iter : int
        Products with V at most, at least 1; 100 unless given. With a stated distribution at most four times as many
        products with the operator. Learned priors that state one take two, and 12 with the operator.
    iterations : int
        Gauss-Newton iterations at every level, at least 1, for operators that are not linear and noise that is not
        Gaussian: 1 (the default) is one full step from D; more are damped, and need the stated distribution.

    Raises
    ------
    InputError
        If ``covariance`` is not one of the three, ``rtol`` not positive, or ``max_iter`` or ``iterations`` below 1.

    Notes
    -----
    A non-linear operator is linearised at D in every step (Gauss-Newton), and noise that is not Gaussian is replaced by
    the Gaussian of the same gradient and Fisher information there (`Problem.gaussianised`). With more ``iterations``
    both are done again where the last one ended (the iterated extended Kalman update), and the step is shortened, to
    1/128 at the least, until it makes the signal more probable under N(D, V) and the data; else it is left out. That
    costs as many linear solves, and is for operators that bend within the spread of the posterior.

    Jacobians of networks are not symmetric: with them products beyond the third are taken only where conjugate
    gradients have behaved as for a symmetric matrix until then. The info "cg_residual" is the relative residual of each
    row.

    References
    ----------
    Rozet, Andry, Lanusse & Louppe 2024, Learning Diffusion Priors from Observations by Expectation Maximization,
    arXiv 2405.13712.
    """

    name: ClassVar[str] = "MMPS"

    covariance: Literal["auto", "law", "jacobian"] = "auto"
    rtol: float | None = None
    max_iter: int = 100
    iterations: int = 1

    def __post_init__(self) -> None:
        check_int("MMPS", "iterations", self.iterations, minimum=1)
        check_choice("MMPS", "covariance", self.covariance, ("auto", "law", "jacobian"))
        if self.rtol is not None:
            check_positive("MMPS", "rtol", self.rtol)
        check_int("MMPS", "max_iter", self.max_iter, minimum=1)

    def missing(self, problem: Problem, prior: Prior) -> str:
        if (self.covariance == "law" or self._iterates(problem)) and not isinstance(prior, HasLaw):
            return f"a prior that states its covariance ({type(prior).__name__} has law=None)"
        return needs_derivative(problem)

    def starts_ahead(self, problem: Problem, prior: Prior) -> bool:
        return self.covariance != "jacobian" and HeadStart.possible(problem, prior)

    def _iterates(self, problem: Problem) -> bool:
        return self.iterations > 1 and not (problem.linear and isinstance(problem.noise, Gaussian))

    def bind(self, problem: Problem, prior: Prior) -> BoundGuidance:
        if self._iterates(problem):
            assert isinstance(prior, HasLaw)
            tolerance = self.rtol or default_rtol(problem.data.dtype)
            law = self._under(prior.law, problem, prior, tolerance)
            return replace(law, iterations=self.iterations)
        bent = isinstance(prior, Learned) and self.covariance != "law"
        tolerance = self.rtol or (_LEARNED_RTOL if bent else default_rtol(problem.data.dtype))
        jacobian = _JacobianBound(problem=problem, prior=prior, tolerance=tolerance, max_iter=self.max_iter)
        # A Jacobian in closed form knows more than a law that is not exact.
        better = prior.cheap_pullback and not isinstance(prior, IsGaussian)
        if self.covariance == "auto" and (sketch := sketched_law(prior)) is not None:
            return replace(jacobian, guess=self._under(sketch, problem, prior, tolerance))
        if self.covariance == "jacobian" or (self.covariance == "auto" and better) or not isinstance(prior, HasLaw):
            return jacobian
        both = self.covariance == "auto" and isinstance(prior, Learned) and not isinstance(prior, IsGaussian)
        law = self._under(prior.law, problem, prior, tolerance, rough=both)
        if not both:
            return law
        above = _DROWNED * prior.law.variances.mean().sqrt()
        low = torch.as_tensor(noise_levels(problem, prior)[1], dtype=above.dtype, device=above.device)
        jacobian = replace(jacobian, max_iter=min(self.max_iter, _PAID), rest=law)
        return _BothBound(law=law, jacobian=jacobian, above=float(above), below=PerRow.of(problem, _KNOWN * low))

    def _under(
        self, law: GaussianLaw, problem: Problem, prior: Prior, tolerance: float, rough: bool = False
    ) -> _LawBound:
        max_iter = _ROUGH_ITER if rough else 4 * self.max_iter
        fixed = problem.linear and isinstance(problem.noise, Gaussian)
        system = make_system(problem, law, tol=tolerance, max_iter=max_iter, rough=rough) if fixed else None
        return _LawBound(problem=problem, prior=prior, law=law, tolerance=tolerance, max_iter=max_iter, system=system)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _LawBound:
    problem: Problem
    prior: Prior
    law: GaussianLaw
    tolerance: float
    max_iter: int
    system: System | None  # None: the operator is linearised, or the noise made Gaussian, at every step
    iterations: int = 1  # of Gauss-Newton
    kept: dict[float, Update] = field(default_factory=dict)  # by level

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        value = self.prior.denoise(x, t)
        if self.iterations > 1:
            variances = self.law.posterior_variances(self._level(t))
            tol, most = self.tolerance, self.max_iter
            value = gauss_newton(
                self.problem, self.law.modes, value, variances, self.iterations, tol=tol, max_iter=most
            )
            return value, {}
        clean = self.problem.operator(value)
        problem = self.problem.gaussianised(clean)
        return value + self.answer(problem.whiten(problem.data - clean), t, value, problem), {}

    def answer(self, white: Tensor, t: float | Tensor, value: Tensor, problem: Problem) -> Tensor:
        """What a whitened residual ``white`` at ``value`` adds to it; ``problem`` has the noise as it is there."""
        law, system, t = self.law, self.system, self._level(t)
        if system is None:
            system = IterativeSystem(
                problem=problem,
                operator=problem.operator.linearize(value),
                modes=law.modes,
                tol=self.tolerance,
                max_iter=self.max_iter,
                level=torch.zeros((), dtype=law.variances.dtype, device=law.variances.device),
            )
        return law.modes.synthesis(self._update(system, t)(white))

    def _update(self, system: System, t: float | Tensor) -> Update:
        """What the data say at a level; of a large dense system it is kept for the chunks of rows that come after."""
        law = self.law
        if not isinstance(t, float) or not isinstance(system, DenseSystem) or system.matrix.numel() < _LARGE:
            return system.factor(law.posterior_variances(t))
        if (found := self.kept.get(t)) is None:
            found = system.factor(law.posterior_variances(t), light=True)
            if (len(self.kept) + 1) * min(system.matrix.shape) ** 2 <= DENSE_SIZE:
                self.kept[t] = found
        return found

    def _level(self, t: float | Tensor) -> float | Tensor:
        """Levels of rows, with the axes of modes."""
        return t.view(-1, *([1] * len(self.law.modes.mode_shape))) if isinstance(t, Tensor) and t.ndim else t

    def take(self, index: Tensor) -> Self:
        system = None if self.system is None else taken(self.system, index)
        return replace(self, problem=self.problem.take(index), system=system)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _JacobianBound:
    problem: Problem
    prior: Prior
    tolerance: float
    max_iter: int
    rest: _LawBound | None = None  # answers for what the products leave of the residual
    guess: _LawBound | None = None  # where the iteration starts: one product tells whether that was the solution

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        prior = self.prior
        value, pull = prior.pullback(x, t)
        clean = self.problem.operator(value)
        problem = self.problem.gaussianised(clean)
        operator = problem.operator.linearize(value)

        def tweedie(w: Tensor) -> Tensor:  # V A^H G^-H/2 w
            return (t * t) * prior.noise_covariance(pull(operator.adjoint(problem.unwhiten_adjoint(w))))

        def product(w: Tensor) -> tuple[Tensor, Tensor]:
            seen = tweedie(w)
            return w + problem.whiten(operator(seen)), seen

        white = problem.whiten(problem.data - clean)
        start = None
        if self.guess is not None:
            start = white - problem.whiten(operator(self.guess.answer(white, t, value, problem)))
        w, info = conjugate_gradients(
            product,
            white,
            start=start,
            rtol=self.tolerance,
            max_iter=self.max_iter,
            trusted=_TRUSTED if isinstance(prior, Learned) else None,
            # Of I + G^-1/2 A V A^H G^-1/2 it is 1, but for rounding; the V of a network may give less.
            least=0.99 if isinstance(prior, Learned) else 0.0,
            check_every=None if prior.cheap_pullback else 1,  # a product with a network costs more than a look
        )
        step = tweedie(w) if info.image is None else info.image  # a product with a network saved in every step
        if self.rest is None:
            return value + step, Diagnostics(residuals={"cg_residual": info.residual})
        left = white - w - problem.whiten(operator(step))
        return value + step + self.rest.answer(left, t, value, problem), {}

    def take(self, index: Tensor) -> Self:
        rest, guess = (None if bound is None else bound.take(index) for bound in (self.rest, self.guess))
        return replace(self, problem=self.problem.take(index), rest=rest, guess=guess)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _BothBound:
    """The Jacobian at the levels where it pays, the stated Gaussian alone at the others."""

    law: _LawBound
    jacobian: _JacobianBound
    above: float  # the level from which on the noise drowns what is not Gaussian
    below: PerRow  # the level below which the data say little more than the noisy signal

    def __call__(self, x: Tensor, t: float | Tensor) -> tuple[Tensor, Info]:
        if not isinstance(t, Tensor) and t > self.above:  # one level for all: nothing to read back from a device
            return self.law(x, t)
        level = torch.as_tensor(t, dtype=self.below.values.dtype, device=x.device).flatten().expand(len(x))
        alone = (level > self.above) | (level < self.below.values)
        count = int(alone.sum())
        if count == len(x):
            return self.law(x, t)
        value, info = self.jacobian(x, t)
        if count:  # items have levels of their own, and a row must not depend on others
            value = torch.where(expand(alone, value), self.law(x, t)[0], value)
        return value, info

    def take(self, index: Tensor) -> Self:
        return replace(self, law=self.law.take(index), jacobian=self.jacobian.take(index), below=self.below.take(index))


@final
class MMPS(Guided, metaclass=Preset):
    """Moment-matching posterior sampling: `MomentMatching` with a second-order stochastic sampler.

    Unless given 50 steps, each of one evaluation and its products with the Jacobian; 16 with learned priors that state
    their distribution, linear data and Gaussian noise.

    Parameters
    ----------
    covariance, rtol, max_iter, iterations : optional
        Of `MomentMatching`.
    sampler : Sampler, optional
        How a step goes from one level to the next; `iv.samplers.SDEDPMSolver2M` unless given.
    num_steps, grid : optional
        Of `Guided`; 50 steps unless given.

    Returns
    -------
    Guided
        ``Guided(guidance=MomentMatching(...), sampler=...)``.

    Raises
    ------
    InputError
        As `MomentMatching` and `Guided`.

    References
    ----------
    Rozet, Andry, Lanusse & Louppe 2024, Learning Diffusion Priors from Observations by Expectation Maximization,
    arXiv 2405.13712.
    """

    guidance_type = MomentMatching

    def __new__(  # type: ignore[misc]  # see `Preset`
        cls,
        *,
        covariance: Literal["auto", "law", "jacobian"] = "auto",
        rtol: float | None = None,
        max_iter: int = 100,
        iterations: int = 1,
        sampler: Sampler | None = None,
        num_steps: int | None = None,
        grid: Tensor | None = None,
    ) -> Guided:
        guidance = MomentMatching(covariance=covariance, rtol=rtol, max_iter=max_iter, iterations=iterations)
        return guided(guidance, sampler, num_steps, grid)
