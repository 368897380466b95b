"""Checks of what metrics compare: signals, samples and weights, in float64 and finite, or an error with a repair."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invsolve.core.arrays import parameter, several
from invsolve.core.validation import check_number
from invsolve.errors import invalid, invalid_type


def finite_values(owner: str, name: str, value: Any, *, ordered: bool = False) -> Tensor:
    """A finite tensor of a tensor, an array or a list, in float64; ``ordered`` refuses complex numbers."""
    value = parameter(owner, name, value, dtype=torch.float64)
    if ordered and value.is_complex():
        raise invalid_type(owner, name, "real", str(value.dtype), "Score .abs(), .real and .imag one by one.")
    if value.numel() == 0:
        raise invalid(owner, name, "of at least one entry", tuple(value.shape))
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        raise invalid(
            owner, name, "finite", f"{int(bad.sum())} NaN or infinite values", "Leave failed samples and items out."
        )
    wide: Tensor = value.to(torch.complex128 if value.is_complex() else torch.float64)
    return wide


def pair_of_signals(owner: str, x: Tensor, truth: Tensor, *, ordered: bool = False) -> tuple[Tensor, Tensor]:
    """Signals ``x`` and ``truth``, both ``(batch, ...)``."""
    x, truth = finite_values(owner, "x", x, ordered=ordered), finite_values(owner, "truth", truth, ordered=ordered)
    if x.ndim < 2 or x.shape != truth.shape:
        hint = "Add a batch axis: x[None], truth[None]." if x.shape == truth.shape else ""
        given = f"{tuple(x.shape)} and {tuple(truth.shape)}"
        raise invalid(owner, "x", "of the shape (batch, ...) of `truth`", given, hint)
    return x, truth


def samples_and_truth(
    owner: str, samples: Tensor, truth: Tensor, *, ordered: bool = False, name: str = "truth"
) -> tuple[Tensor, Tensor]:
    """Samples ``(n, batch, *shape)``, n >= 2, and the one truth ``(batch, *shape)``, an argument called ``name``."""
    samples = finite_values(owner, "samples", samples, ordered=ordered)
    truth = finite_values(owner, name, truth, ordered=ordered)
    if truth.ndim < 1 or samples.shape[1:] != truth.shape:
        expected = f"of shape (n, *{name}.shape) = (n, {', '.join(map(str, truth.shape))})"
        raise invalid(owner, "samples", expected, tuple(samples.shape))
    if len(samples) < 2:
        raise invalid(owner, "samples", "of at least 2 samples", len(samples))
    return samples, truth


def weighted_sets(
    owner: str,
    samples: Tensor,
    reference: Tensor,
    weights: Tensor | None,
    reference_weights: Tensor | None,
    *,
    ordered: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both sets in float64, and their normalised weights ``(n, batch)``, ``(m, batch)``."""
    x = finite_values(owner, "samples", samples, ordered=ordered)
    y = finite_values(owner, "reference", reference, ordered=ordered)
    if x.ndim < 3 or y.ndim != x.ndim or x.shape[1:] != y.shape[1:]:
        expected = "of shape (m, batch, *shape) where samples is (n, batch, *shape)"
        raise invalid(owner, "reference", expected, f"{tuple(y.shape)} with samples {tuple(x.shape)}")
    if x.is_complex() != y.is_complex():
        raise invalid_type(owner, "reference", "complex as the samples, or both real", str(reference.dtype))
    return x, y, _weights(owner, "weights", weights, x), _weights(owner, "reference_weights", reference_weights, y)


def _weights(owner: str, name: str, weights: Tensor | None, x: Tensor) -> Tensor:
    n, batch = x.shape[:2]
    if weights is None:
        return torch.full((n, batch), 1 / n, dtype=torch.float64, device=x.device)
    w = finite_values(owner, name, weights, ordered=True)
    if tuple(w.shape) not in ((n,), (n, batch)):
        raise invalid(owner, name, f"of shape ({n},) or ({n}, {batch})", tuple(w.shape))
    if bool((w < 0).any()):
        raise invalid(owner, name, "non-negative", float(w.min()))
    total = w.sum(0)
    if bool((total == 0).any()):
        raise invalid(owner, name, "positive for some sample of every item", "all zero")
    return (w / total).reshape(n, -1).expand(n, batch)


def of_shape(owner: str, name: str, value: Tensor | float, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A number or an array ``(*shape)``, finite and real, in float64."""
    if not several(value) and not isinstance(value, Tensor):
        value = torch.tensor(check_number(owner, name, value), dtype=torch.float64, device="cpu")
    checked = finite_values(owner, name, value, ordered=True).to(like.device)
    if checked.ndim and tuple(checked.shape) != shape:
        raise invalid(owner, name, f"a number, or of shape {shape}", tuple(checked.shape))
    return checked


def real_rows(x: Tensor) -> Tensor:
    """Real components: (n, *shape) -> (n, dimension)."""
    return torch.view_as_real(x).flatten(1) if x.is_complex() else x.flatten(1)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared distances of all pairs, each as the sum of squared differences: no cancellation."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def relative_distance(owner: str, what: str, value: Tensor, target: Tensor) -> Tensor:
    """``|value - target| / |target|`` of every item; raise where the target is 0."""
    size, gap = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (target, value - target))
    if bool((size == 0).any()):
        item = int((size == 0).nonzero()[0])
        raise invalid(owner, "reference", f"of a {what} that is not zero", f"zero in item {item}")
    out: Tensor = gap / size
    return out
