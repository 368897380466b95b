"""Data whose numbers are too far apart in single precision: followed into double, or said to be."""

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.noise.rounding import drowned

N, OFFSET, STD = 32, 1e6, 0.01
SEEN = np.arange(N) % 2 == 0
SPECTRUM = iv.priors.Matern(std=1.0, length=0.2)
PRIOR = iv.priors.GaussianFieldPrior((N,), SPECTRUM, mean=OFFSET)  # float32
WIDE = PRIOR.to(dtype=torch.float64)
A = iv.operators.Mask(mask=SEEN)
Y = np.where(SEEN, WIDE.sample(1, seed=0)[0].numpy() + STD * np.random.default_rng(0).standard_normal(N), 0.0)


@pytest.mark.parametrize("given", [np.asarray, list, torch.tensor, lambda y: iv.Problem(A, y, STD)])
def test_the_precision_of_the_data_is_followed_where_it_counts(given):
    """Numbers near 1e6 are 0.06 apart in float32, the noise is 0.01: rounded data were 10 posterior stds off."""
    data = given(Y)
    result = iv.solve(data, PRIOR) if isinstance(data, iv.Problem) else iv.solve(A, data, PRIOR, noise=STD)
    exact = WIDE.posterior(A, torch.tensor(Y)[None], STD)
    assert result.samples.dtype == torch.float64 and result.warnings == ()
    assert float(((result.mean - exact.mean[0]) / exact.std[0]).abs().max()) < 1e-6


def test_elsewhere_arrays_have_the_precision_of_the_prior():
    centred = iv.priors.GaussianFieldPrior((N,), SPECTRUM)
    result = iv.solve(A, np.where(SEEN, Y - OFFSET, 0.0), centred, noise=STD)
    assert result.samples.dtype == torch.float32 and result.warnings == ()
    assert iv.Problem(A, np.where(SEEN, Y - OFFSET, 0.0), STD).data.dtype == torch.float32


def test_data_and_posteriors_that_drown_in_rounding_are_named():
    result = iv.solve(A, torch.tensor(Y, dtype=torch.float32), PRIOR, noise=STD)
    noise, spread = result.warnings
    assert noise.startswith("the noise is as small as 0.084 spacings of float32 numbers")
    assert spread.startswith("the posterior std is as small as") and "float64" in spread


@pytest.mark.parametrize(
    "noise",
    [
        STD,
        iv.noise.Gaussian(std=STD),
        iv.noise.Gaussian(std=torch.full((N,), STD, dtype=torch.float64)),
        iv.noise.Gaussian(covariance=STD**2 * torch.eye(N, dtype=torch.float64)),
        iv.noise.Gaussian(std=iv.LogNormal(median=STD, factor=2)),
    ],
    ids=["number", "Gaussian", "per entry", "covariance", "unknown"],
)
def test_every_way_to_state_the_noise_is_read(noise):
    y = torch.full((1, N), OFFSET, dtype=torch.float64)
    share = float(drowned(noise, y, torch.float32))
    assert share == pytest.approx(16 * 2**-23 * OFFSET / STD, rel=1e-6)
    assert drowned(noise, y, torch.float64) is None and drowned(noise, y - OFFSET, torch.float32) is None


def test_what_states_no_std_is_left_alone():
    y = torch.full((1, N), OFFSET, dtype=torch.float64)
    assert drowned(iv.noise.Poisson(counts_per_unit=1.0), y, torch.float32) is None
    assert drowned(-1.0, y, torch.float32) is None and drowned(None, y, torch.float32) is None
    assert drowned(STD, y[:, :0], torch.float32) is None


def test_shapes_are_refused_in_words_and_not_by_the_rounding():
    """One measurement without a batch axis; and noise of another shape than the data."""
    full = iv.noise.Gaussian(covariance=0.01 * np.eye(N))
    everything = iv.operators.Matrix(np.eye(N, dtype=np.float32))
    centred = iv.priors.GaussianFieldPrior((N,), SPECTRUM)
    one = iv.solve(everything, np.zeros(N), centred, noise=full, num_samples=2)
    assert one.samples.shape == (2, N)
    with pytest.raises(iv.errors.InputError, match="std"):
        iv.solve(everything, np.zeros(N), centred, noise=iv.noise.Gaussian(std=np.ones(N + 1)))
