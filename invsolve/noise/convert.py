"""What `solve`, `calibrate` and `Problem` take for a noise model."""

from __future__ import annotations

from torch import Tensor

from invsolve.core.validation import check_positive, quoted
from invsolve.errors import invalid_type
from invsolve.noise.base import Noise
from invsolve.noise.gaussian import Gaussian


def as_noise(owner: str, noise: object) -> Noise:
    """A noise model, from a noise model or the std of Gaussian noise.

    Parameters
    ----------
    owner : str
        Who asks, for the message.
    noise : Noise, float or Tensor
        A model, or a std > 0 in the units of the data (a tensor as for `Gaussian`).

    Returns
    -------
    Noise

    Raises
    ------
    InputError, InputTypeError
        If it is none of these, or not positive.
    """
    if isinstance(noise, Noise):
        return noise
    if isinstance(noise, Tensor) and noise.ndim > 0:
        return Gaussian(std=noise)
    if isinstance(noise, (str, bool)) or noise is None:
        expected = "a positive number (the std of Gaussian noise) or an iv.noise model"
        raise invalid_type(owner, "noise", expected, quoted(noise))
    return Gaussian(std=check_positive(owner, "noise", noise))
