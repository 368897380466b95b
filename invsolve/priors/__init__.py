"""Priors: laws over signals, known through their denoisers. The exact ones are also the references of the tests."""

from invsolve.priors.base import Prior
from invsolve.priors.gaussian import GaussianPrior
from invsolve.priors.modes import DenseModes, GaussianLaw, Modes

__all__ = ["DenseModes", "GaussianLaw", "GaussianPrior", "Modes", "Prior"]
