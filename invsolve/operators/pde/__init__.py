"""Operators of partial differential equations, and the pieces that they are made of."""

from invsolve.core.public_names import found_later
from invsolve.operators.pde.advection_diffusion import AdvectionDiffusion
from invsolve.operators.pde.burgers import Burgers
from invsolve.operators.pde.diffusion import Darcy
from invsolve.operators.pde.evolution import Evolution
from invsolve.operators.pde.heat import Heat
from invsolve.operators.pde.helmholtz import HelmholtzMedium, HelmholtzSource
from invsolve.operators.pde.linear_solve import solve_linear
from invsolve.operators.pde.navier_stokes import NavierStokes
from invsolve.operators.pde.observation import BoxAverages, PointValues
from invsolve.operators.pde.poisson import Helmholtz, Poisson
from invsolve.operators.pde.reaction_diffusion import ReactionDiffusion
from invsolve.operators.pde.scattering import BornScattering, Scattering
from invsolve.operators.pde.wave import Wave, ricker

__all__ = [
    "AdvectionDiffusion",
    "BornScattering",
    "BoxAverages",
    "Burgers",
    "Darcy",
    "Evolution",
    "Heat",
    "Helmholtz",
    "HelmholtzMedium",
    "HelmholtzSource",
    "NavierStokes",
    "PointValues",
    "Poisson",
    "ReactionDiffusion",
    "Scattering",
    "Wave",
    "ricker",
    "solve_linear",
]

__getattr__ = found_later(__name__)
