"""Networks that denoise: what a learned prior is made of."""

from invsolve.core.public_names import found_later
from invsolve.priors.networks.tiled import Tiled
from invsolve.priors.networks.unet import UNet, UNetConfig

__all__ = ["Tiled", "UNet", "UNetConfig"]

__getattr__ = found_later(__name__)
