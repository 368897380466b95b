"""What is asked of hyperparameter inference, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, final

from torch import Tensor

from invsolve.core.ownership import replaced
from invsolve.core.random import Draws
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import invalid
from invsolve.gaussian.marginals import Marginals
from invsolve.hyperparameters.closed_form import ClosedForm
from invsolve.hyperparameters.lattice import MAX_DIMS
from invsolve.hyperparameters.unknowns import Unknowns
from invsolve.hyperparameters.verdict import Verdict
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.results.result import Result
from invsolve.results.solver import Solver
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate, candidates
from invsolve.strategies.choice.sample_size import FEWEST, MANY, default_samples
from invsolve.strategies.exact import Exact
from invsolve.strategies.guidance.mmps import MMPS

_PARTICLES = 256  # at a node, at least: fewer weighted samples do not know their evidence


@final
@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """How `solve` infers hyperparameters: scalars of noise, prior or operator that are not known.

    A lattice finds the mass by a scan of the whole prior, in cells that are halved until no peak can hide in them which
    is as curved as those that were found or as the evidence nearby (`invsolve.hyperparameters.mode_search`); what they
    could still hold is part of ``log_evidence_se``. A peak that is narrower than a tenth of ``scan`` and does not show
    at its flanks is not seen, and no error says so.

    Parameters
    ----------
    method : {"auto", "lattice", "gibbs"}
        ``"lattice"`` where the strategy gives the evidence and there are up to three scalars: `SMC`, `NoiseMCMC`, and
        `Exact`, of any size where prior and operator share their modes (a periodic blur and a field of
        ``basis="periodic"``), else up to the sizes it factorises (for a symmetric blur 96 x 96); ``"gibbs"`` with any
        strategy; ``"auto"``: the lattice where it can be.
    spacing : float, optional
        Of the lattice, in posterior standard deviations, at most 1 (0.15, 0.35, 0.7 for one, two, three scalars unless
        given, 0.4, 0.6, 0.7 with ensembles). The evidence is computed at every node, about ``12 / spacing`` of them for
        one scalar.
    scan : float, optional
        The widest cells of the scan, in prior standard deviations, at most 4 (0.25, 0.5, 1 for one, two, three scalars
        unless given, twice that with ensembles; about ``(8 / scan)^scalars`` nodes): a smaller one where the evidence
        may have narrow peaks, as of a frequency or a shift.
    num_sweeps : int, optional
        Of Gibbs: how often the scalars of a chain are drawn; the signal is drawn once more than that. Unless given, ten
        and half as many again until split R-hat over the chains is at most 1.05, within the budget; without one, up to
        about a minute's work, counted in evaluations and not by the clock. ``result.certificate`` says what R-hat was
        reached.

    Raises
    ------
    InputError, InputTypeError
        For an option outside of its range.
    """

    method: Literal["auto", "lattice", "gibbs"] = "auto"
    spacing: float | None = None
    scan: float | None = None
    num_sweeps: int | None = None

    def __post_init__(self) -> None:
        check_choice("Hierarchy", "method", self.method, ("auto", "lattice", "gibbs"))
        if self.spacing is not None and check_positive("Hierarchy", "spacing", self.spacing) > 1:
            raise invalid("Hierarchy", "spacing", "at most 1 posterior standard deviation", self.spacing)
        if self.scan is not None and check_positive("Hierarchy", "scan", self.scan) > 4:
            raise invalid("Hierarchy", "scan", "at most 4 prior standard deviations", self.scan)
        if self.num_sweeps is not None:
            check_int("Hierarchy", "num_sweeps", self.num_sweeps, minimum=1)


def _never(calls: int) -> bool:
    """What there is no budget for is never over."""
    return False


@dataclass(frozen=True, kw_only=True, eq=False)
class HyperparameterRequest:
    """A solve with scalars that are not known. Row r of the result is sample ``r // batch`` of item ``r % batch``."""

    unknowns: Unknowns
    solver: Solver  # of the signal, given the scalars
    why: str
    hierarchy: Hierarchy
    num_samples: int
    seed: int
    keys: Sequence[int]  # of the items
    warnings: tuple[str, ...] = ()  # of the model at the medians
    # Whether so many calls are more than the budget: what was not begun is then left out.
    over_after: Callable[[int], bool] = _never
    over: Callable[[], bool] = lambda: False  # the same of the calls so far
    calls: Callable[[], int] = lambda: 0  # so far, of operator and denoiser

    @cached_property
    def closed_form(self) -> ClosedForm:
        """The evidence that comes for nothing, where it does; what was decomposed is kept."""
        return ClosedForm(self.unknowns)

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.over_after is not _never

    @property
    def strategy(self) -> Strategy:
        """The strategy for the signal, given the scalars."""
        return self.solver.strategy

    @property
    def batch(self) -> int:
        """Items of the data."""
        return len(self.keys)

    @property
    def rows(self) -> int:
        """Rows of the result."""
        return self.num_samples * self.batch

    def draws(self, rows: Sequence[int], purpose: str) -> Draws:
        """The keyed streams of these rows of the result."""
        items, samples = [self.keys[r % self.batch] for r in rows], [r // self.batch for r in rows]
        return Draws.for_rows(self.seed, items, samples, self.unknowns.problem.data.device, purpose=purpose)

    def solve(self, problem: Problem, prior: Prior, items: Sequence[int]) -> Result:
        """Samples of these ``items`` with everything known, as many as an evidence takes; failures are kept."""
        keys = [self.keys[b] for b in items]
        count = max(self.num_samples, _PARTICLES) if self.strategy.weighs else self.num_samples
        return self._draw(problem, prior, num_samples=count, keys=keys)

    def sample_rows(self, problem: Problem, prior: Prior, rows: Sequence[int], purpose: str) -> Result:
        """One signal for each row of ``problem``, keyed as ``rows`` of the result: ``samples`` (1, rows, ...)."""

        def draws(items: Sequence[int], samples: Sequence[int]) -> Draws:
            return self.draws([rows[i] for i in items], purpose)

        # Every row is an item here; its key says at which place of a tile it runs (`solving.rows`): that of its sample.
        keys = [self.keys[r % self.batch] + r // self.batch for r in rows]
        return self._draw(problem, prior, num_samples=1, keys=keys, draws=draws)

    def _draw(self, problem: Problem, prior: Prior, **options: Any) -> Result:
        copy = replaced(problem)  # which has a batch axis
        result: Result = self.solver.using(prior=prior).draw(copy, seed=self.seed, **options)
        return result


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class HyperparameterDraws:
    """Rows of the result: signals, their scalars, and what the solves that drew them said."""

    samples: Tensor  # (rows, *shape)
    theta: Tensor  # (rows, p) float64
    chi2: Tensor  # (rows,)
    info: dict[str, Tensor]  # (rows,) each
    how: str  # a clause for `why`
    chunk: int  # rows that were run at once
    verdict: Verdict
    warnings: tuple[str, ...] = ()
    marginals: Mapping[str, Marginals] = field(default_factory=dict)  # of the scalars, where they are known


def choose(problem: Problem, prior: Prior, hierarchy: Hierarchy, scalars: int) -> tuple[Strategy, str]:
    """The strategy of ``"auto"`` with so many unknown scalars, by the problem and prior at their medians, and why."""
    exact, guided = Exact(), MMPS()
    if not (lacking := exact.missing(problem, prior)):
        return exact, "Given the scalars there is a closed form."
    ensemble = candidates(problem, prior, 1)[0].strategy
    alone = hierarchy.method == "gibbs" or scalars > MAX_DIMS
    if alone and ensemble.weighs and not guided.missing(problem, prior):
        return guided, f"No closed form ({lacking}) and one signal at a time, so moment-matching guidance."
    if ensemble.gives_evidence:
        return ensemble, f"Given the scalars there is no closed form ({lacking}), so ensembles that give evidence."
    return guided, f"No closed form ({lacking}) and too large for ensembles, so moment-matching guidance."


def default_number(problem: Problem, prior: Prior, strategy: Strategy, hierarchy: Hierarchy, scalars: int) -> int:
    """How many samples an item gets where the caller does not say: as few as there can be where each is a chain."""
    chains = hierarchy.method == "gibbs" or scalars > MAX_DIMS or not problem.shared
    most = default_samples(problem, prior, [Candidate(strategy=strategy, why="")])
    return FEWEST if chains else min(most, MANY)  # of an ensemble at every node
