"""Networks that denoise: what a learned prior is made of."""

from invsolve.priors.networks.tiled import Tiled
from invsolve.priors.networks.unet import UNet, UNetConfig

__all__ = ["Tiled", "UNet", "UNetConfig"]
