"""From what a strategy found to a `Result`: the one place that decides which rows failed, and that makes results."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from invsolve.gaussian.marginals import Marginals, Moments
from invsolve.priors.base import Prior
from invsolve.problem import Problem, data_fingerprint
from invsolve.results.certificate import Certificate
from invsolve.results.repeats import counted_once
from invsolve.results.result import Result
from invsolve.results.solver import Solver
from invsolve.results.status import Status, blanked
from invsolve.results.strategy_output import StrategyOutput

_RUNAWAY = 1e6  # scales of the prior from its mean


def failed_rows(samples: Tensor, log_weights: Tensor | None, prior: Prior) -> Tensor:
    """Which rows ``(rows,)`` are no samples: not finite, without a weight, or run away from the prior.

    A walk that ran away is a failed row before it overflows: nothing the prior allows is a million scales from its
    mean.
    """
    failed = ~torch.isfinite(samples).flatten(1).all(1)
    if log_weights is not None:  # NaN and +inf are no weights; -inf is a weight of zero
        failed |= log_weights.isnan() | (log_weights == torch.inf)
    unit = prior.noise(torch.ones(1, *prior.shape, dtype=samples.dtype, device=samples.device)).abs()
    return failed | ((samples - prior.mean).abs() > _RUNAWAY * prior.scale * unit.amax()).flatten(1).any(1)


def assemble(
    output: StrategyOutput,
    *,
    failed: Tensor,
    problem: Problem,
    prior: Prior,
    num_samples: int,
    seed: int,
    why: str,
    solver: Solver,
    name: str = "",
    settings: Mapping[str, Any],
    warnings: tuple[str, ...] = (),
    certificate: Certificate | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    marginals: Marginals | None = None,
    parameter_marginals: Mapping[str, Marginals] | None = None,
) -> Result:
    """The result of ``num_samples`` rows for every item of ``problem``, of which some ``(rows,)`` ``failed``.

    ``name``: of what was run, where that is more than the solver's strategy. ``settings`` are those of the run; what
    problem and prior say of themselves is added. ``parameters``: scalars inferred with the signal, (rows,) each.
    ``marginals``, ``parameter_marginals``: of the items in closed form, which are left out where all rows of an item
    failed. That a certificate was not reached is a warning.
    """
    lead = (num_samples, len(problem.data)) if problem.batched else (num_samples,)
    weights = output.log_weights
    nothing = bool(failed.view(lead).all(0).any())

    info = output.info
    if solver.strategy.couples != "nothing" or info.ess is not None:  # rows were picked, and some more than once
        info = counted_once(info, output.samples, _shares(weights, failed, num_samples), prior.mean)

    def told(known: Marginals) -> Marginals:
        return known if problem.batched else known.only_item()

    if marginals is not None:
        marginals = None if nothing else told(marginals)
    if certificate is not None and not certificate.reached:
        warnings = (certificate.sentence, *warnings)
    scalars = {} if nothing else {name: told(known) for name, known in (parameter_marginals or {}).items()}
    found = Result(
        samples=blanked(output.samples, failed).view(*lead, *problem.shape),
        status=Status.from_failures(failed, output.info.beta),
        failed=failed.view(lead),
        batched=problem.batched,
        shape=problem.shape,
        chi2=torch.where(failed, torch.nan, output.chi2).view(lead),
        log_weights=None if weights is None else weights.view(lead),
        strategy=name or solver.strategy.name,
        why=why,
        nfe=output.calls["denoise"] / output.processed,
        vjps=output.calls["vjp"] / output.processed,
        operator_calls={k: v for k, v in output.calls.items() if k not in ("denoise", "vjp")},
        seconds=output.seconds,
        seed=seed,
        settings={
            "strategy": repr(solver.strategy),
            "num_samples": num_samples,
            "chunk": output.chunk,
            **settings,
            "operator": repr(problem.operator),
            "noise": repr(problem.noise),
            "prior": repr(prior),
            "dtype": str(problem.data.dtype),
            "units": problem.units,
            **({"prior notes": list(prior.notes)} if prior.notes else {}),
            "data": data_fingerprint(problem),  # what `compare` and `load_result` tell the same data by
        },
        versions={"invsolve": package_version(), "torch": torch.__version__, "python": platform.python_version()},
        info={k: v.view(lead) for k, v in info.items()},
        parameters={k: v.to(failed.device).view(lead) for k, v in (parameters or {}).items()},
        problem=problem,
        prior=prior,
        solver=solver,
        warnings=(*warnings, *output.warnings),
        certificate=certificate,
        marginals=marginals,
        parameter_marginals=scalars,
    )
    return found if output.moments is None else with_moments(found, output.moments)


def _shares(log_weights: Tensor | None, failed: Tensor, num_samples: int) -> Tensor:
    """The normalised weights of rows ``(num_samples, items)``, 0 where one failed."""
    logs = torch.zeros(failed.shape, dtype=torch.float64, device=failed.device)
    logs = (logs if log_weights is None else log_weights.double()).masked_fill(failed, -math.inf)
    return torch.softmax(logs.view(num_samples, -1), 0).nan_to_num(nan=0.0)


def with_moments(result: Result, moments: Moments) -> Result:
    """A result with the moments ``(items, *shape)`` of the ensemble behind it; of items without, of their samples."""
    known = moments if result.batched else moments.only_item()
    assert known.std is not None
    there = (known.mean.isfinite() & known.std.isfinite()).reshape(*result.failed.shape[1:], -1).all(-1)
    if not bool(there.any()):
        return result
    lead = there.view(*there.shape, *([1] * len(result.shape)))
    own = replace(result, marginals=None)
    whole = Moments(
        mean=torch.where(lead, known.mean, own.mean), std=torch.where(lead, known.std, own.std), known="ensemble"
    )
    return replace(result, marginals=whole)


@cache  # read from a file each time: 4 ms, in every one of the many solves of a hierarchical one
def package_version() -> str:
    """Of this package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("invsolve")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
