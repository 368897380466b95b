"""Networks that denoise: what a learned prior is made of."""

from invsolve.core.public_names import found_later
from invsolve.priors.networks.neural_operator import NeuralOperator, NeuralOperatorConfig
from invsolve.priors.networks.spectral_layer import SpectralLayer
from invsolve.priors.networks.tiled import Tiled
from invsolve.priors.networks.unet import UNet, UNetConfig

__all__ = ["NeuralOperator", "NeuralOperatorConfig", "SpectralLayer", "Tiled", "UNet", "UNetConfig"]

__getattr__ = found_later(__name__)
