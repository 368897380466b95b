"""Running one strategy on checked problems, and checking what came out: what is left of `solve` behind its border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch

from invsolve.core.random import DrawLike, Draws
from invsolve.gaussian.marginals import Marginals
from invsolve.priors.base import Prior
from invsolve.problem import Problem
from invsolve.progress import NoProgress, Progress
from invsolve.results.assembly import assemble, failed_rows
from invsolve.results.certificate import Certificate
from invsolve.results.result import Result
from invsolve.results.strategy_output import StrategyOutput
from invsolve.results.warnings import coarse, fit_warnings, thinned
from invsolve.solving.loop import DrawFactory, Over, never, unless_ended
from invsolve.solving.request import SolveRequest, equally_weighted
from invsolve.solving.validation import checked_strategy
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate

if TYPE_CHECKING:
    from invsolve.diagnostics.report import CheckReport


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class StrategySolver:
    """A prior, a strategy and how its rows are run; `Result.check` and inferred hyperparameters solve with it."""

    prior: Prior
    strategy: Strategy
    chunk: int | None = None
    reproducible: bool = False
    over: Over = never  # ends a solve, where its strategy has an answer by then

    def using(self, *, prior: Prior | None = None, strategy: Strategy | None = None) -> StrategySolver:
        """The same with another prior or strategy."""
        return replace(self, prior=prior or self.prior, strategy=strategy or self.strategy)

    def draw(
        self,
        problem: Problem,
        *,
        num_samples: int,
        seed: int,
        keys: Sequence[int] | None = None,
        draws: DrawFactory | None = None,
    ) -> Result:
        """A result for a checked ``problem``; failed rows are kept.

        ``keys``: those of the items, which are numbered unless given; ``draws`` replaces the source of random numbers.
        """
        checked_strategy(self.strategy, problem, self.prior)  # of a family not every member may do
        keys = range(len(problem.data)) if keys is None else keys
        request = SolveRequest(
            problem=problem,
            prior=self.prior,
            num_samples=num_samples,
            seed=seed,
            keys=keys,
            draws=draws or keyed(seed, keys, problem.data.device),
            chunk=self.chunk,
            reproducible=self.reproducible,
            saved=None,
            progress=NoProgress(),
        )
        with torch.no_grad():
            output = request.run(Candidate(strategy=self.strategy, why=""), over=self.over)
            return self.result(request, output, "Chosen by the caller.")

    def result(
        self,
        request: SolveRequest,
        output: StrategyOutput,
        why: str,
        warnings: tuple[str, ...] = (),
        certificate: Certificate | None = None,
        marginals: Marginals | None = None,
        name: str = "",
    ) -> Result:
        """What this solver found for a request, with the warnings that its rows deserve.

        ``name``: of what was run, where that is more than the strategy.
        """
        num_samples, batch, weights = request.num_samples, len(request.problem.data), output.log_weights
        failed = failed_rows(output.samples, weights, self.prior)
        warnings += fit_warnings(
            torch.where(failed, torch.nan, output.chi2), output.info, request.problem, stopped=output.stopped
        )
        lead = (num_samples, batch)
        warnings += coarse(output.samples.view(*lead, *output.samples.shape[1:]), failed.view(lead))
        if weights is not None:
            warnings += thinned(weights.view(num_samples, batch), failed.view(num_samples, batch))
            if not request.weighted:
                output, failed = equally_weighted(output, failed, request.draws(range(batch), [0] * batch), batch)
        return assemble(
            output,
            failed=failed,
            problem=request.problem,
            prior=self.prior,
            num_samples=num_samples,
            seed=request.seed,
            why=why,
            solver=self,
            settings={"reproducible": self.reproducible},
            warnings=warnings,
            certificate=certificate,
            marginals=marginals,
            name=name,
        )

    def check(self, result: Result, *, solves: bool | None, budget: float | None, progress: Progress) -> CheckReport:
        """See `Result.check`."""
        from invsolve.diagnostics.check_result import check_result
        from invsolve.solving.check_inferred import check_inferred

        if result.parameters:
            return check_inferred(result)
        asking = self if self.over is not never else replace(self, over=unless_ended)
        return check_result(result, asking, solves=solves, budget=budget, progress=progress)


def keyed(seed: int, keys: Sequence[int], device: torch.device) -> DrawFactory:
    """The streams of sample k of the item with key ``keys[b]``."""

    def draws(items: Sequence[int], samples: Sequence[int]) -> DrawLike:
        return Draws.for_rows(seed, [keys[b] for b in items], samples, device)

    return draws
