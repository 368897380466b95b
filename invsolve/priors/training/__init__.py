"""Training of diffusion priors: `train`, where the signals come from, and what is measured on the way."""

from invsolve.core.public_names import found_later
from invsolve.priors.training.covariance import estimate_law
from invsolve.priors.training.data import Finite, Made, Signals, Source, Stored
from invsolve.priors.training.loss import NoiseLaw
from invsolve.priors.training.options import Options, Selection
from invsolve.priors.training.trainer import train

__all__ = ["Finite", "Made", "NoiseLaw", "Options", "Selection", "Signals", "Source", "Stored", "estimate_law", "train"]

__getattr__ = found_later(__name__)
