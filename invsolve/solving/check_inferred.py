"""`result.check()` where scalars were inferred with the signal.

A sample of signal and scalars and the data are a draw from the joint distribution, if the model is right. So every test
of the model whose scalars are known holds at the scalars of a posterior sample, and p-values at several of them, which
depend on each other, are combined by twice their mean (Rueschendorf 1982).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from invsolve.diagnostics.check_result import check_rows
from invsolve.diagnostics.prior_data_conflict import evidence_tests
from invsolve.diagnostics.repeated_values import repeats_test
from invsolve.diagnostics.report import LEVEL, CheckReport, Measured, judge
from invsolve.diagnostics.residuals import sample_tests
from invsolve.hyperparameters.unknowns import Unknowns
from invsolve.noise import Gaussian
from invsolve.results.result import Result

_DRAWS, _ITEMS = 8, 8  # joint draws and items that are looked at, spread over all


@torch.no_grad()
def check_inferred(result: Result) -> CheckReport:
    """The report; nothing is solved again."""
    assert result.problem is not None and result.prior is not None
    unknowns = Unknowns.from_problem(result.problem, result.prior)
    assert unknowns is not None
    checks, _, alive = check_rows(result)
    if not len(alive):
        return CheckReport(checks=tuple(checks), level=LEVEL)
    items = _spread(alive, _ITEMS)
    per_item = [_at_draws(result, unknowns, int(b)) for b in items]
    found = [
        Measured(
            name=name,
            value=worst.value,
            p=np.array([each[name].p[0] for each in per_item]),
            text=worst.text,
        )
        for name in per_item[0]
        for worst in [min((each[name] for each in per_item), key=lambda m: float(m.p[0]))]
    ]
    notes = [
        f"{', '.join(unknowns.names)} vary from sample to sample: tested at up to {_DRAWS} joint draws, each with the "
        "model of its own scalars; nothing was solved again"
    ]
    if len(items) < len(result.problem.data):
        notes.append(f"for {len(items)} of {len(result.problem.data)} items")
    return CheckReport(checks=(*checks, *map(judge, found)), level=LEVEL, notes=tuple(notes))


def _at_draws(result: Result, unknowns: Unknowns, item: int) -> dict[str, Measured]:
    """The tests of one item by name, each with one p-value: combined over the draws, in the words of the worst."""
    samples = result.samples if result.batched else result.samples[:, None]
    failed = result.failed if result.batched else result.failed[:, None]
    theta = torch.stack([result.parameters[n].double() for n in unknowns.names], -1).view(*failed.shape, -1)
    good = (~failed[:, item]).nonzero()[:, 0]
    chosen = _spread(good, _DRAWS)
    alone = replace(unknowns, problem=unknowns.problem.take(torch.tensor([item], device=samples.device)))
    found: dict[str, list[Measured]] = defaultdict(list)
    for k in chosen.tolist():
        problem, prior = alone.at(theta[k, item].cpu())
        tests = sample_tests(problem, prior, samples[k : k + 1, item : item + 1])
        if isinstance(problem.noise, Gaussian):
            tests += [*repeats_test(problem), *evidence_tests(problem, prior, seed=result.seed)]
        for test in tests:
            found[test.name].append(test)
    out = {}
    for name, tests in found.items():
        worst = min(tests, key=lambda m: float(m.p[0]))
        p = np.minimum(1.0, 2 * np.mean([test.p for test in tests], axis=0)) if len(tests) > 1 else tests[0].p
        out[name] = replace(worst, p=p)
    return out


def _spread(index: Tensor, number: int) -> Tensor:
    """So many of the entries, from all over."""
    count = min(len(index), number)
    return index[torch.arange(count, device=index.device) * len(index) // max(1, count)]
