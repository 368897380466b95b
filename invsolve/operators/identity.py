"""The data are the signal itself, with noise on it: denoising."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.counting import count
from invsolve.core.validation import Kind, Shape, check_choice, check_dims
from invsolve.errors import invalid
from invsolve.operators.base import Operator
from invsolve.operators.one_kind import OneKind
from invsolve.operators.spectrum import Spectrum


@final
@dataclass(frozen=True, eq=False, repr=False, init=False)
class Identity(OneKind):
    """``y = x``: denoising. Any precision and device.

    Parameters
    ----------
    in_shape : sequence of int, optional
        The shape of the signal; left out, it is that of the prior, where `solve`, `calibrate` and `advise` get one.
    kind : {'real', 'complex'}, optional
        The kind of signal and data; that of the prior beside a shape that is left out, else real.

    Raises
    ------
    InputError
        If ``kind`` is neither, or where the shape is needed and was left out.

    Examples
    --------
    >>> import torch
    >>> import invsolve as iv
    >>> prior = iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3))
    >>> iv.solve(Identity(), torch.tensor([2.0, 0.0, 4.0]), prior, noise=1.0).mean
    tensor([1., 0., 2.])
    """

    shape: Shape | None
    stated: Kind | None

    entrywise = True

    def __init__(self, in_shape: Sequence[int] | None = None, *, kind: Kind | None = None) -> None:
        if kind is not None:
            check_choice("Identity", "kind", kind, ("real", "complex"))
        object.__setattr__(self, "shape", None if in_shape is None else check_dims("Identity", "in_shape", in_shape))
        object.__setattr__(self, "stated", kind)

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the signal."""
        if self.shape is None:
            repair = "Write Identity(prior.shape), or Identity(y.shape) for one y without a batch axis."
            raise invalid(
                "Identity",
                "in_shape",
                "given inside of other operators, and outside of solve, calibrate and advise",
                None,
                repair,
            )
        return self.shape

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the data, that of the signal."""
        return self.in_shape

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        """The kind of signal and data."""
        return self.stated or "real"

    @property
    def gram(self) -> float:
        return 1.0

    def __repr__(self) -> str:
        return super().__repr__() if self.shape is not None else "Identity()"

    def _apply(self, x: Tensor) -> Tensor:
        return x.resolve_conj().clone()  # a copy: nobody's signal is to change with its data

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.resolve_conj().clone()

    def _pinv(self, y: Tensor, *, rtol: float, max_iter: int) -> Tensor:
        count("adjoint", len(y))
        return self._adjoint(y)

    def _solve_normal(
        self, rhs: Tensor, *, weight: Tensor | float, tau: float, start: Tensor | None, rtol: float, max_iter: int
    ) -> Tensor:
        if isinstance(weight, Tensor):  # which may have the shape of no data
            return super()._solve_normal(rhs, weight=weight, tau=tau, start=start, rtol=rtol, max_iter=max_iter)
        count("operator", len(rhs))
        count("adjoint", len(rhs))
        return rhs / (weight + tau)

    def _svd(self, dtype: torch.dtype, device: torch.device) -> Spectrum:
        return Spectrum(
            values=torch.ones(self.in_shape, dtype=dtype, device=device), signal_basis=self, data_basis=self
        )


def of_shape(A: Operator, shape: Shape, kind: Kind) -> Operator:
    """``A``, an `Identity` that has no shape with this one, and with this kind unless it states one."""
    if isinstance(A, Identity) and A.shape is None:
        return Identity(shape, kind=A.stated or kind)
    return A
