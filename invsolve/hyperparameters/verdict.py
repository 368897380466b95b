"""What was tested of inferred scalars, and what of it was not reached: what their certificate is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.hyperparameters.lattice import Lattice
from invsolve.hyperparameters.mixing import RHAT, mixing
from invsolve.results.certificate import (
    EVIDENCE,
    ISLAND_ERROR,
    ISLANDS,
    MEAN_ERROR,
    MEAN_TEST,
    POWER,
    STD_ERROR,
    STD_TEST,
    Attempt,
    Certificate,
    beyond,
)
from invsolve.strategies.base import Strategy
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.exact import Exact

LATTICE = "error of the integral over the scalars (nats)"
HIDDEN = "mass that a scan could not rule out, relative to what was found"
RHAT_TEST = "split R-hat of the scalars"
ESS = "effective sample size of the scalars, over sweeps"
_HIDDEN = 0.05
_FEW_CHAINS = 4  # that say nothing of how well scalars mix


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """Of every item ``(batch,)``: whether it passed, and a bound of its errors; tests, and what is missing."""

    passed: Tensor
    error: Tensor  # posterior stds, two standard errors: of the means of the scalars and, relative, of their stds
    tests: Mapping[str, float]
    missing: str
    exact: bool = False
    looked: str = ""

    def certificate(
        self, strategy: Strategy, *, batched: bool, seconds: float, evaluations: int, how: str
    ) -> Certificate:
        """With what was run."""
        passed, error = (v if batched else v[0] for v in (self.passed, self.error))
        reached = bool(self.passed.all())
        attempt = Attempt(
            strategy=strategy.name,
            items=len(self.passed),
            reached=int(self.passed.sum()),
            seconds=seconds,
            evaluations=evaluations,
            text=how.rstrip("."),
        )
        return Certificate(
            reached=reached,
            passed=passed,
            exact=self.exact and reached,
            mean_error=error,
            std_error=error,
            tests=self.tests,
            attempts=(attempt,),
            missing="" if reached else self.missing,
            looked=self.looked,
        )


def of_lattices(lattices: Sequence[Lattice], errors: Tensor, info: Mapping[str, Tensor], strategy: Strategy) -> Verdict:
    """By the ``errors`` (batch,) of the integrals over lattices, and what ensembles said of the rows that were drawn.

    Weights of nodes that are off by factors exp(+- e) move means by at most e posterior stds, and stds by e of
    themselves.
    """
    exact = isinstance(strategy, Exact)
    hidden = torch.tensor([lattice.hidden for lattice in lattices], dtype=torch.float64, device="cpu")
    error = (1.0 if exact else 2.0) * errors.nan_to_num(nan=math.inf)
    tests = {LATTICE: float(errors.nan_to_num(nan=math.inf).max()), HIDDEN: float(hidden.max())}
    good = (error <= MEAN_ERROR) & (hidden <= _HIDDEN)
    wrong = []
    asked = f"(asked: {MEAN_ERROR if exact else MEAN_ERROR / 2:g})"
    if not bool((error <= MEAN_ERROR).all()) and not math.isinf(tests[HIDDEN]):
        known = "not known" if math.isinf(tests[LATTICE]) else f"{tests[LATTICE]:.2g}"
        wrong.append(f"{LATTICE} {known} {asked}")
    if not bool((hidden <= _HIDDEN).all()):
        wrong.append(
            "the budget ended before the scalars were located: give a larger one, or narrower distributions"
            if math.isinf(tests[HIDDEN])
            else f"{HIDDEN} {beyond(tests[HIDDEN], _HIDDEN)} (asked: {_HIDDEN:g})"
        )
    if not exact:
        told = Diagnostics.from_mapping(info)
        for name, value, limit in (
            (MEAN_TEST, told.mean_error, MEAN_ERROR / 2),
            (STD_TEST, told.std_error, STD_ERROR / 2),
            (ISLANDS, told.island_error, ISLAND_ERROR),
        ):
            if value is None:
                good = good & False
                wrong.append(f"{strategy.name} says nothing of the {name} of the signals given the scalars")
                continue
            factor, worst = 2 if name != ISLANDS else 1, float(value.nan_to_num(math.inf).max())
            tests[name] = factor * worst
            if not worst <= limit:
                good = good & False
                found, asked = beyond(factor * worst, factor * limit), f"(asked: {factor * limit:g})"
                wrong.append(f"{name} {found}, of the signals given the scalars {asked}")
        if told.beta is not None:
            tests[POWER] = float(told.beta.min())
            if not tests[POWER] >= 1:
                good = good & False
                wrong.append(f"{POWER} {tests[POWER]:.2g}")
    tests[EVIDENCE] = tests[LATTICE]
    looked = "a peak of the evidence that is narrower than a tenth of the scan is not seen"
    return Verdict(passed=good, error=error, tests=tests, missing="; ".join(wrong), exact=exact, looked=looked)


def of_chains(trace: Sequence[Tensor], batch: int, slow: Sequence[str], strategy: Strategy) -> Verdict:
    """By the scalars ``(rows, p)`` after every sweep; ``slow``: warnings of such that have not forgotten their start.

    The mean of 2 n half chains that still differ by more than they would by chance is known to that over sqrt(2 n).
    """
    rhat, ess = (v.nan_to_num(nan=w) for v, w in zip(mixing(trace, batch), (math.inf, 0.0), strict=True))
    worst, chains = rhat.amax(1), len(trace[-1]) // batch
    error = 2 * ((1 - worst.clamp_min(1.0) ** -2) / (2 * chains)).sqrt()
    tests = {RHAT_TEST: float(worst.max()), ESS: float(ess.min())}
    sweeps = f"{len(trace)} sweep{'s' if len(trace) > 1 else ''}"
    good, wrong = worst <= RHAT, []
    if not bool(good.all()):
        wrong.append(
            f"{RHAT_TEST} {beyond(tests[RHAT_TEST], RHAT)} after {sweeps} (asked: {RHAT:g}): give a larger budget"
        )
    if not bool((error <= MEAN_ERROR).all()) or chains < _FEW_CHAINS:
        good = good & (error <= MEAN_ERROR) & (chains >= _FEW_CHAINS)
        known = f"mean of the scalars known to {float(error.max()):.2g} posterior std" if chains > 1 else "one chain"
        wrong.append(f"{known} from {chains} chain{'s' if chains > 1 else ''}: raise num_samples")
    if slow:
        good = good & False
        wrong.append(f"scalars that move slowly after {sweeps}")
    if isinstance(strategy, Exact) and wrong:
        wrong.append(
            "where blur and field are alike at the edge (boundary='periodic' and basis='periodic') scalars have a "
            "closed form at any size"
        )
    if not isinstance(strategy, Exact):
        good = good & False
        wrong.append(f"{strategy.name} is an approximation, and what it changes in the scalars was not tested")
    return Verdict(
        passed=good,
        error=error,
        tests=tests,
        missing="; ".join(wrong),
        looked="every sample is a chain of its own, and a mode that none of them met is not seen",
    )
