"""What is wrong with a prior, or with data for a closed form, is said in the name of who was called."""

from __future__ import annotations

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.priors.compatibility import check_pair, not_a_prior

PRIOR = iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3))
A = iv.operators.Mask(mask=torch.tensor([True, True, False]))
Y = torch.ones(1, 3)


@pytest.mark.parametrize(
    "operator, kind, message",
    [
        (
            iv.operators.Mask(mask=torch.ones(4, dtype=torch.bool)),
            InputError,
            r"^f: `prior` must be of the shape that Mask takes, \(4,\), got \(3,\)",
        ),
        (
            iv.operators.Mask(mask=torch.ones(3, dtype=torch.bool), kind="complex"),
            InputError,
            "^f: `prior` must be complex, as Mask takes, got real",
        ),
    ],
)
def test_a_prior_of_other_signals(operator, kind, message):
    with pytest.raises(kind, match=message):
        check_pair("f", operator, PRIOR)


def test_something_else_than_a_prior():
    assert str(not_a_prior("f", 3)).startswith("f: `prior` must be an iv.priors.Prior, got ")
    with pytest.raises(
        InputTypeError, match="^sample: `prior` must be an iv.priors.Prior, got function.*from_denoiser"
    ):
        iv.sample(lambda x, sigma: x, num_samples=2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((3, Y, 0.1), "`A` must be an iv.operators.Operator"),
        ((A, "y", 0.1), "`y` must be a torch.Tensor"),
        ((A, torch.ones(4), 0.1), r"`y` must be of shape \(batch, 3\)"),
        ((A, math.nan * Y, 0.1), "`y` must be finite"),
        ((A, Y.double(), 0.1), "`y` must be of precision torch.float32"),
        ((A, Y, -1.0), "`noise` must be positive"),
        ((A, Y, None), "`noise` must be a positive number"),
    ],
)
def test_a_posterior_speaks_for_itself(arguments, message):
    with pytest.raises((InputError, InputTypeError), match=f"^GaussianPrior.posterior: {message}"):
        PRIOR.posterior(*arguments)
