"""The coefficient of an elliptic equation from the solution at points: the benchmark of Aristoff and Bangerth."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Shape, check_int
from invsolve.errors import invalid, invalid_type
from invsolve.noise import Gaussian
from invsolve.operators.base import Operator
from invsolve.operators.pde.bilinear_elements import solve_elements
from invsolve.priors.exact.gaussian import GaussianPrior
from invsolve.problem import Problem
from invsolve.problems.base import InverseProblem

_FORCE = 10.0
_STD = 0.05  # of the noise
_LOG_STD = 2.0  # of the prior
_FINE = 256  # elements along a side, of which the data are made
_REFERENCE = "Aristoff & Bangerth 2021, arXiv 2102.07263"


@final
@dataclass(frozen=True, eq=False, repr=False)
class CellCoefficient(Operator):
    """Logarithms of the coefficient on ``blocks`` x ``blocks`` cells to the solution at ``points`` x ``points`` points.

    The solution of ``-div(a grad u) = 10`` on the unit square, 0 on its walls, by bilinear finite elements: second
    order. A product with its derivative takes one more solve with the factors of the first.

    Parameters
    ----------
    blocks : int
        Cells along a side, on which the coefficient is constant, >= 1.
    elements : int
        Elements along a side, a multiple of ``blocks``, >= 2.
    points : int
        Along a side, at k / (points + 1), >= 1.
    dtype : torch.dtype
        float64 or float32, of the equation.

    Raises
    ------
    InputError, InputTypeError
        If a number is none of these.

    Examples
    --------
    >>> CellCoefficient(8)
    CellCoefficient((8, 8) -> (13, 13), real)
    """

    blocks: int
    _: KW_ONLY
    elements: int = 32
    points: int = 13
    dtype: torch.dtype = torch.float64
    _rows: Tensor = field(init=False, repr=False)  # of the interpolation, (points, elements - 1)

    def __post_init__(self) -> None:
        owner = "CellCoefficient"
        for name, least in (("blocks", 1), ("elements", 2), ("points", 1)):
            check_int(owner, name, getattr(self, name), minimum=least)
        if self.elements % self.blocks:
            raise invalid(owner, "elements", f"a multiple of blocks, {self.blocks}", self.elements)
        if self.dtype not in (torch.float32, torch.float64):
            raise invalid_type(owner, "dtype", "torch.float32 or torch.float64", str(self.dtype))
        place = torch.arange(1, self.points + 1, dtype=torch.float64, device="cpu") / (self.points + 1) * self.elements
        left = place.floor().clamp_max(self.elements - 1)
        nodes = torch.arange(1, self.elements, dtype=torch.float64, device="cpu")
        share = place - left
        rows = (nodes == left[:, None]) * (1 - share)[:, None] + (nodes == left[:, None] + 1) * share[:, None]
        object.__setattr__(self, "_rows", rows.to(self.dtype))

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (self.blocks, self.blocks)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        return (self.points, self.points)

    def _apply(self, x: Tensor) -> Tensor:
        n, many = self.elements, self.elements // self.blocks
        a = x.exp().repeat_interleave(many, 1).repeat_interleave(many, 2)
        load = torch.full((len(x), n - 1, n - 1), _FORCE / n**2, dtype=x.dtype, device=x.device)
        return self._rows @ solve_elements(a, load) @ self._rows.mT

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CellCoefficient:
        made = replace(self, dtype=dtype or self.dtype)
        object.__setattr__(made, "_rows", made._rows.to(device=device or self._rows.device))
        return made


@in_defined_state
def elliptic(*, elements: int = 32) -> InverseProblem:
    """The coefficient of an elliptic equation on 64 cells, from its solution at 169 points.

    Unknown are the logarithms x of a coefficient that is constant on 8 x 8 cells; the truth is 1, but for 2 x 2 cells
    of 0.1 and 2 x 2 of 10. Data are the solution of a finer grid, without noise, as published; their noise has std
    0.05. The posterior is wide, skewed and far from Gaussian: in the corners hardly anything is known.

    Parameters
    ----------
    elements : int
        Finite elements along a side of the operator, a multiple of 8; 32 as published.

    Returns
    -------
    InverseProblem
        Signals (8, 8), data (13, 13), float64.

    Raises
    ------
    InputError, InputTypeError
        If ``elements`` is no multiple of 8.

    Notes
    -----
    The density of the prior that the authors' program states, ``exp(-ln(a)^2 / 8)`` for every cell, is one with respect
    to a itself: its proposals multiply a, and are corrected for that. That of x = ln a then has the factor e^x:
    x ~ N(4, 2^2).

    References
    ----------
    Aristoff & Bangerth 2021, A benchmark for the Bayesian inversion of coefficients in partial differential equations,
    arXiv 2102.07263.

    Examples
    --------
    >>> case = elliptic()
    >>> case.problem.operator
    CellCoefficient((8, 8) -> (13, 13), real)
    """
    A = CellCoefficient(8, elements=elements)
    truth = torch.zeros(8, 8, dtype=torch.float64, device="cpu")
    truth[1:3, 1:3], truth[5:7, 5:7] = torch.tensor([0.1, 10.0], dtype=torch.float64, device="cpu").log()
    data = CellCoefficient(8, elements=_FINE)(truth[None])
    mean = torch.full((64,), _LOG_STD**2, dtype=torch.float64, device="cpu").view(8, 8)
    variance = _LOG_STD**2 * torch.eye(64, dtype=torch.float64, device="cpu")
    return InverseProblem(
        problem=Problem(A, data, Gaussian(_STD)),
        prior=GaussianPrior(mean=mean, covariance=variance),
        truth=truth,
        reference=_REFERENCE,
    )
