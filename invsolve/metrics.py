"""How good an image and how right an ensemble is. Batch first; every result is per item, ``(batch,)``, in float64.

Image metrics compare ``x`` with ``truth``, both ``(batch, *shape)``. Ensemble metrics take ``samples``
``(n, batch, *shape)`` (the layout of ``result.samples``) and ``truth`` ``(batch, *shape)``. Distances (`psnr`, `nrmse`,
`energy_score`) accept complex tensors through |x - truth|; what needs an order or a positive image (`ssim`, `crps`,
`rank`, `coverage`, `interval_mass`) refuses them: score the magnitude, the real and the imaginary part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.random import Draws
from invsolve.core.validation import check_int, check_number, check_positive
from invsolve.errors import invalid, invalid_type

_SSIM_SIGMA = 1.5  # Wang et al. 2004: Gaussian window of 11 points, sigma 1.5
_SSIM_RADIUS = 5  # 3.5 sigma, rounded: where the window is cut off
_SSIM_K1, _SSIM_K2 = 0.01, 0.03  # Wang et al. 2004, section III-C


# --- images ---------------------------------------------------------------------------------------------------------
def psnr(x: Tensor, truth: Tensor, *, data_range: float) -> Tensor:
    """Peak signal to noise ratio ``10 log10(data_range^2 / mean |x - truth|^2)`` in dB, ``(batch,)``; inf if equal.

    ``x`` and ``truth`` ``(batch, *shape)``, real or complex; ``data_range`` > 0 is the distance between the largest and
    the smallest possible value, in their units (never guessed from the data).
    """
    x, truth = _pair("psnr", x, truth)
    peak = check_positive("psnr", "data_range", data_range)
    return 10 * torch.log10(peak**2 / (x - truth).abs().square().flatten(1).mean(1))


def nrmse(x: Tensor, truth: Tensor) -> Tensor:
    """Relative error ``||x - truth|| / ||truth||`` over the entries of an item, ``(batch,)``; real or complex.

    Raises InputError where an item of the truth is zero: there is nothing to be relative to.
    """
    x, truth = _pair("nrmse", x, truth)
    size: Tensor = torch.linalg.vector_norm(truth.flatten(1), dim=1)
    if bool((size == 0).any()):
        raise invalid(
            "nrmse",
            "truth",
            "not zero in any item",
            f"zero in item {int((size == 0).nonzero()[0])}",
            "Use psnr, which has a scale of its own.",
        )
    error: Tensor = torch.linalg.vector_norm((x - truth).flatten(1), dim=1)
    return error / size


def ssim(x: Tensor, truth: Tensor, *, data_range: float) -> Tensor:
    """Mean structural similarity (Wang et al. 2004, IEEE TIP 13(4), eq. 13), ``(batch,)``, at most 1.

    ``x`` and ``truth`` ``(batch, *shape)``, real, 1 to 3 axes of at least 11; ``data_range`` > 0 as in `psnr`. The
    window is the Gaussian of the paper (11 points, sigma 1.5, population covariance), averaged where it lies inside the
    image: scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``.
    """
    x, truth = _pair("ssim", x, truth, ordered=True)
    peak = check_positive("ssim", "data_range", data_range)
    if not 2 <= x.ndim <= 4 or min(x.shape[1:]) < 2 * _SSIM_RADIUS + 1:
        expected = f"of 1 to 3 axes of at least {2 * _SSIM_RADIUS + 1}, after the batch axis"
        raise invalid("ssim", "x", expected, tuple(x.shape))
    maps = torch.stack([x, truth, x * x, truth * truth, x * truth])
    mean_x, mean_t, xx, tt, xt = _window(maps).unbind()
    c1, c2 = (_SSIM_K1 * peak) ** 2, (_SSIM_K2 * peak) ** 2
    var_x, var_t, cov = xx - mean_x**2, tt - mean_t**2, xt - mean_x * mean_t
    luminance = (2 * mean_x * mean_t + c1) / (mean_x**2 + mean_t**2 + c1)
    return (luminance * (2 * cov + c2) / (var_x + var_t + c2)).flatten(1).mean(1)


def _window(maps: Tensor) -> Tensor:
    """Local Gaussian means of ``(k, batch, *shape)`` along the trailing axes, inside points only."""
    offset = torch.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1, dtype=maps.dtype, device=maps.device)
    weights = torch.exp(-0.5 * (offset / _SSIM_SIGMA) ** 2)
    weights = weights / weights.sum()
    for axis in range(2, maps.ndim):
        inside = maps.shape[axis] - 2 * _SSIM_RADIUS
        total = weights[0] * maps.narrow(axis, 0, inside)
        for shift in range(1, len(weights)):
            total = total + weights[shift] * maps.narrow(axis, shift, inside)
        maps = total
    return maps


# --- ensembles ------------------------------------------------------------------------------------------------------
def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score of every entry, averaged over the entries, ``(batch,)``, in their units.

    The fair estimate ``mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 n (n - 1))``, unbiased for the law the samples come
    from whatever n is (Ferro 2014, QJRMS 140, eq. 8), so that it may be slightly negative. n >= 2 samples, real. The
    double sum is taken over sorted samples: ``sum_(i<j) (x_(j) - x_(i)) = sum_i (2 i - n - 1) x_(i)``.
    """
    samples, truth = _ensemble("crps", samples, truth, ordered=True)
    n = len(samples)
    errors = (samples - truth).sort(dim=0).values  # centred on the truth: no cancellation of a large offset
    weights = torch.arange(1 - n, n, 2, dtype=errors.dtype, device=errors.device)
    spread = torch.einsum("n,n...->...", weights, errors) / (n * (n - 1))
    return (errors.abs().mean(0) - spread).flatten(1).mean(1)


