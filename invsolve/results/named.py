"""The table of a result's named numbers: mean, standard deviation and a central interval of each, by name."""

from __future__ import annotations

import torch

from invsolve.results.posterior_samples import PosteriorSamples

_LEVEL = 0.9
_NEEDED = round(2 / (1 - _LEVEL))  # samples and one: 19 carry it
_ITEMS = 8  # items whose rows are shown


def named_rows(result: PosteriorSamples) -> list[tuple[str, str]]:
    """A row for every scalar part of a packed signal, and every item: name (with its unit), what is known of it.

    The interval is that of the quantiles 5 % and 95 %, as far as the samples carry them: 19 do.
    """
    if result.layout is None or result.samples.is_complex():
        return []
    items = result.samples.shape[1] if result.batched else 1
    rows = []
    for part in result.layout.parts:
        if part.shape or part.kind == "complex":
            continue
        posterior = result[part.name]
        mean, std = posterior.mean.view(-1), posterior.std.view(-1)
        good = int((~posterior.failed).sum(0).min())
        known = good + 1 >= _NEEDED and bool((posterior.ess + 1 >= _NEEDED).all())
        known = known or "quantile" in posterior.exact_statistics
        ends = [posterior.quantile(q).view(-1) for q in ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2)] if known else []
        for item in range(min(items, _ITEMS)):
            name = part.name + (f" [{part.unit}]" if part.unit else "") + (f", item {item}" if items > 1 else "")
            words = f"mean {_number(mean[item])}, std {_number(std[item])}"
            if ends:
                words += f", {_LEVEL:.0%} interval {_number(ends[0][item])} to {_number(ends[1][item])}"
            rows.append((name, words))
    return rows


def _number(value: torch.Tensor) -> str:
    return f"{float(value):.4g}"
