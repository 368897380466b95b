"""Noise models: the distribution of the data given the clean measurement ``A(x)``. The data term is always -log p.

A float given to `solve` means ``Gaussian(std)``. For a noise of your own subclass `Entrywise` (independent real data:
three methods) or `Noise`.
"""

from invsolve.core.public_names import found_later
from invsolve.noise.base import Noise
from invsolve.noise.convert import as_noise
from invsolve.noise.discrepancy import Discrepancy
from invsolve.noise.entrywise import Entrywise
from invsolve.noise.gaussian import Gaussian
from invsolve.noise.laplace import Laplace
from invsolve.noise.multiplicative import Multiplicative
from invsolve.noise.poisson import Poisson
from invsolve.noise.quantised import Quantised
from invsolve.noise.rician import Rician
from invsolve.noise.saturated import Saturated
from invsolve.noise.single_photon import SinglePhoton
from invsolve.noise.speckle import Speckle
from invsolve.noise.surrogate import SurrogateError, surrogate_error
from invsolve.noise.transmission import PoissonTransmission

__all__ = [
    "Discrepancy",
    "Entrywise",
    "Gaussian",
    "Laplace",
    "Multiplicative",
    "Noise",
    "Poisson",
    "PoissonTransmission",
    "Quantised",
    "Rician",
    "Saturated",
    "SinglePhoton",
    "Speckle",
    "SurrogateError",
    "as_noise",
    "surrogate_error",
]

__getattr__ = found_later(__name__)
