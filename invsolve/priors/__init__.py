"""Priors: laws over signals, known through their denoisers. The exact ones are also the references of the tests."""

from invsolve.priors.base import Prior
from invsolve.priors.field import GaussianFieldPrior
from invsolve.priors.gaussian import GaussianPrior
from invsolve.priors.mixture import GaussianMixturePrior
from invsolve.priors.modes import DenseModes, GaussianLaw, Modes
from invsolve.priors.spectra import Matern, Spectrum

__all__ = [
    "DenseModes",
    "GaussianFieldPrior",
    "GaussianLaw",
    "GaussianMixturePrior",
    "GaussianPrior",
    "Matern",
    "Modes",
    "Prior",
    "Spectrum",
]
