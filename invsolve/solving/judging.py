"""Whether what a strategy found passes the tests of the certificate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.results.certificate import judged
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.best import ERROR, misfit
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.exact import Exact
from invsolve.strategies.smc.smc import SMC

_ASTRAY = 5.0  # median chi^2 per datum


def judged_by_its_kind(
    candidate: Candidate, found: StrategyOutput, batch: int
) -> tuple[Tensor, dict[str, Tensor], str]:
    """Which items of what a strategy found pass, the tests, and what failed, by what the strategy is."""
    if isinstance(candidate.strategy, Exact):
        return torch.ones(batch, dtype=torch.bool, device="cpu"), {}, ""
    if not candidate.tested:
        return (
            torch.zeros(batch, dtype=torch.bool, device="cpu"),
            {},
            f"{candidate.strategy.name} is an approximation that was not tested",
        )
    passed, tests, wrong = by_islands(found, batch)
    info = found.info.mapped(lambda v: v.view(-1, batch)[0].double().cpu())
    if isinstance(candidate.strategy, SMC) and found.stopped:
        nothing = torch.zeros_like(passed)
        return nothing, {ERROR: nothing.double() + math.inf}, "the particles made the rest of the way in one step"
    if isinstance(candidate.strategy, SMC) and info.log_evidence is not None:
        # Particles that all miss the data, and of which nobody knows what they are worth, are draws of nothing.
        astray = info.log_evidence.isnan() & (misfit(found, batch) > _ASTRAY)
        passed = passed & ~astray
        if bool(astray.any()):
            wrong = ", ".join(
                filter(None, (wrong, "the particles do not meet the data, and their evidence is not known"))
            )
    return passed, tests, wrong


def by_islands(found: StrategyOutput, batch: int) -> tuple[Tensor, dict[str, Tensor], str]:
    """What an ensemble says of itself: which items pass, the tests, and what failed."""
    info = found.info.mapped(lambda v: v.view(-1, batch)[0].double().cpu())
    passed, tests, wrong = judged(info)
    assert info.mean_error is not None and info.std_error is not None  # `judged` has looked at them
    return passed, tests | {ERROR: info.mean_error + info.std_error}, wrong
