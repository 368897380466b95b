"""Where optimisation begins: the best of many points that lie as wide as the prior and wider."""

from __future__ import annotations

import torch
from scipy.spatial import cKDTree
from torch import Tensor

_WIDTHS = 3  # stds of the prior, the widest: 1, 2, 3 in turn
_NEIGHBOURS = 10  # a point is a start where none of so many is better: chance makes that of 1 in 1,024 on a slope
NEAR = 8  # numbers of a signal up to which neighbours are near


def points(z: Tensor) -> Tensor:
    """From standard normal numbers ``(items, count, n)``, one, two and three times as wide in turn."""
    width = 1 + torch.arange(z.shape[1], dtype=z.dtype, device=z.device) % _WIDTHS
    return z * width[:, None]


def starts(u: Tensor, log: Tensor, count: int) -> Tensor:
    """The places ``(count or fewer,)`` of one item's points ``(points, n)`` from which to go up.

    Of short signals those that are better than their neighbours, the best half first and others from all the rest
    (Rinnooy Kan & Timmer 1987, Math. Program. 39, 27-56, start where nothing better is near); of longer ones, in which
    nothing is near, half are the best of equal groups, and half are any.
    """
    possible = log.isfinite().nonzero()[:, 0]
    if len(possible) <= count:
        return possible
    if u.shape[1] > NEAR:
        groups = possible[: len(possible) // (count // 2) * (count // 2)].view(-1, max(1, count // 2))
        best = groups.gather(0, log[groups].argmax(0, keepdim=True))[0]
        others = possible[~torch.isin(possible, best)]
        return torch.cat((best, _spread(others, count - len(best))))
    here, height = u[possible].cpu().numpy(), log[possible]
    near = cKDTree(here).query(here, k=min(_NEIGHBOURS + 1, len(here)))[1][:, 1:]
    peak = height > height[torch.as_tensor(near, device=height.device)].amax(1)
    peaks = possible[peak]
    peaks = peaks[log[peaks].argsort(descending=True)]
    half = count // 2
    return torch.cat((peaks[:half], _spread(peaks[half:], count - half)))


def _spread(places: Tensor, count: int) -> Tensor:
    """So many of them, evenly."""
    if len(places) <= count:
        return places
    return places[torch.arange(count, device=places.device) * len(places) // count]
