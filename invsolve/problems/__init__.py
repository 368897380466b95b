"""Inverse problems of the literature, whole: operator, data, noise and prior, with a truth that is known."""

from invsolve.core.public_names import found_later
from invsolve.problems.base import InverseProblem
from invsolve.problems.cell_coefficient import elliptic

__all__ = ["InverseProblem", "elliptic"]

__getattr__ = found_later(__name__)
