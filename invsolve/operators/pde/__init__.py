"""Operators of partial differential equations, and the pieces that they are made of."""

from invsolve.core.public_names import found_later
from invsolve.operators.pde.diffusion import Darcy
from invsolve.operators.pde.helmholtz import HelmholtzMedium, HelmholtzSource
from invsolve.operators.pde.linear_solve import solve_linear
from invsolve.operators.pde.observation import BoxAverages, PointValues
from invsolve.operators.pde.poisson import Helmholtz, Poisson

__all__ = [
    "BoxAverages",
    "Darcy",
    "Helmholtz",
    "HelmholtzMedium",
    "HelmholtzSource",
    "PointValues",
    "Poisson",
    "solve_linear",
]

__getattr__ = found_later(__name__)
