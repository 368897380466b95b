"""Operators of partial differential equations, and the pieces that they are made of."""

from invsolve.core.public_names import found_later
from invsolve.operators.pde.advection_diffusion import AdvectionDiffusion
from invsolve.operators.pde.burgers import Burgers
from invsolve.operators.pde.evolution import Evolution
from invsolve.operators.pde.heat import Heat
from invsolve.operators.pde.navier_stokes import NavierStokes
from invsolve.operators.pde.reaction_diffusion import ReactionDiffusion
from invsolve.operators.pde.scattering import BornScattering, Scattering
from invsolve.operators.pde.wave import Wave, ricker

__all__ = [
    "AdvectionDiffusion",
    "BornScattering",
    "Burgers",
    "Evolution",
    "Heat",
    "NavierStokes",
    "ReactionDiffusion",
    "Scattering",
    "Wave",
    "ricker",
]

__getattr__ = found_later(__name__)
