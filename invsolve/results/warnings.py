"""What a reader of the samples must know although every number is finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from scipy.special import chdtri
from torch import Tensor

from invsolve.core.resampling import effective, normalised
from invsolve.noise import Gaussian
from invsolve.problem import Problem
from invsolve.strategies.diagnostics import Diagnostics

_MISFIT = 5.0  # median chi^2 per datum above which samples are said not to fit, of noise that is not Gaussian
_ALARM, _ROOM = 1e-5, 1.25  # false alarms of Gaussian noise; for a model that is nearly right: a std 12 % too small
_HOPELESS, _FEW = 100.0, 0.01  # chi^2 that no posterior sample has (as of counts that are impossible), and the share
# of samples with it that is mentioned
_FOREIGN = 1e4  # chi^2 that data in other units than those of the prior have
_SPACINGS, _FEWEST_SPREAD = 8.0, 4  # of the numbers, that the posterior std must be; samples that tell
_RESIDUAL = 1e-2  # relative residual of a guidance's linear solve that is mentioned
_THIN, _FEWEST = 0.1, 1.5  # share and number of effective samples below which weights are mentioned


def fit_warnings(
    chi2: Tensor, info: Mapping[str, Tensor], problem: Problem, *, stopped: bool = False
) -> tuple[str, ...]:
    """Of the rows of a solve: their chi^2 per datum (NaN where a row failed), and what the strategy said of them.

    ``stopped``: the budget ended it. Rows of chains that are not there yet do not fit for that reason.
    """
    power = _power(info)
    if power is not None:
        chi2 = torch.where(power.view(chi2.shape).nan_to_num(nan=1.0) >= 1, chi2, torch.nan)
    return (*misfit(chi2, problem), *shortfalls(info, stopped=stopped))


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


def impossible(problem: Problem) -> Tensor:
    """The median chi^2 per datum of posterior samples that a right model does not give, ``(items,)`` float64.

    A sample fits data of a right model as the truth does: with m data of Gaussian noise, chi^2_m over m (15 for one
    datum, 1.4 for a thousand). The median exceeds a level at most twice as often as a sample does.
    """
    count = problem.num_data.double().clamp_min(1)
    if not isinstance(problem.noise, Gaussian):  # few counts, and other noise, have wider tails
        return torch.full_like(count, _MISFIT)
    each = {m: _ROOM * float(chdtri(m, _ALARM / 2)) / m for m in set(count.tolist())}
    return torch.tensor([each[m] for m in count.tolist()], dtype=torch.float64, device=count.device)


def misfit(chi2: Tensor, problem: Problem) -> tuple[str, ...]:
    """Whether the samples fit the data, item by item, by their chi^2 per datum: rows of samples of the items."""
    chi2 = chi2.reshape(-1, len(problem.data)).double()
    known, median = ~chi2.isnan(), chi2.nanmedian(0).values
    if not bool(known.any()):
        return ()
    off = median > impossible(problem)
    lost = float((chi2[:, ~off] > _HOPELESS).double().sum() / chi2.numel())
    found = []
    if bool(off.any()):
        items = int(known.any(0).sum())
        whose = "the samples" if int(off.sum()) == items else f"the samples of {int(off.sum())} of {items} items"
        curved = (
            ""
            if problem.linear
            else ", or these data lie further from everything that the operator gives than noise puts them"
        )
        units = (
            ". Are the data in the units of the prior, and not, say, 0 to 255 where it has 0 to 1?"
            if float(median[off].max()) > _FOREIGN
            else ""
        )
        found.append(
            f"{whose} do not fit the data: chi^2 per datum {float(median[off].max()):.3g}, expected 1. Operator, noise "
            f"level, prior or the number of steps is wrong for these data{curved}; see result.check(){units}"
        )
    if lost >= _FEW:
        found.append(f"{lost:.2g} of the samples do not fit the data: chi^2 per datum above {_HOPELESS:g}, expected 1")
    return tuple(found)


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
            f"{ended} reached the power {power:.2g} of the likelihood: the samples are those of a tempered posterior, "
            "in which the data count that much less, and their std is too large. "
            f"{'Give a larger budget' if stopped else 'Raise num_steps'}"
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
