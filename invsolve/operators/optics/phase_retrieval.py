"""Detectors that lose the phase: the modulus of any linear operator, or its square."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.validation import check_choice
from invsolve.errors import invalid_type
from invsolve.operators.algebra.algebra import _Wrapper
from invsolve.operators.algebra.delegate import Alike
from invsolve.operators.base import LinearOperator, Pullback


@final
@dataclass(frozen=True, eq=False, repr=False)
class PhaseRetrieval(Alike, _Wrapper):
    """Detectors that lose the phase: ``y = |B x|`` or ``|B x|^2``, entry by entry; data are real.

    ``x`` and ``exp(i a) x`` give the same data (for real signals ``x`` and ``-x``); for plain Fourier moduli also
    shifts and the conjugate reversal of ``x``: compare with a truth up to those. `invsolve.baselines.amplitude_flow`
    is the usual reconstruction from amplitudes.

    Parameters
    ----------
    operator : LinearOperator
        B, real or complex: `Diffraction` for far-field patterns (oversampled, behind coded masks), a random `Matrix`,
        a `Stack`.
    measure : {'amplitude', 'intensity'}
        ``|B x|`` (the default) or ``|B x|^2``.

    Raises
    ------
    InputTypeError
        If ``operator`` is not linear.
    InputError
        If ``measure`` is neither of the two.

    Notes
    -----
    With ``u = B x`` the derivatives in Re<u, v> are ``J dx = Re(conj(s) B dx)`` and ``J^H v = B^H (s v)``, with ``s =
    u / |u|`` for amplitudes, taken as 0 where u = 0, where ``|u|`` has a corner, and ``s = 2 u`` for intensities.

    Examples
    --------
    >>> import torch
    >>> from invsolve.operators import Matrix
    >>> A = PhaseRetrieval(Matrix(torch.tensor([[3 + 4j]])))
    >>> A(torch.tensor([[1j], [2.0]]))
    tensor([[ 5.],
            [10.]])
    """

    operator: LinearOperator
    _: KW_ONLY
    measure: Literal["amplitude", "intensity"] = "amplitude"

    out_kind = "real"

    def __post_init__(self) -> None:
        if not isinstance(self.operator, LinearOperator):
            raise invalid_type("PhaseRetrieval", "operator", "a LinearOperator", self.operator)
        check_choice("PhaseRetrieval", "measure", self.measure, ("amplitude", "intensity"))

    def _apply(self, x: Tensor) -> Tensor:
        return self._modulus(self.operator._apply(x))

    def _vjp(self, x: Tensor) -> tuple[Tensor, Pullback]:
        u = self.operator._apply(x)
        slope = self._slope(u)
        return self._modulus(u), lambda v: self.operator._adjoint(slope * v)

    def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
        u, du = self.operator._jvp(x, dx)
        turned = self._slope(u).conj() * du
        return self._modulus(u), turned.real if turned.is_complex() else turned

    def _modulus(self, u: Tensor) -> Tensor:
        if self.measure == "amplitude":
            return u.abs()
        return u.real.square() + u.imag.square() if u.is_complex() else u.square()

    def _slope(self, u: Tensor) -> Tensor:
        return torch.sgn(u) if self.measure == "amplitude" else 2 * u
