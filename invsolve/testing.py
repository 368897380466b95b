"""Checks for operators that you bring: what is wrong with one, in words.

`check_operator` runs the properties that every operator of the package is tested for; `dot_test` is the one that
`solve` runs on each linear operator before it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.conjugate_gradients import inner
from invsolve.core.notebook import TextInNotebook
from invsolve.core.public_names import found_later
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Kind, check_int, check_positive, kind_dtype
from invsolve.errors import OperatorError
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.contract import Probe, Property, adjoint_gap, normal_rows, row_norm
from invsolve.operators.inputs import not_an_operator

__all__ = ["OperatorReport", "Property", "check_operator", "derivative_gap", "dot_test", "tolerance"]


def tolerance(dtype: torch.dtype) -> float:
    """Rounding of some thousand operations: 1e-5 in float32, 1e-12 in float64.

    Parameters
    ----------
    dtype : torch.dtype
        A real precision.

    Returns
    -------
    float
        The relative error that is allowed.
    """
    return 1e-12 if dtype == torch.float64 else 1e-5


@final
@dataclass(frozen=True, kw_only=True)
class OperatorReport(TextInNotebook):
    """What `check_operator` found; ``print(report)`` for people.

    Attributes
    ----------
    operator : str
        The operator in one line.
    properties : tuple of Property
        All that was looked at; only the first ones if the output is wrong already.
    """

    operator: str
    properties: tuple[Property, ...]

    @property
    def passed(self) -> bool:
        """Whether all properties hold."""
        return all(p.passed for p in self.properties)

    @property
    def failures(self) -> tuple[Property, ...]:
        """Those that do not hold."""
        return tuple(p for p in self.properties if not p.passed)

    def __str__(self) -> str:
        good = "all" if self.passed else sum(p.passed for p in self.properties)
        lines = [f"{self.operator}: {good} of {len(self.properties)} checks passed"]
        for p in self.properties:
            value = "" if p.value is None else f" (relative error {p.value:.1e})"
            lines.append(f"  {'ok  ' if p.passed else 'FAIL'}  {p.name}: {p.text}{value}")
        return "\n".join(lines)


@in_defined_state
def check_operator(A: Operator, *, seed: int = 0, tol: float | None = None, throw: bool = True) -> OperatorReport:
    """Check an operator against the contract of `invsolve.operators`; about fifty evaluations of a few rows.

    Inputs are random normal and smooth signals of unit size: an operator that is only defined elsewhere (positive
    signals, say) should be composed with its change of variable.

    Parameters
    ----------
    A : Operator
        What is checked.
    seed : int
        Of the random signals; 0 by default.
    tol : float, optional
        The relative error allowed for what should hold up to rounding, > 0; `tolerance` of the operator's precision by
        default. An operator with an inner iteration may need more.
    throw : bool
        Whether a failure raises; True by default.

    Returns
    -------
    OperatorReport
        What was found, failures too with ``throw=False``.

    Raises
    ------
    OperatorError
        If a property does not hold: the text lists all that do not.
    InputTypeError
        If ``A`` is no operator.
    """
    if not isinstance(A, Operator):
        raise not_an_operator("check_operator", "A", A)
    dtype = A.dtype or torch.float32
    tol = tolerance(dtype) if tol is None else check_positive("check_operator", "tol", tol)
    probe = Probe(A=A, seed=check_int("check_operator", "seed", seed), dtype=dtype, tol=tol)
    report = OperatorReport(operator=repr(A), properties=tuple(probe.run()))
    if throw and not report.passed:
        raise OperatorError(
            f"check_operator: {len(report.failures)} of {len(report.properties)} checks failed.\n{report}"
        )
    return report


@in_defined_state
def dot_test(A: LinearOperator, *, like: Tensor | None = None, seed: int = 0) -> float:
    """The adjoint gap on one random pair per item, the worst of all items.

    Parameters
    ----------
    A : LinearOperator
        What is tested.
    like : Tensor, optional
        Precision and device for an operator that has none of its own; float32 and the CPU by default.
    seed : int
        Of the random pair; 0 by default.

    Returns
    -------
    float
        ``|<Au,v> - <u,A^H v>| / max(||Au|| ||v||, ||u|| ||A^H v||)``.
    """
    rows = A.batch or 1
    dtype = A.dtype or (torch.float32 if like is None else kind_dtype(like.dtype, "real"))
    device = A.device or (None if like is None else like.device)
    u = normal_rows(rows, A.in_shape, A.in_kind, dtype, device, seed)
    v = normal_rows(rows, A.out_shape, A.out_kind, dtype, device, seed + 1)
    return adjoint_gap(u, v, A(u), A.adjoint(v))


@in_defined_state
def derivative_gap(A: Operator, mean: Tensor, scale: float, *, seed: int = 0) -> float:
    """How far an operator's derivative is from a finite difference, relative, at a point of the prior's size.

    One central difference in one random direction per item, ``<v, (A(x + h dx) - A(x - h dx)) / 2h>`` against
    ``<J^H v, dx>``: enough to see a derivative that is cut off or wrong.

    Parameters
    ----------
    A : Operator
        What is tested.
    mean : Tensor, shape (*A.in_shape)
        The mean of the prior, with the precision and device to use.
    scale : float
        The largest standard deviation of the prior, > 0.
    seed : int
        Of point and direction; 0 by default.

    Returns
    -------
    float
        The largest relative difference of an item; 0 where the output does not change.
    """
    rows, mean = A.batch or 1, parameter("derivative_gap", "mean", mean, dtype=A.dtype)
    kind: Kind = "complex" if mean.is_complex() else "real"
    x = mean + scale * normal_rows(rows, A.in_shape, kind, mean.dtype, mean.device, seed) / max(
        1.0, mean.numel() ** 0.5
    )
    dx = normal_rows(rows, A.in_shape, kind, mean.dtype, mean.device, seed + 1)
    h = scale * torch.finfo(mean.dtype).eps ** (1 / 3)
    change = (A(x + h * dx) - A(x - h * dx)) / (2 * h)
    v = change / row_norm(change).clamp_min(torch.finfo(mean.dtype).tiny).view(-1, *([1] * (change.ndim - 1)))
    _, pull = A.vjp(x)
    measured, stated = inner(v, change), inner(pull(v), dx)
    return (
        float(((measured - stated).abs() / measured.abs().clamp_min(1e-30)).max())
        if bool((measured > 0).any())
        else 0.0
    )


__getattr__ = found_later(__name__)
