"""What a prior can do is asked of the object: the same class may or may not, by its options or by what it wraps."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.priors import (
    Family,
    GaussianFieldPrior,
    GaussianMixturePrior,
    GaussianPrior,
    Laplace,
    Matern,
    SparsePrior,
    Student,
    from_denoiser,
)
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import (
    HasDensity,
    HasLaw,
    HasModeMoments,
    HasPosterior,
    HasTransport,
    IsGaussian,
    Learned,
)

ALL = {HasLaw, IsGaussian, HasTransport, HasPosterior, HasDensity, HasModeMoments, Learned}
GAUSSIAN = GaussianPrior(torch.zeros(3), torch.eye(3))


def shrink(x, sigma):
    return x / (1 + sigma**2)


def mixture(weights):
    count = len(weights)
    return GaussianMixturePrior(torch.tensor(weights), torch.arange(3.0 * count).view(count, 3), torch.eye(3))


class Least(Prior):
    """What a new prior must write: CONTRIBUTING.md."""

    shape, mean, scale = (3,), torch.zeros(3), 1.0

    def _denoise(self, x, sigma):
        return shrink(x, sigma)


CASES = {
    "least": (Least(), set()),
    "denoiser": (from_denoiser(shrink, shape=(3,), scale=1.0), set()),
    "denoiser with a law": (from_denoiser(shrink, shape=(3,), scale=1.0, law=GAUSSIAN.law), {HasLaw}),
    "gaussian": (GAUSSIAN, {HasLaw, IsGaussian, HasTransport, HasPosterior, HasDensity}),
    "field": (
        GaussianFieldPrior((8,), Matern(1.0, 0.2)),
        {HasLaw, IsGaussian, HasTransport, HasPosterior, HasDensity},
    ),
    "mixture": (mixture([0.5, 0.5]), {HasLaw, HasPosterior, HasDensity}),
    "sparse": (SparsePrior((4,), Laplace(1.0)), {HasLaw, HasTransport, HasDensity, HasModeMoments}),
    "family": (
        Family(lambda scale: SparsePrior((4,), Student(scale, 4.0)), scale=iv.LogNormal(median=1.0, factor=2.0)),
        set(),
    ),
}


@pytest.mark.parametrize("prior, can", CASES.values(), ids=CASES.keys())
def test_what_a_prior_can_do(prior, can):
    assert {capability for capability in ALL if isinstance(prior, capability)} == can


@pytest.mark.parametrize("capability", sorted(ALL, key=lambda c: c.__name__), ids=lambda c: c.__name__)
def test_nothing_else_can_do_it(capability):
    """Not a class, not a thing with the right attributes."""
    assert not isinstance(GaussianPrior, capability) and not isinstance(GAUSSIAN.law, capability)
    assert not issubclass(GaussianPrior, capability)


def test_a_wrapper_has_what_it_wraps():
    coarse = GaussianFieldPrior((8,), Matern(1.0, 0.2), basis="periodic")
    denoiser = from_denoiser(coarse.denoise, shape=(8,), scale=coarse.scale)
    assert isinstance(iv.priors.ResampledPrior(prior=coarse, shape=(16,)), HasLaw)
    assert not isinstance(iv.priors.ResampledPrior(prior=denoiser, shape=(16,)), HasLaw)


@pytest.mark.parametrize("strategy", ["auto", iv.strategies.MMPS(num_steps=20)], ids=["auto", "MMPS"])
def test_a_prior_needs_no_more_than_a_denoiser(strategy):
    A = iv.operators.Mask(mask=torch.tensor([True, True, False]))
    y = torch.tensor([1.0, 2.0, 0.0])
    result = iv.solve(A, y, Least(), noise=0.5, strategy=strategy, num_samples=256, seed=0)
    exact = GAUSSIAN.posterior(A, y[None], 0.5)
    # Errors of a mean of 256 draws, at five standard errors.
    assert ((result.mean - exact.mean[0]).abs() < 5 * exact.std[0] / 16).all()
