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

from invsolve.core.metric_arguments import finite_values, pair_of_signals, samples_and_truth
from invsolve.core.random import Draws
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_number, check_positive
from invsolve.errors import invalid

_SSIM_SIGMA = 1.5  # Wang et al. 2004: Gaussian window of 11 points, sigma 1.5
_SSIM_RADIUS = 5  # 3.5 sigma, rounded: where the window is cut off
_SSIM_K1, _SSIM_K2 = 0.01, 0.03  # Wang et al. 2004, section III-C


# --- images ---------------------------------------------------------------------------------------------------------
@in_defined_state
def psnr(x: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Peak signal to noise ratio ``10 log10(data_range^2 / mean |x - truth|^2)`` in dB.

    Parameters
    ----------
    x, truth : Tensor, shape (batch, *shape)
        Real or complex.
    data_range : float
        The distance between the largest and the smallest possible value, > 0, in their units (never guessed from the
        data).

    Returns
    -------
    Tensor, shape (batch,)
        float64; inf where both are equal.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, or of another shape.
    """
    x, truth = pair_of_signals("psnr", x, truth)
    peak = check_positive("psnr", "data_range", data_range)
    return 10 * torch.log10(peak**2 / (x - truth).abs().square().flatten(1).mean(1))


@in_defined_state
def nrmse(x: Tensor, truth: Tensor) -> Tensor:
    """Relative error ``||x - truth|| / ||truth||`` over the entries of an item.

    Parameters
    ----------
    x, truth : Tensor, shape (batch, *shape)
        Real or complex.

    Returns
    -------
    Tensor, shape (batch,)
        float64.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, or of another shape; where an item of the truth is zero: there is nothing to be
        relative to.
    """
    x, truth = pair_of_signals("nrmse", x, truth)
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


@in_defined_state
def ssim(x: Tensor, truth: Tensor, data_range: float) -> Tensor:
    """Mean structural similarity.

    Parameters
    ----------
    x, truth : Tensor, shape (batch, *shape)
        Real, 1 to 3 axes of at least 11 entries.
    data_range : float
        The distance between the largest and the smallest possible value, > 0, in their units (never guessed from the
        data).

    Returns
    -------
    Tensor, shape (batch,)
        float64, at most 1.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, complex, or of another shape.

    Notes
    -----
    The window is the Gaussian of the paper (11 points, sigma 1.5, population covariance), averaged where it lies inside
    the image: scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``.

    References
    ----------
    Wang, Bovik, Sheikh & Simoncelli 2004, Image quality assessment: from error visibility to structural similarity,
    IEEE TIP 13(4), doi:10.1109/TIP.2003.819861, eq. 13.
    """
    x, truth = pair_of_signals("ssim", x, truth, ordered=True)
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
@in_defined_state
def crps(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score of every entry, averaged over the entries.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        n >= 2, real.
    truth : Tensor, shape (batch, *shape)
        In the units of the samples.

    Returns
    -------
    Tensor, shape (batch,)
        float64, in their units.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, complex, or of another shape.

    Notes
    -----
    The fair estimate ``mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 n (n - 1))``, unbiased for the distribution the
    samples come from whatever n is, so that it may be slightly negative. The double sum is taken over sorted samples:
    ``sum_(i<j) (x_(j) - x_(i)) = sum_i (2 i - n - 1) x_(i)``.

    References
    ----------
    Ferro 2014, Fair scores for ensemble forecasts, QJRMS 140, doi:10.1002/qj.2270, eq. 8.
    """
    samples, truth = samples_and_truth("crps", samples, truth, ordered=True)
    n = len(samples)
    errors = (samples - truth).sort(dim=0).values  # centred on the truth: no cancellation of a large offset
    weights = torch.arange(1 - n, n, 2, dtype=errors.dtype, device=errors.device)
    spread = torch.einsum("n,n...->...", weights, errors) / (n * (n - 1))
    return (errors.abs().mean(0) - spread).flatten(1).mean(1)


@in_defined_state
def energy_score(samples: Tensor, truth: Tensor) -> Tensor:
    """Energy score of the whole signal: `crps` with the Euclidean norm over all entries.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        n >= 2, real or complex.
    truth : Tensor, shape (batch, *shape)
        In the units of the samples.

    Returns
    -------
    Tensor, shape (batch,)
        float64, in their units.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, or of another shape.

    Notes
    -----
    ``mean_i ||x_i - y|| - sum_ij ||x_i - x_j|| / (2 n (n - 1))``, the fair form of the paper's score. The n (n - 1) / 2
    distances of one item are held at once.

    References
    ----------
    Gneiting & Raftery 2007, Strictly proper scoring rules, prediction, and estimation, JASA 102,
    doi:10.1198/016214506000001437, eq. 21.
    """
    samples, truth = samples_and_truth("energy_score", samples, truth)
    n = len(samples)
    errors = samples - truth
    flat = torch.view_as_real(errors).flatten(2) if errors.is_complex() else errors.flatten(2)
    distances = [torch.nn.functional.pdist(flat[:, item]).sum() for item in range(flat.shape[1])]
    lengths: Tensor = torch.linalg.vector_norm(flat, dim=2)
    return lengths.mean(0) - torch.stack(distances) / (n * (n - 1))


@in_defined_state
def rank(samples: Tensor, truth: Tensor, *, seed: int = 0) -> Tensor:
    """How many samples lie below the truth, for every entry.

    If the truth is a draw of the distribution of the samples, the rank is uniform on 0..n. This holds for distributions
    with atoms too: among k samples *equal* to the truth the place is drawn uniformly from its k + 1 places.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        n >= 2, real.
    truth : Tensor, shape (batch, *shape)
        In the units of the samples.
    seed : int
        Of the places among equals; they depend on it, the item and the entry only.

    Returns
    -------
    Tensor, shape (batch, *shape)
        int64, 0 to n.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, complex, or of another shape.
    """
    samples, truth = samples_and_truth("rank", samples, truth, ordered=True)
    below, ties = (samples < truth).sum(0), (samples == truth).sum(0)
    if not bool(ties.any()):
        return below
    rows, seed = len(truth), check_int("rank", "seed", seed)
    draws = Draws.for_rows(seed, list(range(rows)), [0] * rows, truth.device, purpose="rank", owner="rank")
    uniform = torch.special.ndtr(draws.normal(tuple(truth.shape[1:]), torch.float64, step=0))
    return below + torch.minimum((uniform * (ties + 1)).long(), ties)


@in_defined_state
def interval_ranks(n: int, level: float) -> tuple[int, int, float]:
    """The central rank interval of n samples that holds at least ``level``: its order statistics and its exact level.

    The next draw of the same distribution falls between the lower-th and the upper-th smallest of n samples with
    probability ``nominal = (upper - lower) / (n + 1)`` exactly (exchangeability), which is at least ``level``.

    Parameters
    ----------
    n : int
        Samples, >= 2.
    level : float
        The probability asked for, between 0 and 1.

    Returns
    -------
    lower, upper : int
        Counted from 1.
    nominal : float
        The exact level.

    Raises
    ------
    InputError
        If n samples cannot carry the level: the widest interval holds (n - 1) / (n + 1).

    Examples
    --------
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
    """How much of an item a rank interval covers, and how much it should.

    Parameters
    ----------
    observed : Tensor, shape (batch,)
        The covered fraction of the entries.
    nominal : float
        Its mean if all is right.
    """

    observed: Tensor
    nominal: float


@in_defined_state
def coverage(samples: Tensor, truth: Tensor, level: float, *, seed: int = 0) -> Coverage:
    """The fraction of entries whose truth lies inside the rank interval of the samples, and the exact nominal level.

    Truths equal to some samples are placed among them as in `rank`, so that atoms do not spoil the level.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        n >= 2, real.
    truth : Tensor, shape (batch, *shape)
        In the units of the samples.
    level : float
        What the interval is to hold at least, between 0 and 1; see `interval_ranks`.
    seed : int
        Of the places among equals.

    Returns
    -------
    Coverage

    Raises
    ------
    InputError, InputTypeError
        If n samples cannot carry the level, or an argument is not finite, complex, or of another shape.
    """
    samples, truth = samples_and_truth("coverage", samples, truth, ordered=True)
    lower, upper, nominal = interval_ranks(len(samples), level)
    place = rank(samples, truth, seed=seed)
    inside = (place >= lower) & (place < upper)
    return Coverage(observed=inside.flatten(1).double().mean(1), nominal=nominal)


@in_defined_state
def interval_mass(samples: Tensor, *, level: float, mean: Tensor, std: Tensor) -> Coverage:
    """The mass that N(mean, std^2) gives to the rank interval of the samples, averaged over the entries.

    For a Gaussian posterior that is known: `coverage` without the noise of the one truth. Independent exact samples
    give ``nominal`` on average.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        n >= 2, real.
    level : float
        What the interval is to hold at least, between 0 and 1; see `interval_ranks`.
    mean, std : Tensor, shape (batch, *shape)
        The marginals of the posterior, std > 0.

    Returns
    -------
    Coverage

    Raises
    ------
    InputError, InputTypeError
        If n samples cannot carry the level, or an argument is not finite, complex, of another shape, or a std not
        positive.
    """
    samples, mean = samples_and_truth("interval_mass", samples, mean, ordered=True, name="mean")
    std = finite_values("interval_mass", "std", std, ordered=True)
    if std.shape != mean.shape:
        raise invalid("interval_mass", "std", f"of shape {tuple(mean.shape)}", tuple(std.shape))
    if bool((std <= 0).any()):
        raise invalid("interval_mass", "std", "positive", float(std.min()))
    lower, upper, nominal = interval_ranks(len(samples), level)
    ordered = samples.sort(dim=0).values
    below, above = (torch.special.ndtr((ordered[i - 1] - mean) / std) for i in (lower, upper))
    return Coverage(observed=(above - below).flatten(1).mean(1), nominal=nominal)
