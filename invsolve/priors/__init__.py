"""Priors: distributions of signals, known through their denoisers. The exact ones are also references of the tests."""

from invsolve.core.public_names import found_later
from invsolve.gaussian.law import DenseModes, GaussianLaw, Modes
from invsolve.priors.base import Prior
from invsolve.priors.exact.coefficients import Laplace, SpikeSlab
from invsolve.priors.exact.gaussian import GaussianPrior
from invsolve.priors.exact.independent import independent
from invsolve.priors.exact.mixture import GaussianMixturePrior
from invsolve.priors.exact.sparse import SparsePrior
from invsolve.priors.exact.student import Student
from invsolve.priors.family import Family
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import Matern, Spectrum
from invsolve.priors.fields.tabulated import TabulatedSpectrum, estimate_spectrum
from invsolve.priors.formats.load import load
from invsolve.priors.function import FunctionPrior, from_denoiser
from invsolve.priors.learned.files import save_prior, shipped
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.learned.parameterization import EDM, BesideLaw, Direct, Scheduled
from invsolve.priors.learned.resampled import ResampledPrior
from invsolve.priors.learned.schedules import DDPM, VE, VP, Cosine, Flow
from invsolve.priors.learned.wrappers import from_deepinv, from_network
from invsolve.priors.transformed import TransformedPrior, bounded, exp, sigmoid, softplus

__all__ = [
    "BesideLaw",
    "Cosine",
    "DDPM",
    "DenseModes",
    "Direct",
    "EDM",
    "Family",
    "Flow",
    "FunctionPrior",
    "GaussianFieldPrior",
    "GaussianLaw",
    "GaussianMixturePrior",
    "GaussianPrior",
    "Laplace",
    "Matern",
    "Modes",
    "NetworkPrior",
    "Prior",
    "ResampledPrior",
    "Scheduled",
    "SparsePrior",
    "Spectrum",
    "SpikeSlab",
    "Student",
    "TabulatedSpectrum",
    "TransformedPrior",
    "VE",
    "VP",
    "bounded",
    "estimate_spectrum",
    "exp",
    "from_deepinv",
    "from_denoiser",
    "from_network",
    "independent",
    "load",
    "save_prior",
    "shipped",
    "sigmoid",
    "softplus",
]


__getattr__ = found_later(__name__, {"training": "training"})
