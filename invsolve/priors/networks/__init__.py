"""Networks that denoise: what a learned prior is made of."""

from invsolve.core.public_names import found_later
from invsolve.priors.networks.unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig"]

__getattr__ = found_later(__name__)