def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """Energy score of the whole signal, ``(batch,)``: `crps` with the Euclidean norm over all entries.

    ``mean_i ||x_i - y|| - sum_ij ||x_i - x_j|| / (2 n (n - 1))``, the fair form of Gneiting & Raftery 2007 (JASA 102),
    eq. 21. Real or complex, n >= 2 samples; the n (n - 1) / 2 distances of one item are held at once.
    """
    samples, truth = _ensemble("energy_score", samples, truth)
    n = len(samples)
    errors = samples - truth
    flat = torch.view_as_real(errors).flatten(2) if errors.is_complex() else errors.flatten(2)
    distances = [torch.nn.functional.pdist(flat[:, item]).sum() for item in range(flat.shape[1])]
    lengths: Tensor = torch.linalg.vector_norm(flat, dim=2)
    return lengths.mean(0) - torch.stack(distances) / (n * (n - 1))


def rank(samples: Tensor, truth: Tensor, *, seed: int = 0) -> Tensor:
    """How many samples lie below the truth, for every entry: ``(batch, *shape)`` int64, 0 to n.

    If the truth is a draw of the law of the samples, the rank is uniform on 0..n. This holds for laws with atoms too:
    among k samples *equal* to the truth the place is drawn uniformly from its k + 1 places, by numbers that depend on
    ``seed``, the item and the entry only.
    """
    samples, truth = _ensemble("rank", samples, truth, ordered=True)
    below, ties = (samples < truth).sum(0), (samples == truth).sum(0)
    if not bool(ties.any()):
        return below
    items = range(len(truth))
    draws = Draws.for_rows(check_int("rank", "seed", seed), list(items), [0] * len(truth), truth.device, purpose="rank")
    uniform = torch.special.ndtr(draws.normal(tuple(truth.shape[1:]), torch.float64, step=0))
    return below + torch.minimum((uniform * (ties + 1)).long(), ties)


