"""Priors: laws over signals, known through their denoisers. The exact ones are also the references of the tests."""

from invsolve.priors.base import Prior
from invsolve.priors.family import Family
from invsolve.priors.field import GaussianFieldPrior
from invsolve.priors.function import FunctionPrior, from_denoiser
from invsolve.priors.gaussian import GaussianPrior
from invsolve.priors.mixture import GaussianMixturePrior
from invsolve.priors.modes import DenseModes, GaussianLaw, Modes
from invsolve.priors.resampled import ResampledPrior
from invsolve.priors.sparse import Laplace, SparsePrior, SpikeSlab, Student
from invsolve.priors.spectra import Matern, Spectrum

__all__ = [
    "DenseModes",
    "Family",
    "FunctionPrior",
    "GaussianFieldPrior",
    "GaussianLaw",
    "GaussianMixturePrior",
    "GaussianPrior",
    "Laplace",
    "Matern",
    "Modes",
    "Prior",
    "ResampledPrior",
    "SparsePrior",
    "Spectrum",
    "SpikeSlab",
    "Student",
    "from_denoiser",
]
