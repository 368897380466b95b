"""A sparse matrix as an operator: CSR products over the whole batch, with the transpose stored as its own CSR."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import as_index, parameter
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_finite
from invsolve.errors import invalid
from invsolve.operators.algebra.matched import matched
from invsolve.operators.base import LinearOperator


def csr_tensor(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """A torch CSR tensor; the one place that builds them, because torch warns twice for each process that does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(crow, col, values, size=shape, device=values.device, check_invariants=False)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sparse(LinearOperator):
    """A sparse matrix S ``(m, n)`` in compressed rows: ``y = S x``, m = prod(out_shape), n = prod(in_shape).

    Row i holds ``values[crow[i]:crow[i+1]]`` at the columns ``col[crow[i]:crow[i+1]]``. `from_scipy` builds one from
    scipy.sparse.

    Parameters
    ----------
    crow : Tensor, array or list of int, shape (m + 1,)
        Where each row starts in ``col`` and ``values``: non-decreasing from 0 to nnz, the number of stored entries.
    col : Tensor, array or list of int, shape (nnz,)
        The columns of the stored entries.
    values : Tensor, array or list, shape (nnz,)
        The stored entries, real or complex, finite.
    in_shape, out_shape : tuple of int
        The shapes of signal and data, which are flattened in C order.
    in_kind : {'real', 'complex'}, optional
        The kind of the signal; that of ``values`` by default. A real matrix may act on complex signals, a complex one
        on real signals.

    Raises
    ------
    InputTypeError
        If an index does not hold integers, or ``values`` no numbers.
    InputError
        If these arrays are not a matrix in compressed rows of the stated shapes.
    """

    crow: Tensor
    col: Tensor
    values: Tensor
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind = None  # type: ignore[assignment]  # default: the kind of the values

    def __post_init__(self) -> None:
        for name in ("in_shape", "out_shape"):
            object.__setattr__(self, name, check_dims("Sparse", name, getattr(self, name)))
        for name in ("crow", "col"):
            index = getattr(self, name)
            if not isinstance(index, Tensor) or index.dtype != torch.int32:  # which CSR products take as it is
                object.__setattr__(self, name, as_index("Sparse", name, index))
        object.__setattr__(self, "values", parameter("Sparse", "values", self.values))
        rows, columns = prod(self.out_shape), prod(self.in_shape)
        if tuple(self.crow.shape) != (rows + 1,):
            raise invalid(
                "Sparse",
                "crow",
                f"of shape ({rows + 1},), one more than the entries of `out_shape`",
                tuple(self.crow.shape),
            )
        if self.values.ndim != 1 or self.col.shape != self.values.shape:
            raise invalid(
                "Sparse", "col", f"of the shape of `values`, {tuple(self.values.shape)}, 1-d", tuple(self.col.shape)
            )
        ends = (int(self.crow[0]), int(self.crow[-1]))
        if ends != (0, len(self.values)) or bool((self.crow.diff() < 0).any()):
            raise invalid("Sparse", "crow", f"non-decreasing from 0 to {len(self.values)}", f"{ends[0]} to {ends[1]}")
        if len(self.col) and (int(self.col.min()) < 0 or int(self.col.max()) >= columns):
            raise invalid(
                "Sparse", "col", f"between 0 and {columns - 1}", f"{int(self.col.min())} to {int(self.col.max())}"
            )
        check_finite("Sparse", "values", self.values)
        if self.in_kind is None:
            object.__setattr__(self, "in_kind", "complex" if self.values.is_complex() else "real")
        check_choice("Sparse", "in_kind", self.in_kind, ("real", "complex"))

    @property
    def out_kind(self) -> Kind:  # type: ignore[override]
        """The kind of the data: complex if signal or matrix is."""
        return "complex" if self.values.is_complex() else self.in_kind

    @cached_property
    def _csr(self) -> Tensor:
        return csr_tensor(self.crow, self.col, self.values, (prod(self.out_shape), prod(self.in_shape)))

    @cached_property
    def _csr_adjoint(self) -> Tensor:
        m, n = prod(self.out_shape), prod(self.in_shape)
        rows = torch.arange(m, device=self.col.device, dtype=self.col.dtype).repeat_interleave(self.crow.diff())
        order = self.col.argsort(stable=True)
        crow = torch.zeros(n + 1, dtype=self.crow.dtype, device=self.crow.device)
        crow[1:] = torch.bincount(self.col, minlength=n).cumsum(0)
        return csr_tensor(crow, rows[order], self.values[order].conj().resolve_conj(), (n, m))

    def _apply(self, x: Tensor) -> Tensor:
        return matched(x, self._forward, self._backward)

    def _adjoint(self, y: Tensor) -> Tensor:
        return matched(y, self._backward, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        return _multiply(self._csr, x.flatten(1)).view(len(x), *self.out_shape)

    def _backward(self, y: Tensor) -> Tensor:
        x = _multiply(self._csr_adjoint, y.flatten(1))
        x = x.real if self.in_kind == "real" and x.is_complex() else x
        return x.reshape(len(y), *self.in_shape)


def _multiply(csr: Tensor, x: Tensor) -> Tensor:
    """``(batch, n)`` -> ``(batch, m)``; a real matrix sees a complex batch as twice as many real columns."""
    if x.is_complex() and not csr.is_complex():
        both = _multiply(csr, torch.cat([x.real, x.imag]))
        return torch.complex(both[: len(x)], both[len(x) :])
    # Contiguous columns-last is the layout in which the CSR kernels are fastest (measured: 1.5 times, batch 8).
    out: Tensor = torch.sparse.mm(csr, x.to(csr.dtype).mT.contiguous()).mT.contiguous()
    return out
