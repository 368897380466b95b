"""Is the operator a little wrong: blurrier or sharper, shifted, turned, of a gain that drifts over the data?

Let ``T A`` be such an operator, T a smoothing of neighbouring data (or its inverse), a shift by one, a ramp. Its data
have the whitened covariance ``S' = I + T P T^T`` where the model says ``S = I + P`` (see `evidence`), and the ratio of
the evidences of a mixture of such operators to that of the model is the most powerful test of them, on average. Its
null distribution is simulated; beyond that a ratio r has a probability of at most 1 / r (Markov: under the model its
expectation is 1).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from invsolve.core.random import Draws
from invsolve.diagnostics.report import SHARES, Measured, join

_SIMULATED = 999  # draws of the null distribution
_ALTERNATIVE = 100  # draws of each other operator's data, to say how often it is noticed
_LARGEST = 512  # data; a Cholesky factor for every change: 2 s
_LEAST = 4  # entries along an axis that has neighbours
_RAMP = 0.3  # gains 0.7 to 1.3
_WIDTHS = (0.6, 1.6)  # stds, in entries, by which a blur may be wider or narrower
# What a wider blur brings in from beyond the edge is not known: nothing (0), or as much as there is at the edge (1).
# With nothing alone, a blur 1.5 times too wide on 16 x 16 entries lost a third of its log ratio, median.
_EDGES = {"darker": 0.25, "bright": 0.75}

Map = Callable[[Tensor], Tensor]


def operator_test(w: Tensor, U: Tensor, gains: Tensor, grid: Map, flat: Map, *, seed: int) -> list[Measured]:
    """``w`` ``(items, data)`` whitened, ``U`` ``(data, directions)`` and ``gains``: eigenvectors and -values of P.

    ``grid`` puts rows of data where they were measured, ``(rows, *out_shape)``, ``flat`` takes them from there. [] for
    data without a grid, or too many.
    """
    if w.shape[1] > _LARGEST:
        return []
    changes = _changes(grid(torch.ones_like(w[:1])))
    if not changes:
        return []
    draws = Draws.for_rows(seed, [0], [0], w.device, purpose="check operator")
    z = draws.normal((_SIMULATED, w.shape[1]), torch.float64, step=0)[0]
    rows = torch.cat([w, z + ((z @ U) * ((1 + gains).sqrt() - 1)) @ U.mT])  # and S^1/2 z
    columns = grid((U * gains.sqrt()).mT)
    z = z[:_ALTERNATIVE]
    ratios, seen = [], []
    for change in changes.values():
        F = flat(change(columns))
        chol = torch.linalg.cholesky(F.mT @ F + torch.eye(w.shape[1], dtype=w.dtype, device=w.device))
        log_det = 2 * chol.diagonal().log().sum() - (1 + gains).log().sum()
        other = torch.linalg.solve_triangular(chol, rows.mT, upper=False).square().sum(0)
        ratios.append(0.5 * (_size(rows, U, gains) - other - log_det)[:, None])
        seen.append(0.5 * (_size(z @ chol.mT, U, gains) - z.square().sum(1) - log_det))  # of data of that operator
    log_ratio = torch.cat(ratios, 1)
    mixture = (log_ratio.logsumexp(1) - math.log(len(changes))).cpu().numpy()
    found, null = mixture[: len(w)], np.sort(mixture[len(w) :])
    p = (1 + len(null) - np.searchsorted(null, found)) / (1 + len(null))
    p = np.where(found > null[-1], np.minimum(p, np.exp(-np.maximum(found, 0.0))), p)
    item = int(found.argmax())
    best = int(log_ratio[item].argmax())
    value, names = float(log_ratio[item, best]), list(changes)
    words = "likeliest as stated"
    if value > 0:
        words = f"likelier by exp({value:.1f}) with {names[best]} than the operator says"
    level = max(SHARES["operator"] / len(w), 1 / len(null))
    threshold = float(np.quantile(null, 1 - level)) + math.log(len(changes))
    power = [float((ratio > threshold).double().mean()) for ratio in seen]
    noticed = [name for name, often in zip(names, power, strict=True) if often >= 0.9]
    such = f", such as {noticed[0]}" if noticed else ""
    notice = f"{len(noticed)} of the {len(names)} other operators that were tried (blurs, shifts, drifts){such}"
    text = f"the data are {words}; can detect {notice}"
    return [Measured(name="operator", value=value, p=p, text=text)]


def _size(rows: Tensor, U: Tensor, gains: Tensor) -> Tensor:
    """``w^T S^-1 w`` of rows."""
    return rows.square().sum(1) - ((rows @ U).square() * (gains / (1 + gains))).sum(1)


def _changes(mask: Tensor) -> dict[str, Map]:
    """What may be wrong, in words, and T on rows ``(rows, *out_shape)``; ``mask`` ``(1, *out_shape)`` of data.

    Only along the last two axes that are long enough: those of an image.
    """
    mask = mask.real.clamp(0, 1)
    axes = [i for i in range(1, mask.ndim) if mask.shape[i] >= _LEAST][-2:]
    out: dict[str, Map] = {}
    for widths in itertools.product((0.0, *_WIDTHS, *(-v for v in _WIDTHS)), repeat=len(axes)):
        pairs = [(i, v) for i, v in zip(axes, widths, strict=True) if v]
        if not pairs:
            continue
        words = join([f"data {'smoother' if v > 0 else 'sharper'} by {abs(v)} along axis {i - 1}" for i, v in pairs])
        if max(widths) > 0:
            out |= {f"{words} ({what} beyond the edge)": _width(mask, pairs, edge) for what, edge in _EDGES.items()}
        else:
            out[words] = _width(mask, pairs, 0.0)
    for i in axes:
        for sign in (1, -1):
            out[f"data shifted by {sign:+d} along axis {i - 1}"] = _shift(mask, i, sign)
            out[f"a gain that {'grows' if sign > 0 else 'falls'} along axis {i - 1}"] = _ramp(mask, i, sign * _RAMP)
    return out


def _width(mask: Tensor, widths: list[tuple[int, float]], edge: float) -> Map:
    """Blur by Gaussians of these stds in entries along these axes; for negative ones sharpen, the inverse at most 5."""

    def blur(b: Tensor, negative: bool) -> Tensor:
        for axis, width in widths:
            if (width < 0) == negative:
                d = torch.arange(b.shape[axis], dtype=mask.dtype, device=mask.device)
                kernel = torch.exp(-((d[:, None] - d) ** 2) / (2 * width**2))
                kernel = kernel / kernel.sum(1).max()
                if negative:
                    kernel = kernel @ torch.linalg.inv(
                        kernel @ kernel + 0.01 * torch.eye(len(d), dtype=kernel.dtype, device=kernel.device)
                    )
                b = (b.movedim(axis, -1) @ kernel.to(b.dtype)).movedim(-1, axis)
        return b

    # An average of the data that exist, and of what may be beyond the edge.
    inside = blur(torch.ones_like(mask), False)
    weight = (blur(mask, False) / inside).clamp_min(0.25) * inside**edge

    return lambda b: mask * blur(blur(b, False) / weight, True)


def _shift(mask: Tensor, axis: int, step: int) -> Map:
    """The value of the neighbour before (``step`` 1) or after (-1); 0 beyond the edge."""
    n = mask.shape[axis] - 1

    def shift(b: Tensor) -> Tensor:
        out = torch.zeros_like(b)
        out.narrow(axis, max(step, 0), n).copy_(b.narrow(axis, max(-step, 0), n))
        return mask * out

    return shift


def _ramp(mask: Tensor, axis: int, slope: float) -> Map:
    shape = [1] * mask.ndim
    shape[axis] = mask.shape[axis]
    gain = 1 + slope * torch.linspace(-1, 1, mask.shape[axis], dtype=mask.dtype, device=mask.device).view(shape)
    return lambda b: gain * b
