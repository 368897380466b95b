"""What a reader of the samples must know although every number is finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from invsolve.core.resampling import effective, normalised
from invsolve.strategies.diagnostics import Diagnostics

_MISFIT = 5.0  # median chi^2 per datum above which the samples are said not to fit
_HOPELESS, _FEW = 100.0, 0.01  # chi^2 that no posterior sample has (as of counts that are impossible), and the share
# of samples with it that is mentioned
_SPACINGS, _FEWEST_SPREAD = 8.0, 4  # of the numbers, that the posterior std must be; samples that tell
_RESIDUAL = 1e-2  # relative residual of a guidance's linear solve that is mentioned
_THIN, _FEWEST = 0.1, 1.5  # share and number of effective samples below which weights are mentioned


def fit_warnings(chi2: Tensor, info: Mapping[str, Tensor], *, stopped: bool = False) -> tuple[str, ...]:
    """Of the rows of a solve: their chi^2 per datum (NaN where a row failed), and what the strategy said of them.

    ``stopped``: the budget ended it. Rows of chains that are not there yet do not fit for that reason.
    """
    power = _power(info)
    reached = chi2 if power is None else chi2[power.view(chi2.shape).nan_to_num(nan=1.0) >= 1]
    return (*(misfit(reached) if reached.numel() else ()), *shortfalls(info, stopped=stopped))


def coarse(samples: Tensor, failed: Tensor) -> tuple[str, ...]:
    """Whether samples ``(samples, items, *shape)`` spread by no more than a few spacings of their own numbers."""
    good = samples[:, ~failed.any(0)] if bool(failed.any()) else samples  # which may be large
    if len(good) < _FEWEST_SPREAD or not good.numel():
        return ()
    std, size = good.std(0), good.mean(0).abs()
    spacings = (std / (torch.finfo(std.dtype).eps * size))[std > 0]
    if not spacings.numel() or (typical := float(spacings.median())) >= _SPACINGS:
        return ()
    name = str(std.dtype).removeprefix("torch.")
    return (
        f"the posterior std is as small as {typical:.2g} spacings of {name} numbers, and rounding adds as much: take "
        "prior and data in float64, or the signal without its offset",
    )


def _power(info: Mapping[str, Tensor]) -> Tensor | None:
    return Diagnostics.from_mapping(info).beta


def misfit(chi2: Tensor) -> tuple[str, ...]:
    """Whether the samples fit the data, by their chi^2 per datum, any shape."""
    median, lost = float(chi2.nanmedian()), float((chi2 > _HOPELESS).double().mean())
    if not median > _MISFIT:
        if lost < _FEW:
            return ()
        return (f"{lost:.2g} of the samples do not fit the data: chi^2 per datum above {_HOPELESS:g}, expected 1",)
    return (
        f"the samples do not fit the data: chi^2 per datum {median:.3g}, expected 1. Operator, noise level, "
        "prior or the number of steps is wrong for these data; see result.check()",
    )


def thinned(log_weights: Tensor, failed: Tensor) -> tuple[str, ...]:
    """Whether the last weights of ensembles ``(samples, items)`` leave enough, rows that ``failed`` apart.

    Weights that are equal are no certificate: particles that were resampled often descend from few of them.
    """
    count = len(log_weights)
    logs = log_weights.masked_fill(failed, -math.inf)[:, ~failed.all(0)]
    if not logs.numel():  # which is said elsewhere
        return ()
    if count == 1:
        return ("a single particle has nothing to be weighed against, and is biased: raise num_samples",)
    weighed = logs.amax(0) > -math.inf
    advice = "raise num_samples, or take another strategy"
    found: list[str] = []
    if lost := int((~weighed).sum()):
        whose = f"{lost} of {log_weights.shape[1]} items"
        found.append(f"no sample of {whose} has a weight, so that there is no mean: {advice}")
    least = float(effective(normalised(logs[:, weighed])).min()) if bool(weighed.any()) else math.inf
    if least < max(_FEWEST, _THIN * count):
        worth = f"the {count} samples of an item are worth {least:.2g} (1 / sum of squared weights)"
        found.append(f"weights are uneven: {worth}: {advice}")
    return tuple(found)


def shortfalls(info: Mapping[str, Tensor], *, stopped: bool = False) -> tuple[str, ...]:
    """What a strategy did not reach, from its ``info`` of these rows; ``stopped``: because the budget ended it."""
    found = []
    # NaN: of items whose samples are not of chains.
    told = Diagnostics.from_mapping(info)
    power = float(told.beta.nan_to_num(nan=1.0).min()) if told.beta is not None and told.beta.numel() else 1.0
    if power < 1:
        ended = "the budget ended when the chains had" if stopped else "the chains have"
        found.append(
            f"{ended} reached the power {power:.2g} of the likelihood: the samples are those of a posterior in which "
            f"the data count that much less. {'Give a larger budget' if stopped else 'Raise num_steps'}"
        )
    lost = int(told.undefined.nan_to_num(0).max()) if told.undefined is not None and told.undefined.numel() else 0
    if lost:
        found.append(
            f"the likelihood of {lost} particles of an item, over all noise levels, was NaN: they got weight 0. Is the "
            "operator defined for every signal that the prior allows?"
        )
    for name, value in told.residuals.items():
        worst = float(value.nan_to_num(0).max()) if value.numel() else 0.0
        if worst > _RESIDUAL:
            found.append(
                "a linear system, by which the guidance weighs data against prior, was solved to a relative residual "
                f"of {worst:.2g} only (info[{name!r}]), so that samples may fit the data too little. result.chi2 near "
                "1 and result.check() say that it did not matter; else raise max_iter of the guidance or, where the "
                "prior is a network whose derivative is not symmetric enough for more, num_steps"
            )
    return tuple(found)
