"""The singular value decomposition ``A = U S V^H`` of a linear operator, as maps: see `LinearOperator.svd`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import as_given
from invsolve.core.counting import count
from invsolve.core.decompositions import svd
from invsolve.core.torch_state import Defined
from invsolve.core.validation import Kind, Shape, check_kind, check_shape
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.operators.base import LinearOperator
from invsolve.operators.dense import dense_matrix

LIMIT = 4096  # unknowns, and data, of a dense decomposition: a minute or two on one core, half a gigabyte


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Spectrum(Defined):
    """The singular value decomposition ``A = U S V^H``, V unitary on the whole signal space; see `LinearOperator.svd`.

    Coordinates are ``(rows, *shape)`` of ``kind`` 'real' or 'complex'; V is unitary in Re<u, v>, so white noise has
    white coordinates of the same std per real component. Where s = 0 the signal is not seen: V keeps these
    coordinates, U has none. The order is that of V (frequencies, pixels), not that of the values.

    Parameters
    ----------
    values : Tensor, shape (*shape) or (items, *shape)
        The singular values s >= 0, real, in the one precision of the decomposition.
    signal_basis : LinearOperator
        V^H: signals to coordinates.
    data_basis : LinearOperator
        U^H: data to the same coordinates, zero where s = 0.

    Raises
    ------
    InputTypeError
        If ``values`` is not a real tensor or a basis not linear; from a method, if a tensor has another precision.
    InputError
        If ``values`` has another shape or a negative entry, or the bases have different coordinates.

    Examples
    --------
    >>> import torch
    >>> from invsolve.operators import Mask
    >>> spectrum = Mask(torch.tensor([True, False])).svd()
    >>> spectrum.values, spectrum.data_to_spectrum(torch.tensor([[3.0, 4.0]]))
    (tensor([1., 0.]), tensor([[3., 0.]]))
    """

    values: Tensor
    signal_basis: LinearOperator
    data_basis: LinearOperator

    def __post_init__(self) -> None:
        signal, data = self.signal_basis, self.data_basis
        if not isinstance(self.values, Tensor) or not self.values.is_floating_point():
            given = str(self.values.dtype) if isinstance(self.values, Tensor) else self.values
            raise invalid_type("Spectrum", "values", "a real floating tensor", given)
        for name, value in (("signal_basis", signal), ("data_basis", data)):
            if not isinstance(value, LinearOperator):
                raise invalid_type("Spectrum", name, "a LinearOperator", value)
        if (signal.out_shape, signal.out_kind) != (data.out_shape, data.out_kind):
            expected = f"to coordinates of shape and kind {(signal.out_shape, signal.out_kind)}, as `signal_basis`"
            raise invalid("Spectrum", "data_basis", expected, (data.out_shape, data.out_kind))
        shape = tuple(self.values.shape)
        if self.shape not in (shape, shape[1:]):
            raise invalid("Spectrum", "values", f"of shape {self.shape}, or one such for each item", shape)
        if not bool((self.values >= 0).all()):
            raise invalid("Spectrum", "values", "non-negative", float(self.values.min()))

    @property
    def shape(self) -> Shape:
        """The shape of the coordinates of one signal."""
        return self.signal_basis.out_shape

    @property
    def kind(self) -> Kind:
        """The kind of the coordinates, 'real' or 'complex'."""
        return self.signal_basis.out_kind

    @property
    def batch(self) -> int | None:
        """The number of items, or None if one decomposition serves every row."""
        return len(self.values) if self.values.ndim > len(self.shape) else None

    def to_spectrum(self, x: Tensor) -> Tensor:
        """``V^H x`` for signals ``x`` ``(rows, *in_shape)``."""
        return self.signal_basis._apply(self._checked("x", x, self.signal_basis.in_shape, self.signal_basis.in_kind))

    def from_spectrum(self, c: Tensor) -> Tensor:
        """``V c`` for coordinates ``c`` ``(rows, *shape)``: the signals ``(rows, *in_shape)``."""
        return self.signal_basis._adjoint(self._checked("c", c, self.shape, self.kind))

    def data_to_spectrum(self, y: Tensor) -> Tensor:
        """``U^H y`` for data ``y`` ``(rows, *out_shape)``, in the coordinates of V: 0 where s = 0."""
        return self.data_basis._apply(self._checked("y", y, self.data_basis.in_shape, self.data_basis.in_kind))

    def data_from_spectrum(self, c: Tensor) -> Tensor:
        """``U c`` for coordinates ``c`` ``(rows, *shape)``, those with s = 0 ignored: data ``(rows, *out_shape)``."""
        return self.data_basis._adjoint(self._checked("c", c, self.shape, self.kind))

    def take(self, index: Tensor) -> Self:
        """Return the decomposition of the rows ``index`` (int64, 1-d) of the operator's items."""
        values = self.values if self.batch is None else self.values[index.to(self.values.device)]
        return type(self)(
            values=values, signal_basis=self.signal_basis.take(index), data_basis=self.data_basis.take(index)
        )

    def __repr__(self) -> str:
        batch = "" if self.batch is None else f", {self.batch} items"
        return f"Spectrum({self.signal_basis.in_shape} -> {self.shape}, {self.kind}, {self.values.dtype}{batch})"

    def _checked(self, name: str, value: Tensor, shape: Shape, kind: Kind) -> Tensor:
        own, device = self.values.dtype, self.values.device
        value = as_given("Spectrum", name, value, dtype=own, device=device, kind=kind)
        check_kind("Spectrum", name, check_shape("Spectrum", name, value, shape), kind)
        if self.batch is not None and len(value) != self.batch:
            raise invalid(
                "Spectrum", name, f"of {self.batch} rows, one for each item", len(value), "Write spectrum.take(index)."
            )
        count("spectral", len(value))
        return value


