"""A dense matrix as an operator: the reference for everything small."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.validation import Kind, Shape, check_choice, check_finite
from invsolve.errors import invalid
from invsolve.operators.base import LinearOperator


@final
@dataclass(frozen=True, eq=False, repr=False)
class Matrix(LinearOperator):
    """A dense matrix: ``y = matrix @ x``, the response of a detector, say; signals and data have one axis.

    Parameters
    ----------
    matrix : Tensor, array or list, shape (m, n) or (items, m, n)
        Real or complex, finite.
    in_kind : {'real', 'complex'}, optional
        The kind of the signal; that of the matrix by default. A complex matrix maps complex to complex; for a real
        signal seen through a complex matrix say ``in_kind="real"``.

    Raises
    ------
    InputTypeError
        If ``matrix`` does not hold numbers.
    InputError
        If it has another number of axes or entries that are not finite.

    Examples
    --------
    >>> import torch
    >>> Matrix(torch.tensor([[1.0, 2.0]]))(torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """

    matrix: Tensor
    _: KW_ONLY
    in_kind: Kind = None  # type: ignore[assignment]  # default: the kind of the matrix

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", parameter("Matrix", "matrix", self.matrix))
        if self.matrix.ndim not in (2, 3):
            raise invalid("Matrix", "matrix", "of shape (m, n) or (items, m, n)", tuple(self.matrix.shape))
        check_finite("Matrix", "matrix", self.matrix)
        if self.in_kind is None:
            object.__setattr__(self, "in_kind", "complex" if self.matrix.is_complex() else "real")
        check_choice("Matrix", "in_kind", self.in_kind, ("real", "complex"))
        if self.in_kind == "complex" and not self.matrix.is_complex():
            object.__setattr__(self, "matrix", torch.complex(self.matrix, torch.zeros_like(self.matrix)))

    def _item_axes(self) -> dict[str, int]:
        return {"matrix": 2}

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The number of columns, ``(n,)``."""
        return (self.matrix.shape[-1],)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The number of rows, ``(m,)``."""
        return (self.matrix.shape[-2],)

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        """The kind of the data: complex if the matrix is."""
        return "complex" if self.matrix.is_complex() else "real"

    def _apply(self, x: Tensor) -> Tensor:
        x = x.to(self.matrix.dtype)
        return x @ self.matrix.mT if self.matrix.ndim == 2 else torch.einsum("bmn,bn->bm", self.matrix, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y @ self.matrix.conj() if self.matrix.ndim == 2 else torch.einsum("bmn,bm->bn", self.matrix.conj(), y)
        return x.real if self.in_kind == "real" and x.is_complex() else x
