"""Statistics of results that have a closed form: those of the distribution, not of so many samples."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.errors import InputError
from invsolve.gaussian.marginals import MixtureMarginals, Moments, NormalMarginals
from invsolve.separable import posterior as separable

D = torch.float64
ALL = ("mean", "std", "quantile", "interval")


def random(*shape, seed=0, dtype=D):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def spd(n, seed=0):
    root = random(n, n, seed=seed)
    return root @ root.mT / n + 0.2 * torch.eye(n, dtype=D)


MATRIX = random(3, 5, seed=9)
GAUSS = iv.priors.GaussianPrior(random(5), spd(5))
MIXTURE = iv.priors.GaussianMixturePrior(
    torch.tensor([0.4, 0.6], dtype=D), 2 * random(2, 5), torch.stack([spd(5), spd(5, 1)])
)
Y = random(2, 3, seed=4)


def gaussian(y=Y, **options):
    return iv.solve(iv.operators.Matrix(MATRIX), y, GAUSS, noise=0.3, **{"num_samples": 3} | options)


def mixture(**options):
    return iv.solve(iv.operators.Matrix(MATRIX), Y, MIXTURE, noise=0.3, **{"num_samples": 3} | options)


def counts(**options):
    """A dark pixel and a bright one: x ~ N(2, 1), y ~ Poisson(3 x) of x >= 0."""
    prior = iv.priors.GaussianPrior(torch.full((2,), 2.0, dtype=D), torch.eye(2, dtype=D))
    A = iv.operators.Mask(torch.ones(2, dtype=torch.bool))
    return iv.solve(
        A, torch.tensor([0.0, 9.0], dtype=D), prior, noise=iv.noise.Poisson(3.0), **{"num_samples": 3} | options
    )


def by_quadrature(count):
    """Mean, std, and a function of levels."""
    x = np.linspace(0, 12, 400_001)
    log = stats.norm.logpdf(x, 2, 1) + (stats.poisson.logpmf(count, 3 * np.maximum(x, 1e-300)))
    weight = np.exp(log - log.max())
    cdf = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
    mean = np.trapezoid(weight * x, x) / np.trapezoid(weight, x)
    std = math.sqrt(np.trapezoid(weight * (x - mean) ** 2, x) / np.trapezoid(weight, x))
    return mean, std, lambda q: np.interp(q, cdf / cdf[-1], x)


# --- the right values -------------------------------------------------------------------------------------------------
def test_a_gaussian_posterior_by_its_formula():
    result = gaussian()
    precision = torch.linalg.inv(spd(5)) + MATRIX.mT @ MATRIX / 0.09
    covariance = torch.linalg.inv(precision)
    mean = GAUSS.mean + (Y - MATRIX @ GAUSS.mean) @ MATRIX @ covariance / 0.09
    std = covariance.diagonal().sqrt()
    assert result.exact_statistics == ALL
    assert torch.allclose(result.mean, mean, rtol=1e-10) and torch.allclose(result.std, std.expand(2, 5), rtol=1e-10)
    low, high, level = result.interval(0.9)  # of three samples
    z = stats.norm.ppf(0.95)
    assert level == 0.9 and torch.allclose(low, mean - z * std) and torch.allclose(high, mean + z * std)
    q = result.quantile([0.001, 0.5])
    assert torch.allclose(q[0], mean + stats.norm.ppf(0.001) * std) and torch.allclose(q[1], mean)
    assert torch.equal(result.quantile(0.5), q[1])
    one = gaussian(Y[0])
    assert one.mean.shape == one.std.shape == one.quantile(0.3).shape == (5,)
    assert torch.allclose(one.mean, mean[0], rtol=1e-10)


def test_a_mixture_posterior_is_what_its_draws_follow():
    result, law = mixture(), MIXTURE.posterior(iv.operators.Matrix(MATRIX), Y, 0.3)
    assert result.exact_statistics == ALL
    assert torch.equal(result.mean, law.mean) and torch.equal(result.std, law.std)
    draws = law.sample(20_000, seed=1)
    for level in (0.05, 0.4, 0.95):
        share = (draws <= result.quantile(level)).double().mean(0)
        assert ((share - level).abs() < 5 * math.sqrt(level * (1 - level) / 20_000)).all()


def test_counts_by_quadrature():
    result = counts()
    assert result.exact_statistics == ALL
    for entry, count in enumerate((0, 9)):
        mean, std, quantile = by_quadrature(count)
        assert abs(float(result.mean[entry]) - mean) < 1e-8 and abs(float(result.std[entry]) / std - 1) < 1e-8
        for level in (0.01, 0.5, 0.95):
            assert abs(float(result.quantile(level)[entry]) - quantile(level)) < 1e-7  # a step of the grid, squared
    batch = iv.solve(
        iv.operators.Mask(torch.ones(2, dtype=torch.bool)),
        torch.tensor([[9.0, 0.0], [0.0, 9.0]], dtype=D),
        result.prior,
        noise=iv.noise.Poisson(3.0),
    )
    assert torch.allclose(batch.quantile(0.3), torch.stack([result.quantile(0.3).flip(0), result.quantile(0.3)]))


def test_entries_that_fall_with_their_noise():
    from invsolve.separable.laws import EntryLaw

    law = EntryLaw(log_weight=0.0, transport=lambda z: 2 - z)
    problem = iv.Problem(iv.operators.Mask(torch.ones(2, dtype=torch.bool)), torch.zeros(1, 2, dtype=D), noise=1.0)
    found = separable.SeparablePosterior.from_problem(problem, (law,)).marginals()
    right = stats.norm(1, math.sqrt(0.5))
    assert torch.allclose(found.quantile(0.2), torch.full((1, 2), right.ppf(0.2), dtype=D), atol=2e-9)  # of 1e-10


def test_a_complex_posterior():
    prior = iv.priors.GaussianPrior(random(3, dtype=torch.complex128), spd(3))
    A = iv.operators.Matrix(random(2, 3, dtype=torch.complex128))
    result = iv.solve(A, random(2, dtype=torch.complex128), prior, noise=0.3, num_samples=2)
    law = prior.posterior(result.problem)
    assert result.exact_statistics == ("mean", "std") and torch.equal(result.mean, law.mean[0])
    assert torch.equal(result.std, law.std[0])
    with pytest.raises(iv.errors.InputTypeError, match="complex numbers have no order"):
        result.quantile(0.5)
    assert "quantile" not in result.summary()


def test_what_the_samples_are_is_not_touched():
    result = gaussian(num_samples=64)
    plain = replace(result, marginals=None)
    assert plain.exact_statistics == () and torch.equal(plain.mean, result.samples.mean(0))
    assert torch.equal(plain.std, result.samples.std(0)) and torch.equal(plain.ess, result.ess)
    assert torch.equal(plain.chi2, result.chi2) and torch.equal(plain.weights, result.weights)


def test_draws_with_other_options_say_the_same(tmp_path):
    whole = gaussian()
    file = tmp_path / "c.ckpt"
    for options in ({"reproducible": True}, {"chunk": 1}, {"checkpoint": file}, {"checkpoint": file}, {"seed": 3}):
        other = gaussian(**options)
        assert torch.allclose(other.mean, whole.mean, rtol=1e-12) and torch.allclose(other.std, whole.std, rtol=1e-12)
        assert other.exact_statistics == ALL, options


def test_cost_is_counted():
    result = gaussian()
    closed = result.operator_calls["operator"]
    bare = replace(iv.strategies.Exact()).bind(result.problem, GAUSS)
    with iv.core.counting.tally() as calls:
        bare.marginals()
    assert calls["operator"] > 0 and closed > calls["operator"]


# --- where there is none ----------------------------------------------------------------------------------------------
def test_a_large_field_has_an_exact_mean_and_says_what_the_rest_is(monkeypatch):
    monkeypatch.setattr("invsolve.gaussian.posterior.entry_variances", lambda *a: None)
    result = gaussian(num_samples=19)
    assert result.exact_statistics == ("mean",) and torch.equal(result.std, result.samples.std(0))
    assert torch.equal(result.interval(0.9).low, result.samples.amin(0))
    assert "mean exact, of the closed form; std, quantiles and intervals of the samples" in result.summary()
    assert "exact mean," in repr(result)


def test_densities_and_components_too_many_to_keep_leave_mean_and_std(monkeypatch):
    monkeypatch.setattr(separable, "LARGEST_KEPT", 10)
    monkeypatch.setattr("invsolve.priors.exact.mixture_posterior.LARGEST", 10)
    for result in (counts(num_samples=19), mixture(num_samples=19)):
        assert result.exact_statistics == ("mean", "std")
        assert torch.equal(result.interval(0.9).low, result.samples.amin(0))


def test_strategies_and_derived_results_without_one():
    result = gaussian(num_samples=19)
    mapped = result.map(lambda x: 2 * x)
    assert mapped.exact_statistics == () and torch.equal(mapped.mean, (2 * result.samples).mean(0))
    guided = gaussian(num_samples=2, strategy=iv.strategies.MMPS(num_steps=4))
    assert guided.exact_statistics == () and guided.marginals is None
    scalars = iv.solve(
        iv.operators.Matrix(MATRIX),
        Y,
        GAUSS,
        noise=iv.noise.Gaussian(std=iv.LogNormal(median=0.3, factor=2)),
        num_samples=4,
    )
    assert (
        scalars.exact_statistics == ()
        and "of the samples, whose number alone leaves 1 posterior std in the mean" in scalars.summary()
    )


def test_an_item_without_a_good_row_has_no_closed_form():
    result = gaussian()
    failed = result.failed.clone()
    failed[:, 1] = True
    samples = result.samples.masked_fill(failed[..., None], math.nan)
    assert (
        replace(result, samples=samples, failed=failed, status=iv.Status.SOME_FAILED).mean.isfinite().all()
    )  # by hand
    draw = iv.strategies.Exact.step

    def broken(self, run, state, i):
        state, info = draw(self, run, state, i)
        return replace(state, x=torch.where((run.problem.data == Y[1]).all(1)[:, None], math.nan, state.x)), info

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iv.strategies.Exact, "step", broken)
        found = gaussian(throw=False)
    assert found.exact_statistics == () and found.mean[1].isnan().all() and found.mean[0].isfinite().all()


def test_marginals_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"`marginals.mean` must be of shape \(2, 5\), got \(2, 4\)"):
        replace(gaussian(), marginals=Moments(mean=torch.zeros(2, 4), std=None))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 2.0])
def test_levels_outside_of_0_and_1_are_refused(level):
    for result in (gaussian(), gaussian().map(torch.abs)):
        with pytest.raises(InputError, match="between 0 and 1"):
            result.quantile(level)
        with pytest.raises(InputError, match="between 0 and 1"):
            result.interval(level)


# --- parts and files ----------------------------------------------------------------------------------------------------
def test_parts_of_a_packed_signal():
    layout = iv.Layout([iv.Part("pair", (1,), kind="complex"), iv.Part("rest", (3,), unit="mm")])
    for result in (gaussian(), mixture()):
        packed = replace(result, layout=layout)
        rest, pair = packed["rest"], packed["pair"]
        assert rest.exact_statistics == ALL and rest.units == "mm" and torch.equal(rest.mean, result.mean[:, 2:])
        assert torch.equal(rest.std, result.std[:, 2:]) and torch.equal(rest.quantile(0.1), result.quantile(0.1)[:, 2:])
        assert pair.exact_statistics == ("mean", "std")
        assert torch.equal(torch.view_as_real(pair.mean)[:, 0], result.mean[:, :2])
        assert torch.allclose(pair.std[:, 0], result.std[:, :2].square().sum(1).sqrt())
    part = replace(counts(), layout=iv.Layout([iv.Part("a", ()), iv.Part("b", ())]))["b"]
    assert part.exact_statistics == ("mean", "std") and float(part.mean) == float(counts().mean[1])


@pytest.mark.parametrize("make", [gaussian, lambda **k: gaussian(Y[0], **k), mixture, counts])
def test_a_file_holds_what_is_exact(make, tmp_path):
    import xarray

    result = make(num_samples=19)
    result.save(tmp_path / "r.nc")
    back = iv.load_result(tmp_path / "r.nc")
    assert torch.equal(back.mean, result.mean) and torch.equal(back.std, result.std)
    expected = ("mean", "std") if make is counts else ALL  # densities are not saved
    assert back.exact_statistics == expected
    if make is not counts:
        assert torch.equal(back.quantile(0.01), result.quantile(0.01))
    assert type(back.marginals) is {counts: Moments, mixture: MixtureMarginals}.get(make, NormalMarginals)
    again = tmp_path / "again.nc"
    back.save(again)
    assert iv.load_result(again).exact_statistics == expected
    with xarray.open_dataset(tmp_path / "r.nc", engine="h5netcdf") as data:
        assert data["mean"].attrs["statistics"] == data["std"].attrs["statistics"] == "closed form"
        np.testing.assert_array_equal(data["mean"].values, result.mean)
    sampled = result.map(lambda x: x)
    assert sampled.to_xarray()["mean"].attrs["statistics"] == "samples"
    sampled.save(again)
    assert iv.load_result(again).exact_statistics == ()


def test_a_file_of_an_exact_mean_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("invsolve.gaussian.posterior.entry_variances", lambda *a: None)
    result = gaussian()
    result.save(tmp_path / "r.nc")
    back = iv.load_result(tmp_path / "r.nc")
    assert back.exact_statistics == ("mean",) and torch.equal(back.mean, result.mean)
    assert torch.equal(back.std, result.samples.std(0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"marginals": "gauss"}, "has unknown marginals 'gauss'"),
        ({"exact_statistics": []}, "has a mixture without its std"),
        ({"exact_statistics": [1]}, "has no valid entry 'exact_statistics'"),
        ({"marginals": 3}, "has no valid entry 'marginals'"),
    ],
)
def test_damaged_files_are_refused(change, words, tmp_path):
    import json

    import h5py

    mixture().save(tmp_path / "r.nc")
    with h5py.File(tmp_path / "r.nc", "r+") as file:
        run = json.loads(bytes(file.attrs["run"])) | change
        file.attrs["run"] = np.bytes_(json.dumps(run))
    with pytest.raises(iv.errors.FileError, match=words):
        iv.load_result(tmp_path / "r.nc")


def test_files_of_releases_without_them(tmp_path):
    import json

    import h5py

    gaussian().save(tmp_path / "r.nc")
    with h5py.File(tmp_path / "r.nc", "r+") as file:
        run = json.loads(bytes(file.attrs["run"]))
        del run["marginals"], run["exact_statistics"]
        file.attrs["run"] = np.bytes_(json.dumps(run))
    back = iv.load_result(tmp_path / "r.nc")
    assert back.exact_statistics == () and torch.equal(back.mean, back.samples.mean(0))


def sparse(**options):
    prior = iv.priors.SparsePrior((2,), iv.priors.Laplace(0.5), dtype=D)
    A = iv.operators.Mask(torch.ones(2, dtype=torch.bool))
    return iv.solve(A, torch.tensor([0.1, 0.5], dtype=D), prior, noise=0.3, num_samples=3, **options)


@pytest.mark.parametrize("make", [gaussian, mixture, counts, sparse])
def test_copies_say_the_same(make):
    result = make()
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert other.exact_statistics == ALL and torch.equal(other.mean, result.mean)
        assert torch.equal(other.quantile(0.3), result.quantile(0.3))


@pytest.mark.parametrize("batched", [False, True])
def test_positive_entries_by_quadrature(batched):
    """x = exp(u), u ~ N(0.3, 1): the statistics of x, not of u."""
    prior = iv.priors.exp(iv.priors.GaussianPrior(torch.full((2,), 0.3, dtype=D), torch.eye(2, dtype=D)))
    A, y = iv.operators.Mask(torch.ones(2, dtype=torch.bool)), torch.tensor([0.2, 2.5], dtype=D)
    result = iv.solve(A, y.expand(2, 2) if batched else y, prior, noise=0.4, num_samples=19)
    assert result.exact_statistics == ALL and result.samples.min() > 0
    u = np.linspace(-9, 9, 400_001)
    for entry in range(2):
        weight = stats.norm.pdf(u, 0.3, 1) * stats.norm.pdf(float(y[entry]), np.exp(u), 0.4)
        total = np.trapezoid(weight, u)
        mean = np.trapezoid(weight * np.exp(u), u) / total
        std = math.sqrt(np.trapezoid(weight * (np.exp(u) - mean) ** 2, u) / total)
        cdf = np.concatenate([[0], np.cumsum((weight[1:] + weight[:-1]) / 2)])
        assert (
            abs(float(result.mean[..., entry].max()) - mean) < 1e-8
            and abs(float(result.std[..., entry].max()) - std) < 1e-8
        )
        median = math.exp(np.interp(0.5, cdf / cdf[-1], u))
        assert (
            abs(float(result.quantile(0.5)[..., entry].max()) - median) < 1e-5 * std
        )  # polynomials, see `EntryMarginals`
    assert torch.equal(pickle.loads(pickle.dumps(result)).quantile(0.1), result.quantile(0.1))
