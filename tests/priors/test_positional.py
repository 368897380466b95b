"""The obvious arguments of exact priors may be given by position; the rest by keyword alone."""

from __future__ import annotations

import pytest
import torch

from invsolve.core.fingerprint import fingerprint
from invsolve.priors import (
    DenseModes,
    GaussianFieldPrior,
    GaussianLaw,
    GaussianMixturePrior,
    GaussianPrior,
    Laplace,
    Matern,
    SparsePrior,
    SpikeSlab,
    Student,
)

EYE, ZERO = torch.eye(2), torch.zeros(2)
MODES = DenseModes(shape=(2,), matrix=EYE)
MATERN, LAPLACE = Matern(std=1.0, length=0.2), Laplace(scale=0.5)

# what it is, its obvious arguments, and one more that has a default
KINDS = [
    (GaussianPrior, {"mean": ZERO, "covariance": EYE}, {"noise_scale": torch.ones(2)}),
    (GaussianMixturePrior, {"weights": torch.ones(1), "means": ZERO[None], "covariances": EYE}, {}),
    (GaussianFieldPrior, {"shape": (4,), "spectrum": MATERN}, {"basis": "periodic"}),
    (SparsePrior, {"shape": (4,), "coefficients": LAPLACE}, {"transform": "dct"}),
    (Laplace, {"scale": 0.5}, {}),
    (Student, {"scale": 0.5, "dof": 4.0}, {}),
    (SpikeSlab, {"weight": 0.2, "slab": 1.0}, {"spike": 0.1}),
    (Matern, {"std": 1.0, "length": 0.2}, {"smoothness": 0.5}),
    (DenseModes, {"shape": (2,), "matrix": EYE}, {"scale": torch.ones(2)}),
    (GaussianLaw, {"mean": ZERO, "modes": MODES, "variances": torch.ones(2)}, {}),
]


@pytest.mark.parametrize("make, obvious, more", KINDS, ids=[make.__name__ for make, _, _ in KINDS])
def test_obvious_arguments_by_position(make, obvious, more):
    by_name = make(**obvious, **more)
    assert fingerprint(make(*obvious.values(), **more)) == fingerprint(by_name)
    extra = tuple(more.values()) or (None,)
    with pytest.raises(TypeError, match="positional argument"):
        make(*obvious.values(), *extra)
