"""A spectrum that was measured: variances between which, and beyond which, a power law is taken."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.torch_state import in_defined_state
from invsolve.core.transforms import Transform
from invsolve.core.validation import check_choice, check_finite, check_positive
from invsolve.errors import UnsupportedError, invalid
from invsolve.priors.fields.bases import BASES, Basis, grid_factor, laplace_eigenvalues
from invsolve.priors.fields.spectra import FieldSpectrum, Matern, Spectrum, Whittle

_FEWEST = 8  # modes of a bin


@final
@dataclass(frozen=True, eq=False)
class TabulatedSpectrum(FieldSpectrum):
    """Variances at some Laplace eigenvalues; power laws between them, and as the last ones go beyond them.

    Parameters
    ----------
    eigenvalues : Tensor or array, shape (n,)
        lambda_k > 0, increasing, n >= 2, in 1 / length^2.
    values : Tensor or array, shape (n,)
        The variances there, > 0, in squared units of the signal.
    at_zero : float, optional
        That of the constant mode, >= 0; that of the lowest eigenvalue unless given.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.

    Examples
    --------
    >>> import torch
    >>> spectrum = TabulatedSpectrum([10.0, 1000.0], [1.0, 1e-4])  # one over the eigenvalue squared
    >>> spectrum.variances(torch.tensor([100.0, 1e4], dtype=torch.float64), "neumann", (1.0, 1.0))
    tensor([1.0000e-02, 1.0000e-06], dtype=torch.float64)
    """

    eigenvalues: Tensor
    values: Tensor
    at_zero: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        owner = "TabulatedSpectrum"
        for name in ("eigenvalues", "values"):
            value = check_finite(owner, name, parameter(owner, name, getattr(self, name), dtype=torch.float64))
            if value.ndim != 1 or len(value) < 2 or not bool((value > 0).all()):
                raise invalid(owner, name, "two numbers > 0 or more", tuple(value.shape))
            object.__setattr__(self, name, value.double().cpu())
        if len(self.values) != len(self.eigenvalues):
            raise invalid(owner, "values", f"one for each of {len(self.eigenvalues)} eigenvalues", len(self.values))
        if not bool((self.eigenvalues.diff() > 0).all()):
            raise invalid(owner, "eigenvalues", "increasing", self.eigenvalues.tolist())
        if self.at_zero is not None:
            check_positive(owner, "at_zero", self.at_zero, zero=True)

    def variances(self, eigenvalues: Tensor, basis: Basis, extent: tuple[float, ...]) -> Tensor:
        x, y = self.eigenvalues.log().numpy(), self.values.log().numpy()
        at = eigenvalues.double().cpu().clamp_min(float(self.eigenvalues[0])).log().numpy()
        found = np.interp(at, x, y)
        beyond = at > x[-1]
        # The last bins are noisy, and cut off by the grid that they come from: a slope over a third of a decade.
        first = min(int(np.searchsorted(x, x[-1] - 0.8)), len(x) - 2)
        slope = min((y[-1] - y[first]) / (x[-1] - x[first]), 0.0)
        found[beyond] = y[-1] + slope * (at[beyond] - x[-1])
        made = torch.tensor(found, dtype=torch.float64, device="cpu").exp()
        zero = float(self.values[0]) if self.at_zero is None else self.at_zero
        return torch.where(eigenvalues.cpu() > 0, made, zero).to(eigenvalues.device)


def scaled(spectrum: FieldSpectrum | Tensor, factor: float) -> FieldSpectrum | Tensor:
    """The spectrum of ``factor`` > 0 times the field."""
    if isinstance(spectrum, Tensor):
        return factor**2 * spectrum
    if isinstance(spectrum, Matern) and isinstance(spectrum.std, float):
        return replace(spectrum, std=factor * spectrum.std)
    if isinstance(spectrum, Whittle):
        return replace(spectrum, amplitude=factor * spectrum.numbers[2])
    if isinstance(spectrum, TabulatedSpectrum):
        zero = None if spectrum.at_zero is None else factor**2 * spectrum.at_zero
        return replace(spectrum, values=factor**2 * spectrum.values, at_zero=zero)
    if isinstance(spectrum, Spectrum):
        own = spectrum.function
        return Spectrum(lambda eigenvalues: factor**2 * own(eigenvalues))
    raise UnsupportedError(f"A {type(spectrum).__name__} has no unit that could be changed: state it in that unit.")


@in_defined_state
def estimate_spectrum(
    signals: Tensor, *, basis: Basis = "neumann", extent: tuple[float, ...] | None = None
) -> TabulatedSpectrum:
    """The spectrum of fields on a grid: variances of their modes, averaged over modes of about equal eigenvalue.

    Parameters
    ----------
    signals : Tensor or array, shape (n, *shape)
        Real fields, at least two.
    basis : {"neumann", "dirichlet", "periodic"}
        Of the box, as for `GaussianFieldPrior`.
    extent : tuple of float, optional
        The lengths of the box, 1.0 each unless given.

    Returns
    -------
    TabulatedSpectrum
        About the mean over fields and points; the constant mode has a variance of its own.

    Raises
    ------
    InputError, InputTypeError
        For fewer than two fields, or fields that are all the same.
    """
    owner = "estimate_spectrum"
    check_choice(owner, "basis", basis, BASES)
    x = check_finite(owner, "signals", parameter(owner, "signals", signals, dtype=torch.float64)).double()
    if x.ndim < 2 or len(x) < 2 or x.is_complex():
        raise invalid(owner, "signals", "at least two real fields, (n, *shape)", tuple(x.shape))
    shape = tuple(x.shape[1:])
    transform = Transform(name=BASES[basis], shape=shape, dtype=torch.float64)
    power = transform.forward(x - x.mean()).square().mean(0) / grid_factor(basis, shape)
    if bool((x == x[0]).all()) or not bool((power > 0).any()):
        raise invalid(owner, "signals", "different from each other", "all the same")
    eigenvalues = laplace_eigenvalues(basis, shape, extent or (1.0,) * len(shape)).flatten()
    order = eigenvalues.argsort()
    where, values = eigenvalues[order], power.flatten()[order]
    # Their mean was taken away, and with it 1/n of the variance of the constant mode.
    constant = float(values[0]) * len(x) / (len(x) - 1) if float(where[0]) == 0 else None
    where, values = where[where > 0], values[where > 0]
    floor = 1e-14 * float(values.max())
    edges = [0]
    while edges[-1] < len(where):  # bins a tenth wide, of a few modes at least
        first = edges[-1]
        last = int(torch.searchsorted(where, 1.1 * where[first], right=True))
        edges.append(min(max(last, first + (_FEWEST if first else 1)), len(where)))
    bins = list(zip(edges[:-1], edges[1:], strict=True))
    return TabulatedSpectrum(
        torch.stack([where[a:b].mean() for a, b in bins]),
        torch.stack([values[a:b].mean() for a, b in bins]).clamp_min(floor),
        at_zero=constant,
    )
