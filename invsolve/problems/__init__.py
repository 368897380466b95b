"""Inverse problems of the literature, whole: operator, data, noise and prior, with a truth that is known."""

from typing import TYPE_CHECKING

from invsolve.core.public_names import found_later
from invsolve.problems.base import InverseProblem
from invsolve.problems.cell_coefficient import elliptic
from invsolve.problems.few_sensors import burgers, darcy, helmholtz, navier_stokes, poisson

if TYPE_CHECKING:
    from invsolve.problems.generating import generate

__all__ = ["InverseProblem", "burgers", "darcy", "elliptic", "generate", "helmholtz", "navier_stokes", "poisson"]

__getattr__ = found_later(__name__, {"generate": "generating"})
