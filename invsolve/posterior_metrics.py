"""Distances between a posterior's samples and a weighted reference: the metrics of PosteriorBench, exactly defined.

``samples`` ``(n, batch, *shape)`` (the layout of ``result.samples``) are compared with ``reference``
``(m, batch, *shape)``; ``weights`` and ``reference_weights``, ``(n,)`` or ``(n, batch)``, are non-negative and
normalised here (equal unless given). Every result is per item, ``(batch,)``, in float64, 0 where both agree. Two sets
of samples of one distribution do not give 0: `mmd_floor` says what the MMD then is, the others are best compared with a
second reference. Definitions are those of neuraloperator/PosteriorBench's evaluation, without its small constants in
denominators: a reference that would need them is refused.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.arrays import numbers
from invsolve.core.metric_arguments import (
    finite_values,
    of_shape,
    pair_of_signals,
    real_rows,
    relative_distance,
    squared_distances,
    weighted_sets,
)
from invsolve.core.public_names import found_later
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_number
from invsolve.errors import invalid
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import Spectrum

MMD_SCALES = (0.2, 0.5, 1.0, 2.0, 5.0)
_ALPHA, _TAU = 2.0, 3.0  # of the random directions


@in_defined_state
def relative_mean_error(
    samples: Tensor, reference: Tensor, *, weights: Tensor | None = None, reference_weights: Tensor | None = None
) -> Tensor:
    """Relative error ``|m - m*| / |m*|`` of the mean, norms over the entries of an item, of the weighted means.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        Real or complex.
    reference : Tensor, shape (m, batch, *shape)
        What is right, of the same kind.
    weights : Tensor, shape (n,) or (n, batch), optional
        Of the samples, >= 0; equal by default.
    reference_weights : Tensor, shape (m,) or (m, batch), optional
        Of the reference, >= 0; equal by default.

    Returns
    -------
    Tensor, shape (batch,)
        float64.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite or of another shape; where the reference's mean is 0.
    """
    owner = "relative_mean_error"
    x, y, w, v = weighted_sets(owner, samples, reference, weights, reference_weights)
    return relative_distance(owner, "mean", _mean(x, w), _mean(y, v))


@in_defined_state
def relative_std_error(
    samples: Tensor, reference: Tensor, *, weights: Tensor | None = None, reference_weights: Tensor | None = None
) -> Tensor:
    """Relative error ``|s - s*| / |s*|`` of the entries' standard deviations ``s^2 = sum_i w_i |x_i - m|^2``.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        Real or complex.
    reference : Tensor, shape (m, batch, *shape)
        What is right, of the same kind.
    weights : Tensor, shape (n,) or (n, batch), optional
        Of the samples, >= 0; equal by default.
    reference_weights : Tensor, shape (m,) or (m, batch), optional
        Of the reference, >= 0; equal by default.

    Returns
    -------
    Tensor, shape (batch,)
        float64.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite or of another shape; where the reference's standard deviation is 0.

    Notes
    -----
    Not corrected for the number of samples, as published: of n equal weights s is sqrt(1 - 1/n) times too small.
    """
    owner = "relative_std_error"
    x, y, w, v = weighted_sets(owner, samples, reference, weights, reference_weights)
    s, s_reference = (_mean((a - _mean(a, b)).abs().square(), b).sqrt() for a, b in ((x, w), (y, v)))
    return relative_distance(owner, "standard deviation", s, s_reference)


@in_defined_state
def mmd(
    samples: Tensor, reference: Tensor, *, weights: Tensor | None = None, reference_weights: Tensor | None = None
) -> Tensor:
    """Maximum mean discrepancy: the root of ``w' K_xx w + v' K_yy v - 2 w' K_xy v`` (a V-statistic).

    ``k(x, y) = mean_s exp(-|x - y|^2 / (s med))`` over s of `MMD_SCALES`, med the median of the n m squared distances
    between samples and reference (of all pairs, whatever their weights). See `mmd_floor`.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        Real or complex.
    reference : Tensor, shape (m, batch, *shape)
        What is right, of the same kind.
    weights : Tensor, shape (n,) or (n, batch), optional
        Of the samples, >= 0; equal by default.
    reference_weights : Tensor, shape (m,) or (m, batch), optional
        Of the reference, >= 0; equal by default.

    Returns
    -------
    Tensor, shape (batch,)
        float64.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite or of another shape; where med is 0.

    Notes
    -----
    n^2 + m^2 + n m distances of an item are held at once.
    """
    x, y, w, v = weighted_sets("mmd", samples, reference, weights, reference_weights)
    out = []
    for item in range(x.shape[1]):
        a, b = (real_rows(s[:, item]) for s in (x, y))
        centre = a.mean(0)  # distances are differences: a common offset would only cost digits
        cross = squared_distances(a - centre, b - centre)
        ordered = cross.flatten().sort().values
        med = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
        if float(med) == 0:
            raise invalid(
                "mmd",
                "reference",
                "different from the samples in more than half of the pairs",
                f"a median distance of 0 in item {item}",
            )
        own = (squared_distances(s - centre, s - centre) for s in (a, b))
        pairs = ((w, w, next(own), 1), (v, v, next(own), 1), (w, v, cross, -2))
        out.append(sum(sign * (p[:, item] @ _kernel(d / med) @ q[:, item]) for p, q, d, sign in pairs))
    return torch.stack([numbers(value) for value in out]).clamp(min=0).sqrt()


@in_defined_state
def mmd_floor(n: int, m: int) -> float:
    """The `mmd` of two sets of samples of one distribution of many dimensions, where all distances are med.

    ``sqrt((1/n + 1/m) (1 - k))``, ``k = mean_s exp(-1/s) = 0.387``: each sample meets itself once in n.

    Parameters
    ----------
    n, m : int
        How many samples, of equal weight, >= 1.

    Returns
    -------
    float

    Examples
    --------
    >>> round(mmd_floor(100, 100), 3)
    0.111
    """
    n, m = check_int("mmd_floor", "n", n, minimum=1), check_int("mmd_floor", "m", m, minimum=1)
    return math.sqrt((1 / n + 1 / m) * (1 - sum(math.exp(-1 / s) for s in MMD_SCALES) / len(MMD_SCALES)))


@in_defined_state
def sliced_wasserstein(
    samples: Tensor,
    reference: Tensor,
    *,
    mean: Tensor | float,
    std: Tensor | float,
    weights: Tensor | None = None,
    reference_weights: Tensor | None = None,
    directions: int = 128,
    seed: int = 0,
) -> Tensor:
    """Mean over directions g, ``|g| = 1``, of the weighted 1-Wasserstein distance of ``<g, (x - mean)/std>``.

    Directions are smooth: see `sliced_directions`. The published ones have no constant part, so that this does not see
    a shift of all entries by the same number; `relative_mean_error` does.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        Real signals of 1 to 3 axes.
    reference : Tensor, shape (m, batch, *shape)
        What is right.
    mean, std : float or Tensor, shape (*shape)
        Those of the training data, std > 0.
    weights : Tensor, shape (n,) or (n, batch), optional
        Of the samples, >= 0; equal by default.
    reference_weights : Tensor, shape (m,) or (m, batch), optional
        Of the reference, >= 0; equal by default.
    directions : int
        How many, >= 1.
    seed : int
        Of the directions.

    Returns
    -------
    Tensor, shape (batch,)
        float64, in units of ``std``.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, complex, of another shape, or a std not positive.
    """
    owner = "sliced_wasserstein"
    x, y, w, v = weighted_sets(owner, samples, reference, weights, reference_weights, ordered=True)
    shape = tuple(x.shape[2:])
    centre, scale = (of_shape(owner, name, value, shape, x) for name, value in (("mean", mean), ("std", std)))
    if bool((scale <= 0).any()):
        raise invalid(owner, "std", "positive", float(scale.min()))
    g = sliced_directions(shape, directions, seed=seed).to(x.device).flatten(1)
    places = [((s - centre) / scale).flatten(2) @ g.mT for s in (x, y)]  # (n, batch, directions)
    value, order = torch.cat(places).sort(dim=0)
    signed = torch.cat((w, -v))[..., None].expand(value.shape).gather(0, order)
    # W1 = int |F - G|: between two neighbouring values the difference of the distribution functions is constant.
    return (signed.cumsum(0)[:-1].abs() * value.diff(dim=0)).sum(0).mean(1)


@in_defined_state
def sliced_directions(shape: tuple[int, ...], directions: int = 128, *, seed: int = 0) -> Tensor:
    """Smooth random directions of unit norm: a Gaussian field with eigenvalues ``(pi^2 |k|^2 + 9)^-2``.

    The Neumann field ``(tau^2 - Laplacian)^-alpha`` on the unit box, alpha = 2, tau = 3, without its constant mode.

    Parameters
    ----------
    shape : tuple of int
        Of the signal: 1 to 3 axes, at least 2 entries.
    directions : int
        How many, >= 1.
    seed : int
        Direction j depends on it, j and the shape only.

    Returns
    -------
    Tensor, shape (directions, *shape)
        float64.

    Raises
    ------
    InputError, InputTypeError
        If an argument is out of its range.
    """
    owner = "sliced_directions"
    count = check_int(owner, "directions", directions, minimum=1)
    if not 1 <= len(shape) <= 3 or math.prod(shape) < 2:
        raise invalid(owner, "shape", "of 1 to 3 axes and at least 2 entries", tuple(shape))
    spectrum = Spectrum(lambda e: torch.where(e > 0, (e + _TAU**2) ** -_ALPHA, 0.0))
    g = GaussianFieldPrior(shape=shape, spectrum=spectrum, dtype=torch.float64).sample(count, seed=seed)
    norms: Tensor = torch.linalg.vector_norm(g.flatten(1), dim=1)
    return g / norms.view(-1, *([1] * len(shape)))


@in_defined_state
def spectral_error(
    samples: Tensor, reference: Tensor, *, weights: Tensor | None = None, reference_weights: Tensor | None = None
) -> Tensor:
    """The geometric mean over radial bins of ``|S - S*| / S*``, S the weighted mean power spectrum.

    `radial_spectrum` says what the bins are. 0 where one bin agrees exactly.

    Parameters
    ----------
    samples : Tensor, shape (n, batch, *shape)
        Real signals of 1 to 3 axes.
    reference : Tensor, shape (m, batch, *shape)
        What is right.
    weights : Tensor, shape (n,) or (n, batch), optional
        Of the samples, >= 0; equal by default.
    reference_weights : Tensor, shape (m,) or (m, batch), optional
        Of the reference, >= 0; equal by default.

    Returns
    -------
    Tensor, shape (batch,)
        float64.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, complex or of another shape; where the reference has no power in some bin.
    """
    owner = "spectral_error"
    x, y, w, v = weighted_sets(owner, samples, reference, weights, reference_weights, ordered=True)
    s, s_reference = ((radial_spectrum(a) * b[..., None]).sum(0) for a, b in ((x, w), (y, v)))
    if bool((s_reference == 0).any()):
        item, place = (s_reference == 0).nonzero()[0].tolist()
        given = f"none in bin {place} of item {item}"
        raise invalid(owner, "reference", "of positive power in every radial bin", given)
    return ((s - s_reference).abs() / s_reference).log().mean(1).exp()


@in_defined_state
def radial_spectrum(x: Tensor) -> Tensor:
    """Power spectrum ``|FFT x|^2``, averaged over radial bins.

    The radius is that of the frequencies in cycles per entry, the bins are ``[j, j + 1) / N`` below 1/2, N the shortest
    axis: bin 0 holds the mean, and corners beyond 1/2 are left out.

    Parameters
    ----------
    x : Tensor, shape (n, batch, *shape)
        Real signals of 1 to 3 axes.

    Returns
    -------
    Tensor, shape (n, batch, bins)
        float64.

    Raises
    ------
    InputError, InputTypeError
        If ``x`` is not finite, complex or of another shape.
    """
    x = finite_values("radial_spectrum", "x", x, ordered=True)
    shape = x.shape[2:]
    if not 1 <= len(shape) <= 3:
        raise invalid("radial_spectrum", "x", "of 1 to 3 axes after (n, batch)", tuple(x.shape))
    shortest = min(shape)
    power = torch.fft.fftn(x, dim=tuple(range(2, x.ndim))).abs().square().flatten(2)
    squares = torch.zeros((), dtype=torch.float64, device="cpu")
    for axis, length in enumerate(shape):
        f = torch.fft.fftfreq(length, dtype=torch.float64, device="cpu").square()
        squares = squares + f.view(-1, *([1] * (len(shape) - axis - 1)))
    radius = squares.sqrt().flatten()
    bins = (radius * shortest + 1e-9).floor().long()  # 3/64 * 64 may be 2.9999999999999996
    inside = radius < 0.5 - 1e-12
    total = torch.zeros(*x.shape[:2], int(bins[inside].max()) + 1, dtype=torch.float64, device=x.device)
    total.index_add_(2, bins[inside].to(x.device), power[..., inside.to(x.device)])
    return total / bins[inside].bincount().to(x.device)


@in_defined_state
def error_rate(x: Tensor, truth: Tensor, threshold: float) -> Tensor:
    """The fraction of entries on the wrong side of a threshold: the error of a field of two values.

    Parameters
    ----------
    x : Tensor, shape (batch, *shape)
        Real: a sample, or a mean.
    truth : Tensor, shape (batch, *shape)
        What is right.
    threshold : float
        Entries of at least this belong to the upper value; 7.5 for the benchmark of Darcy's equation, of values 3
        and 12.

    Returns
    -------
    Tensor, shape (batch,)
        float64, from 0 to 1.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not finite, complex, or of another shape.
    """
    level = check_number("error_rate", "threshold", threshold)
    x, truth = pair_of_signals("error_rate", x, truth, ordered=True)
    return ((x >= level) != (truth >= level)).flatten(1).double().mean(1)


# --- parts ----------------------------------------------------------------------------------------------------------
def _mean(x: Tensor, w: Tensor) -> Tensor:
    """The weighted mean over the samples, ``(batch, *shape)``."""
    return (w.view(*w.shape, *([1] * (x.ndim - 2))) * x).sum(0)


def _kernel(ratio: Tensor) -> Tensor:
    return torch.stack([torch.exp(-ratio / s) for s in MMD_SCALES]).mean(0)


__getattr__ = found_later(__name__)