# --- the dense decomposition ------------------------------------------------------------------------------------------
def too_large(operator: LinearOperator) -> str:
    """Why an operator has no dense decomposition; '' if it has one."""
    n, m = (
        (2 if kind == "complex" else 1) * torch.Size(shape).numel()
        for shape, kind in ((operator.in_shape, operator.in_kind), (operator.out_shape, operator.out_kind))
    )
    items = operator.batch or 1
    if max(n, m) <= LIMIT and items * (n**2 + m**2) <= 2 * LIMIT**2:
        return ""
    return (
        f"{type(operator).__name__}.svd: no closed form is known for this operator, and a dense one is for up to "
        f"{LIMIT} unknowns and {LIMIT} data, real numbers, of all items together; got {n} unknowns and {m} data of "
        f"{items} item(s). Take fewer items at a time (A.take), use a smaller grid, or a strategy that needs no "
        "decomposition: "
        "MMPS, SMC, NoiseMCMC."
    )


def dense(operator: LinearOperator, dtype: torch.dtype, device: torch.device) -> Spectrum:
    """By LAPACK on the matrix of real numbers, in float64; coordinates are real, in descending order of the values."""
    if reason := too_large(operator):
        raise UnsupportedError(reason)
    n = (2 if operator.in_kind == "complex" else 1) * torch.Size(operator.in_shape).numel()
    m = (2 if operator.out_kind == "complex" else 1) * torch.Size(operator.out_shape).numel()
    left, values, right = svd(dense_matrix(operator, dtype=dtype), full_matrices=n > m)  # V is square
    # Below this a value is rounding, of the operator's own precision.
    floor = values.amax(-1, keepdim=True) * torch.finfo(dtype).eps * max(n, m)
    values = torch.where(values > floor, values, 0.0)
    seen = values.shape[-1]  # min(n, m)
    padded = values.new_zeros(*values.shape[:-1], n)
    padded[..., :seen] = values
    rows = left.new_zeros(*left.shape[:-2], n, m)
    rows[..., :seen, :] = left.mT[..., :seen, :] * (values > 0)[..., None]
    return Spectrum(
        values=padded.to(device, dtype),
        signal_basis=RealMatrix(matrix=right.to(device, dtype), in_shape=operator.in_shape, in_kind=operator.in_kind),
        data_basis=RealMatrix(matrix=rows.to(device, dtype), in_shape=operator.out_shape, in_kind=operator.out_kind),
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RealMatrix(LinearOperator):
    """``c = matrix @ [Re x; Im x]`` of the flattened signal; ``matrix`` real, ``(k, n)`` or ``(items, k, n)``."""

    matrix: Tensor
    in_shape: Shape
    in_kind: Kind

    def _item_axes(self) -> dict[str, int]:
        return {"matrix": 2}

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.matrix.shape[-2],)

    def _apply(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        flat = torch.cat([flat.real, flat.imag], 1) if self.in_kind == "complex" else flat
        return _times(self.matrix, flat)

    def _adjoint(self, y: Tensor) -> Tensor:
        flat = _times(self.matrix.mT, y)
        flat = torch.complex(*flat.chunk(2, 1)) if self.in_kind == "complex" else flat
        return flat.view(len(y), *self.in_shape)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return x @ matrix.mT if matrix.ndim == 2 else (matrix @ x[..., None])[..., 0]
