"""Attenuation coefficients and Hounsfield units."""

from __future__ import annotations

from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_positive

WATER = 0.0192  # 1/mm, of water at about 70 keV


@in_defined_state
def to_hounsfield(attenuation: Tensor, *, water: float = WATER) -> Tensor:
    """CT numbers of attenuation coefficients, ``1000 (mu / mu_water - 1)``; the attenuation of air counts as nothing.

    Parameters
    ----------
    attenuation : Tensor or array, any shape
        In 1/mm.
    water : float
        The attenuation coefficient of water at the energy of the scan, 1/mm, > 0; 0.0192 by default, at about 70 keV.

    Returns
    -------
    Tensor
        In Hounsfield units, of the same shape.

    Raises
    ------
    InputTypeError
        If ``attenuation`` holds no numbers.
    InputError
        If ``water`` is not positive.
    """
    water = check_positive("to_hounsfield", "water", water)
    return 1000 * (parameter("to_hounsfield", "attenuation", attenuation) / water - 1)


@in_defined_state
def from_hounsfield(hounsfield: Tensor, *, water: float = WATER) -> Tensor:
    """Attenuation coefficients of CT numbers, ``mu_water (1 + HU / 1000)``: the inverse of `to_hounsfield`.

    Parameters
    ----------
    hounsfield : Tensor or array, any shape
        In Hounsfield units: 0 for water, -1000 for air.
    water : float
        The attenuation coefficient of water at the energy of the scan, 1/mm, > 0; 0.0192 by default, at about 70 keV.

    Returns
    -------
    Tensor
        In 1/mm, of the same shape.

    Raises
    ------
    InputTypeError
        If ``hounsfield`` holds no numbers.
    InputError
        If ``water`` is not positive.
    """
    water = check_positive("from_hounsfield", "water", water)
    return water * (1 + parameter("from_hounsfield", "hounsfield", hounsfield) / 1000)
