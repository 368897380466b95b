"""Operators of partial differential equations, and the pieces that they are made of."""

from invsolve.core.public_names import found_later
from invsolve.operators.pde.observation import BoxAverages, PointValues
from invsolve.operators.pde.poisson import Helmholtz, Poisson

__all__ = ["BoxAverages", "Helmholtz", "PointValues", "Poisson"]

__getattr__ = found_later(__name__)