def interval_ranks(n: int, level: float) -> tuple[int, int, float]:
    """The central rank interval of n samples that holds at least ``level``: its order statistics and its exact level.

    ``(lower, upper, nominal)``, counted from 1: the next draw of the same law falls between the lower-th and the
    upper-th smallest of n samples with probability ``nominal = (upper - lower) / (n + 1)`` exactly (exchangeability),
    which is at least ``level``. Raises InputError where n samples cannot carry it: the widest interval holds
    (n - 1) / (n + 1).

    >>> interval_ranks(19, 0.9)
    (1, 19, 0.9)
    """
    n = check_int("interval_ranks", "n", n, minimum=2)
    level = check_number("interval_ranks", "level", level)
    if not 0 < level < 1:
        raise invalid("interval_ranks", "level", "between 0 and 1, both excluded", level)
    # 1e-9: (1 - 0.9) / 2 * 20 is 0.9999999999999998 in floating point.
    lower = math.floor((1 - level) / 2 * (n + 1) + 1e-9)
    if lower < 1:
        expected = f"at most (n - 1) / (n + 1) = {(n - 1) / (n + 1):.4g} for {n} samples"
        raise invalid(
            "interval_ranks",
            "level",
            expected,
            level,
            f"Draw at least {math.ceil(2 / (1 - level) - 1e-9) - 1} samples.",
        )
    return lower, n + 1 - lower, (n + 1 - 2 * lower) / (n + 1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Coverage:
    """``observed`` ``(batch,)``: the covered fraction of the entries; ``nominal``: its mean if all is right."""

    observed: Tensor
    nominal: float


def coverage(samples: Tensor, truth: Tensor, *, level: float, seed: int = 0) -> Coverage:
    """The fraction of entries whose truth lies inside the rank interval of the samples, and the exact nominal level.

    The interval is that of `interval_ranks`: at least ``level``, refused where n samples cannot carry it. Real.
    Truths equal to some samples are placed among them as in `rank`, so that atoms do not spoil the level.
    """
    samples, truth = _ensemble("coverage", samples, truth, ordered=True)
    lower, upper, nominal = interval_ranks(len(samples), level)
    place = rank(samples, truth, seed=seed)
    inside = (place >= lower) & (place < upper)
    return Coverage(observed=inside.flatten(1).double().mean(1), nominal=nominal)


def interval_mass(samples: Tensor, *, level: float, mean: Tensor, std: Tensor) -> Coverage:
    """The mass that N(mean, std^2) gives to the rank interval of the samples, averaged over the entries.

    For a Gaussian posterior that is known: `coverage` without the noise of the one truth. ``mean`` and ``std`` > 0 are
    ``(batch, *shape)``, the marginals of the posterior. Independent exact samples give ``nominal`` on average.
    """
    samples, mean = _ensemble("interval_mass", samples, mean, ordered=True, name="mean")
    std = _checked("interval_mass", "std", std, ordered=True)
    if std.shape != mean.shape:
        raise invalid("interval_mass", "std", f"of shape {tuple(mean.shape)}", tuple(std.shape))
    if bool((std <= 0).any()):
        raise invalid("interval_mass", "std", "positive", float(std.min()))
    lower, upper, nominal = interval_ranks(len(samples), level)
    ordered = samples.sort(dim=0).values
    below, above = (torch.special.ndtr((ordered[i - 1] - mean) / std) for i in (lower, upper))
    return Coverage(observed=(above - below).flatten(1).mean(1), nominal=nominal)


# --- checks ---------------------------------------------------------------------------------------------------------
def _checked(owner: str, name: str, value: Tensor, *, ordered: bool = False) -> Tensor:
    """A finite floating or complex tensor, in float64; ``ordered`` refuses complex numbers."""
    if not isinstance(value, Tensor):
        raise invalid_type(owner, name, "a torch.Tensor", value, f"Convert it: torch.as_tensor({name}).")
    if not (value.is_floating_point() or value.is_complex()):
        raise invalid_type(owner, name, "floating point or complex", str(value.dtype), f"Convert it: {name}.float().")
    if ordered and value.is_complex():
        raise invalid_type(owner, name, "real", str(value.dtype), "Score .abs(), .real and .imag one by one.")
    if value.numel() == 0:
        raise invalid(owner, name, "of at least one entry", tuple(value.shape))
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        raise invalid(
            owner, name, "finite", f"{int(bad.sum())} NaN or infinite values", "Leave failed samples and items out."
        )
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _pair(owner: str, x: Tensor, truth: Tensor, *, ordered: bool = False) -> tuple[Tensor, Tensor]:
    x, truth = _checked(owner, "x", x, ordered=ordered), _checked(owner, "truth", truth, ordered=ordered)
    if x.ndim < 2 or x.shape != truth.shape:
        hint = "Add a batch axis: x[None], truth[None]." if x.shape == truth.shape else ""
        given = f"{tuple(x.shape)} and {tuple(truth.shape)}"
        raise invalid(owner, "x", "of the shape (batch, ...) of `truth`", given, hint)
    return x, truth


def _ensemble(
    owner: str, samples: Tensor, truth: Tensor, *, ordered: bool = False, name: str = "truth"
) -> tuple[Tensor, Tensor]:
    samples = _checked(owner, "samples", samples, ordered=ordered)
    truth = _checked(owner, name, truth, ordered=ordered)
    if truth.ndim < 1 or samples.shape[1:] != truth.shape:
        expected = f"of shape (n, *{name}.shape) = (n, {', '.join(map(str, truth.shape))})"
        raise invalid(owner, "samples", expected, tuple(samples.shape))
    if len(samples) < 2:
        raise invalid(owner, "samples", "of at least 2 samples", len(samples))
    return samples, truth
