"""Samples for ArviZ: dims, names, what is left out; with ArviZ itself where it is installed."""

import importlib.util
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.results.inferencedata import variables_of

PRIOR = iv.priors.independent(rate=iv.LogNormal(median=2.0, factor=1.5), delay=iv.Uniform(low=0.0, high=1.0))
A = iv.operators.from_simulator(lambda rate, delay: np.array([rate * delay]), PRIOR.layout, out_shape=(1,))
NAMED = iv.solve(A, np.array([1.0]), PRIOR, noise=0.3, strategy=iv.strategies.NoiseMCMC(chains=64), num_samples=8)
FIELD = iv.priors.GaussianPrior(mean=torch.zeros(2, 3), covariance=torch.eye(6))
MASK = iv.operators.Mask(mask=torch.ones(2, 3, dtype=torch.bool))
NOISE = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=2))
INFERRED = iv.solve(iv.Problem(MASK, torch.zeros(4, 2, 3), NOISE, dims=("y", "draw")), FIELD, num_samples=8)


def test_named_numbers_are_variables_of_their_own():
    variables, dims, coords = variables_of(NAMED)
    assert list(variables) == ["rate", "delay"] and dims == {"rate": [], "delay": []} and not coords
    np.testing.assert_array_equal(variables["rate"], NAMED["rate"].samples[None].numpy())


def test_signals_have_their_axes_and_items():
    variables, dims, coords = variables_of(INFERRED)
    assert dims == {"x": ["item", "y", "axis_draw"], "noise.std": ["item"]}
    assert not coords and variables["x"].shape == (1, 8, 4, 2, 3) and variables["noise.std"].shape == (1, 8, 4)


def test_failed_draws_are_left_out():
    failed = INFERRED.failed.clone()
    failed[2, 1] = True
    samples = INFERRED.samples.clone()
    samples[2, 1] = torch.nan
    lost = replace(INFERRED, failed=failed, samples=samples, status=iv.Status.from_failures(failed), marginals=None)
    variables, _, _ = variables_of(lost)
    assert variables["x"].shape[1] == 7 and np.isfinite(variables["x"]).all()


def test_arviz_is_handed_them(monkeypatch):
    told = {}
    monkeypatch.setitem(sys.modules, "arviz", SimpleNamespace(from_dict=lambda **given: told.update(given)))
    INFERRED.to_inferencedata()
    assert set(told) == {"posterior", "dims", "coords", "attrs"} and set(told["posterior"]) == {"x", "noise.std"}


@pytest.mark.skipif(importlib.util.find_spec("arviz") is None, reason="ArviZ is an extra")
def test_arviz_reads_them():
    data = INFERRED.to_inferencedata()
    assert data.posterior["x"].dims == ("chain", "draw", "item", "y", "axis_draw")


def test_without_arviz_or_with_weights_it_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(iv.errors.UnsupportedError, match=r"pip install 'invsolve\[diagnostics\]'"):
        NAMED.to_inferencedata()
    monkeypatch.setitem(sys.modules, "arviz", SimpleNamespace())
    weighted = replace(NAMED, log_weights=torch.zeros(8, dtype=torch.float64), marginals=None)
    with pytest.raises(iv.errors.UnsupportedError, match="ArviZ knows no weights"):
        weighted.to_inferencedata()
