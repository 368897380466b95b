"""Training of diffusion priors: `train`, where the signals come from, and what is measured on the way."""

from invsolve.priors.training.covariance import estimate_law
from invsolve.priors.training.data import Finite, Made, Signals, Source, Stored
from invsolve.priors.training.loss import NoiseLaw
from invsolve.priors.training.trainer import Options, train

__all__ = ["Finite", "Made", "NoiseLaw", "Options", "Signals", "Source", "Stored", "estimate_law", "train"]
