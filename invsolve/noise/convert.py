"""What `solve`, `calibrate` and `Problem` take for a noise model."""

from __future__ import annotations

from inspect import signature

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter, several
from invsolve.core.distributions import Distribution
from invsolve.core.validation import Shape, check_positive, quoted
from invsolve.errors import invalid_type
from invsolve.noise.base import Noise
from invsolve.noise.discrepancy import ModelError
from invsolve.noise.gaussian import Gaussian

NOISES = (
    "For example 0.1, iv.noise.Poisson(counts_per_unit=1.0) or, of Gaussian noise whose std is not known, its "
    "distribution, iv.LogNormal(median=0.1, factor=3)."
)


def as_noise(owner: str, noise: object) -> Noise:
    """A noise model, from a noise model or the std of Gaussian noise.

    Parameters
    ----------
    owner : str
        Who asks, for the message.
    noise : Noise, float, Tensor, array, list or Distribution
        A model, or a std > 0 in the units of the data (a tensor as for `Gaussian`); a distribution is that of the std.

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
    if several(noise):
        return Gaussian(std=real_parameter(owner, "noise", noise))
    if isinstance(noise, Distribution):
        return Gaussian(std=noise)
    if isinstance(noise, ModelError):
        repair = f"Add it to the noise of the instrument: iv.noise.Gaussian(std) + {noise._said}."
        raise invalid_type(owner, "noise", "an iv.noise model", noise, repair)
    if isinstance(noise, (str, bool, type)) or noise is None:
        expected = "a positive number (the std of Gaussian noise) or an iv.noise model"
        if isinstance(noise, type):
            given: object = f"the class {noise.__name__}"
            repair = f"Call it, with its parameters: iv.noise.{noise.__name__}(...)."
        else:
            given, repair = quoted(noise), NOISES if isinstance(noise, str) else ""
        raise invalid_type(owner, "noise", expected, given, repair)
    return Gaussian(std=check_positive(owner, "noise", noise))


def noise_for_data(
    owner: str, noise: object, *, out_shape: Shape, batch: int, dtype: torch.dtype, device: torch.device
) -> Noise:
    """`as_noise`, checked against data ``(batch, *out_shape)`` and on their device, with errors that name ``owner``."""
    model = as_noise(owner, noise)
    if "owner" in signature(model.check).parameters:  # a model of somebody's own may speak for itself
        return model.check(out_shape, batch, dtype, device, owner=owner)  # type: ignore[call-arg]
    return model.check(out_shape, batch, dtype, device)


def refuse_impossible_data(owner: str, name: str, noise: Noise, y: Tensor, observed: Tensor | None) -> None:
    """`Noise.check_data`, with an error that names ``owner`` and calls the data ``name``."""
    if {"owner", "name"} <= set(signature(noise.check_data).parameters):
        noise.check_data(y, observed, owner=owner, name=name)  # type: ignore[call-arg]
    else:
        noise.check_data(y, observed)
