"""The reconstructions that everybody knows, to be beaten: zero-filled, Tikhonov, total variation, those of CT and MRI.

Each takes a linear operator ``A`` (`amplitude_flow`: the modulus of one) and data ``y`` ``(batch, *A.out_shape)``, and
returns ``(batch, *A.in_shape)``; rows do not see each other. Weights are in the units of the objective that is stated,
and `tune_weight` chooses them on examples with a known truth, which must not be the data that are judged.
"""

from invsolve.baselines.emission import mlem
from invsolve.baselines.feldkamp import fdk
from invsolve.baselines.filtered_backprojection import fbp
from invsolve.baselines.iterative import cgls, sirt
from invsolve.baselines.nonuniform import gridding
from invsolve.baselines.subsets import os_sart
from invsolve.baselines.variational import (
    TunedWeight,
    WeightedSolver,
    amplitude_flow,
    tikhonov,
    total_variation,
    tune_weight,
    zero_filled,
)
from invsolve.core.public_names import found_later

__all__ = [
    "TunedWeight",
    "WeightedSolver",
    "amplitude_flow",
    "cgls",
    "fbp",
    "fdk",
    "gridding",
    "mlem",
    "os_sart",
    "sirt",
    "tikhonov",
    "total_variation",
    "tune_weight",
    "zero_filled",
]

__getattr__ = found_later(__name__)
