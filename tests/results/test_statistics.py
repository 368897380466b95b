"""What mean, std and quantiles of a result are of: a closed form, an ensemble, a lattice, or its samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.errors import InputError
from invsolve.gaussian.marginals import LatticeMarginals, Moments
from invsolve.results.assembly import with_moments

D = torch.float64
N = 3
LAW = iv.priors.GaussianPrior(torch.tensor([1e8, 0.0, -2.0], dtype=D), torch.eye(N, dtype=D) + 0.5)
A = iv.operators.Matrix(torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -1.0]], dtype=D))
BENT = iv.operators.from_callable(lambda x: A._apply(x), (N,), (2,))  # the same, which nobody knows to be linear
Y = torch.tensor([[1e8 + 1.0, 2.0], [1e8, 0.5]], dtype=D)
CHAINS = iv.strategies.NoiseMCMC(chains=512, islands=4, rounds=8)
KINDS = ("mean", "std", "quantile", "interval")


@pytest.fixture(scope="module")
def chains():
    return iv.solve(BENT, Y, LAW, noise=0.5, strategy=CHAINS, num_samples=19)


@pytest.fixture(scope="module")
def exact():
    return iv.solve(A, Y, LAW, noise=0.5, num_samples=2)


def near(result, right, draws):
    """Within five standard errors of so many draws, about one in two of which is independent."""
    n = draws / 2
    assert float(((result.mean - right.mean) / right.std).abs().max()) < 5 / math.sqrt(n)
    assert float((result.std / right.std - 1).abs().max()) < 5 / math.sqrt(2 * n)


def test_chains_answer_with_all_that_they_recorded(chains, exact):
    """Of 19 samples the mean would be known to 0.23 stds; a mean of 1e8 stds costs no digits."""
    assert list(chains.statistics.values()) == ["ensemble", "ensemble", "samples", "samples"]
    assert chains.exact_statistics == () and tuple(chains.statistics) == KINDS
    near(chains, exact, 512 * 8)
    assert "mean and std of the ensemble" in repr(chains)
    text = chains.summary()
    assert "mean and std of the whole ensemble behind the samples, within " in text
    assert "quantiles and intervals of the samples" in text
    assert "posterior std in the mean" not in text  # which is no longer that of so few samples


def test_they_do_not_depend_on_how_many_samples_are_picked(chains):
    more = iv.solve(BENT, Y, LAW, noise=0.5, strategy=CHAINS, num_samples=40)
    assert torch.equal(more.mean, chains.mean) and torch.equal(more.std, chains.std)
    one = iv.solve(BENT, Y[0], LAW, noise=0.5, strategy=CHAINS, num_samples=2)
    assert torch.allclose(one.mean, chains.mean[0], rtol=1e-12) and one.std.shape == (N,)


def test_particles_on_islands_too():
    prior = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(2,), scale=1.0, dtype=D)
    eye = iv.operators.Matrix(torch.eye(2, dtype=D))
    result = iv.solve(eye, torch.tensor([1.0, -2.0], dtype=D), prior, noise=1.0, budget=iv.Budget(evaluations=200_000))
    assert result.strategy == "SMC" and result.statistics["std"] == "ensemble" and result.num_samples == 999
    bound = result.certificate
    assert float((result.mean - torch.tensor([0.5, -1.0], dtype=D)).abs().max()) < 2 * float(bound.mean_error)
    assert float((result.std * math.sqrt(2) - 1).abs().max()) < 2 * float(bound.std_error)


def test_of_a_transformed_prior_they_are_of_the_signal():
    """x = exp(u), u given y normal: mean and std of a lognormal distribution."""
    law = iv.priors.GaussianPrior(torch.zeros(2, dtype=D), 0.25 * torch.eye(2, dtype=D))
    logs = iv.operators.from_callable(torch.log, (2,), (2,))
    y = torch.tensor([0.3, -0.4], dtype=D)
    result = iv.solve(logs, y, iv.priors.exp(law), noise=0.5, strategy=CHAINS, num_samples=19)
    assert result.statistics["mean"] == "ensemble" and result.shape == (2,)
    mean, var = y / 2, 0.125
    right = (mean + var / 2).exp()
    std = right * math.sqrt(math.expm1(var))
    n = 512 * 8 / 2
    assert float(((result.mean - right) / std).abs().max()) < 5 / math.sqrt(n)
    kurtosis = float(stats.lognorm(math.sqrt(var)).stats("k")) + 3
    assert float((result.std / std - 1).abs().max()) < 5 * math.sqrt((kurtosis - 1) / (4 * n))


def test_files_hold_them_and_what_is_derived_does_not(chains, tmp_path):
    path = tmp_path / "chains.nc"
    chains.save(path)
    loaded = iv.load_result(path)
    assert loaded.statistics == chains.statistics
    assert torch.equal(loaded.mean, chains.mean) and torch.equal(loaded.std, chains.std)
    assert chains.to_xarray()["mean"].attrs["statistics"] == "ensemble"
    derived = chains.map(lambda x: 2 * x)
    assert set(derived.statistics.values()) == {"samples"}
    assert torch.equal(derived.mean, derived.samples.mean(0))


def test_a_finished_checkpoint_gives_them_again(chains, tmp_path):
    path = tmp_path / "run.ckpt"
    first, again = (
        iv.solve(BENT, Y, LAW, noise=0.5, strategy=CHAINS, num_samples=19, checkpoint=path) for _ in range(2)
    )
    assert torch.equal(first.mean, chains.mean) and torch.equal(again.mean, chains.mean)
    assert again.statistics == chains.statistics and torch.equal(again.std, chains.std)


def test_items_without_an_ensemble_have_those_of_their_samples(chains):
    plain = replace(chains, marginals=None)
    known = Moments(mean=chains.mean.clone(), std=chains.std.clone(), known="ensemble")
    known.mean[1] = math.nan
    mixed = with_moments(plain, known)
    assert torch.equal(mixed.mean[0], chains.mean[0]) and torch.equal(mixed.mean[1], plain.mean[1])
    assert torch.equal(mixed.std[1], plain.std[1]) and mixed.statistics["mean"] == "ensemble"
    known.mean[:] = math.nan
    assert with_moments(plain, known) is plain


def test_a_part_of_a_packed_signal_is_of_the_same_kind():
    layout = iv.Layout([iv.Part("a", ()), iv.Part("b", (2,))])
    samples = torch.randn(8, 3, dtype=D, generator=torch.Generator().manual_seed(0))
    whole = iv.solve(BENT, Y[0], LAW, noise=0.5, strategy=CHAINS, num_samples=8)
    packed = replace(whole, samples=samples, layout=layout)
    assert packed["b"].statistics["mean"] == "ensemble" and torch.equal(packed["b"].mean, whole.mean[1:])


# --- scalars on a lattice ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spacing", [0.15, 0.35, 0.7])
def test_quantiles_of_a_lattice(spacing):
    """Of a skew density, by its own quantiles: half a spacing was the error of those of nodes."""
    law = stats.gamma(9.0)
    nodes = torch.arange(-5.5, 6, spacing, dtype=D)  # stds of the cube root, which is nearly normal
    value = law.ppf(0.5) ** (1 / 3) + 0.23 * nodes
    weight = torch.tensor(law.pdf(value**3), dtype=D) * 3 * value**2
    weight = weight / weight.sum()
    found = LatticeMarginals.of([(value**3, weight), (value[:-1] ** 3, weight[:-1])], torch.device("cpu"))
    assert float(found.mean[0]) == pytest.approx(9.0, rel=1e-4) and float(found.std[0]) == pytest.approx(3.0, rel=1e-4)
    for level in (0.01, 0.05, 0.3, 0.5, 0.9, 0.99):
        assert found.quantile(level).tolist() == pytest.approx([law.ppf(level)] * 2, abs=3 * 0.1 * spacing**2)
    assert value[0] ** 3 <= found.quantile(1e-12)[0] <= law.ppf(1e-3)  # nothing is extrapolated
    assert found.only_item().quantile(0.5).shape == ()


def test_scalars_are_those_of_the_lattice(tmp_path):
    """A noise level by quadrature: 19 samples would give it to a quarter of its std."""
    y = torch.tensor([[0.3, -0.5, 1.2, 0.7], [0.1, 0.2, -0.1, 0.0]], dtype=D)
    prior = iv.priors.GaussianPrior(torch.zeros(4, dtype=D), torch.eye(4, dtype=D))
    level = iv.LogNormal(median=0.5, factor=2.0)
    eye = iv.operators.Matrix(torch.eye(4, dtype=D))
    result = iv.solve(eye, y, prior, noise=iv.noise.Gaussian(std=level), num_samples=19)
    z = torch.linspace(-6, 6, 4001, dtype=D)
    std = level.transport(z)
    total = 1 + std**2
    log = -0.5 * (y.square().sum(1)[:, None] / total + 4 * total.log()) - 0.5 * z**2
    weight = torch.softmax(log, 1)
    mean = weight @ std
    spread = torch.stack([(w @ (std - m) ** 2).sqrt() for w, m in zip(weight, mean, strict=True)])
    found = result["noise.std"]
    assert set(found.statistics.values()) == {"lattice"}
    assert torch.allclose(found.mean, mean, rtol=1e-4) and torch.allclose(found.std, spread, rtol=1e-3)
    low, high, exact = found.interval(0.9)
    for end, q in ((low, 0.05), (high, 0.95)):
        right = std[(weight.cumsum(1) < q).sum(1)]
        assert exact == 0.9 and float(((end - right) / spread).abs().max()) < 0.01
    assert set(result.statistics.values()) == {"samples"}  # the signal's own
    result.save(tmp_path / "r.nc")
    again = iv.load_result(tmp_path / "r.nc")["noise.std"]
    assert torch.equal(again.mean, found.mean) and torch.equal(again.quantile(0.2), found.quantile(0.2))
    assert "by integration over a lattice" in found.summary()


# --- samples of no posterior ------------------------------------------------------------------------------------------
def test_chains_that_were_stopped_have_no_intervals(chains):
    """Their samples are those of another distribution, and of nothing with an effective number of 0."""
    power = torch.full((19, 2), 0.3)
    options = {"info": {"beta": power}, "marginals": None, "status": iv.Status.TEMPERED}
    none = replace(chains, **options)
    for ask in (lambda r: r.interval(0.5), lambda r: r.quantile(0.5)):
        with pytest.raises(InputError, match=r"samples.*posterior.*power 0.3 of the likelihood.*larger budget"):
            ask(none)
    power[:, 1] = 1.0
    one = replace(chains, **options)
    low, high, _ = one.interval(0.5)
    assert low[0].isnan().all() and high[0].isnan().all() and (low[1] < high[1]).all()


def test_words_for_a_batch_of_one():
    result = iv.solve(A, Y[:1], LAW, noise=0.5, num_samples=2)
    assert result.summary().splitlines()[0] == "Posterior: 2 samples of a real signal, 3 (float64), in a batch of one"


def test_a_file_of_an_unknown_scalar_alone_keeps_its_lattice(tmp_path):
    """Mean, std and quantiles of the lattice, and the words for it; it came back as samples under a wrong name."""
    dtype = torch.float64
    prior = iv.priors.GaussianPrior(torch.zeros(4, dtype=dtype), torch.eye(4, dtype=dtype))
    y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.5, factor=2.0))
    std = iv.solve(iv.operators.Identity(), y, prior, noise=noise, num_samples=50)["noise.std"]
    for found in (std, std.map(lambda x: x)):
        found.save(tmp_path / "s.nc")
        loaded = iv.load_result(tmp_path / "s.nc")
        assert dict(loaded.statistics) == dict(found.statistics) and loaded.exact_statistics == found.exact_statistics
        assert torch.equal(loaded.mean, found.mean) and torch.equal(loaded.std, found.std)
        assert torch.allclose(loaded.quantile(0.95), found.quantile(0.95))
    assert std.statistics["std"] == "lattice"


def test_the_median_is_the_quantile_of_a_half():
    """Exact where a closed form is known, of the samples elsewhere, of a number and of weighted samples; not of complex ones."""
    prior = iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3))
    exact = iv.solve(iv.operators.Identity(), [1.0, 2.0, 3.0], prior, noise=1.0, num_samples=4)
    assert torch.allclose(exact.median, torch.tensor([0.5, 1.0, 1.5])) and torch.equal(exact.median, exact.mean)
    positive = iv.solve(
        iv.operators.Identity(), [1.0, 2.0, 3.0], iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3)), noise=1.0
    )
    for result in (exact, exact.map(torch.exp), positive.map(torch.exp), exact.map(lambda x: x.sum(1))):
        assert torch.equal(result.median, result.quantile(0.5))
    weighted = replace(exact, log_weights=torch.tensor([0.0, 1.0, 2.0, 3.0]), marginals=None)
    assert torch.equal(weighted.median, weighted.quantile(0.5))
    one = replace(
        exact, samples=exact.samples[:1], chi2=exact.chi2[:1], failed=exact.failed[:1], info={}, marginals=None
    )
    assert torch.equal(one.median, one.samples[0])
    unknown = iv.solve(
        iv.operators.Identity(), torch.ones(3), prior, noise=iv.LogNormal(median=1.0, factor=2), num_samples=9
    )
    assert torch.equal(unknown["noise.std"].median, unknown["noise.std"].quantile(0.5))
    with pytest.raises(
        iv.errors.InputTypeError, match=r"median: `samples` must be real: .* result.map\(torch.abs\).median\.$"
    ):
        _ = exact.map(lambda x: x + 0j).median
