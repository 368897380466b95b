"""Unknown scalars: lattices, Gibbs and whole solves against closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.hyperparameters import gibbs, lattice
from invsolve.hyperparameters.mixing import memory
from invsolve.hyperparameters.unknowns import Unknowns

F64 = torch.float64


def random(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def smooth(n, length):
    i = torch.arange(n, dtype=F64)
    return torch.exp(-(i[:, None] - i).abs() / length)


# --- the lattice ----------------------------------------------------------------------------------------------------
def found(density, dims, spacing=0.15):
    """The lattice of a log density over z."""
    return lattice.run([lattice.explore(dims, spacing)], lambda node, who: [density(torch.tensor(node, dtype=F64))])[0]


def moments(grid):
    mean = grid.weights @ grid.points
    return mean, (grid.points - mean).mT @ ((grid.points - mean) * grid.weights[:, None])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.9, 0.05), (-3.7, 0.4), (2.3, 0.003)])
def test_one_dimension(mean, std):
    grid = found(lambda z: float(-0.5 * ((z[0] - mean) / std) ** 2), 1)
    got, covariance = moments(grid)
    # Truncated at five std (6e-7 of the mass); the trapezoid rule itself is exact here.
    assert float(grid.log_total) == pytest.approx(math.log(std * math.sqrt(2 * math.pi)), abs=1e-5)
    assert float(got) == pytest.approx(mean, abs=1e-5 * std)
    assert float(covariance.sqrt()) == pytest.approx(std, rel=1e-4)
    assert 0.05 < grid.steps[0] / std <= 0.15
    assert grid.error < 1e-5


@pytest.mark.parametrize(("dims", "rho"), [(2, 0.0), (2, 0.95), (3, 0.5)])
def test_correlated_densities(dims, rho):
    covariance = 0.04 * ((1 - rho) * torch.eye(dims, dtype=F64) + rho)
    precision, mean = torch.linalg.inv(covariance), torch.linspace(-0.5, 1.0, dims, dtype=F64)
    grid = found(lambda z: float(-0.5 * (z - mean) @ precision @ (z - mean)), dims, 0.4)
    got, spread = moments(grid)
    want = 0.5 * torch.logdet(2 * math.pi * covariance)
    # The lattice ends at 4.5 (4) std in two (three) dimensions.
    assert float((grid.log_total - want).abs()) < 3 * grid.truncation
    assert torch.allclose(got, mean, atol=1e-3 * 0.2)
    assert torch.allclose(spread, covariance, rtol=0.02)


def test_two_peaks_and_a_curve():
    def peaks(z):
        return float(torch.logsumexp(-0.5 * ((z - torch.tensor([-2.0, 2.1])) / 0.05) ** 2, 0))

    grid = found(peaks, 1)
    assert float(grid.log_total) == pytest.approx(math.log(2 * 0.05 * math.sqrt(2 * math.pi)), abs=1e-4)

    for places, std in (((-1.3, 0.43), 0.02), ((0.7, 0.9), 0.015), ((-3.1, 2.6), 0.008)):
        # Much narrower than the prior, of one height: the log of either's share is log 2.
        def narrow(z, places=places, std=std):
            return float(torch.logsumexp(-0.5 * ((z - torch.tensor(places, dtype=F64)) / std) ** 2, 0))

        grid = found(narrow, 1)
        assert float(grid.log_total) == pytest.approx(math.log(2 * std * math.sqrt(2 * math.pi)), abs=1e-4)

    def far(z):  # two peaks in the plane
        apart = torch.stack([z - torch.tensor([0.8, -0.7], dtype=F64), z - torch.tensor([-1.1, 1.2], dtype=F64)])
        return float(torch.logsumexp(-0.5 * (apart / 0.05).square().sum(1), 0))

    grid = found(far, 2, 0.35)
    assert float(grid.log_total) == pytest.approx(math.log(2 * 2 * math.pi * 0.05**2), abs=3 * grid.truncation)

    def banana(z):  # z0 ~ N(0, 1), z1 | z0 ~ N(z0^2 / 2, 0.2^2)
        return float(-0.5 * z[0] ** 2 - 0.5 * ((z[1] - z[0] ** 2 / 2) / 0.2) ** 2)

    grid = found(banana, 2, 0.5)
    assert float(grid.log_total) == pytest.approx(math.log(2 * math.pi * 0.2), abs=1e-3)
    assert float(moments(grid)[0][1]) == pytest.approx(0.5, abs=5e-3)


def test_a_lattice_that_is_too_coarse_says_so():
    nodes = tuple((float(k),) for k in range(-3, 4))
    z = torch.tensor(nodes, dtype=F64)[:, 0]
    coarse = lattice.Lattice(nodes=nodes, log_mass=-0.5 * ((z - 0.3) / 0.3) ** 2, steps=(1.0,), truncation=0.0)
    assert coarse.error > 0.1
    none_even = lattice.Lattice(nodes=((1.0,),), log_mass=torch.zeros(1, dtype=F64), steps=(1.0,), truncation=0.0)
    assert none_even.error == math.inf


def test_nodes_are_drawn_with_their_probability():
    grid = found(lambda z: float(-0.5 * ((z[0] - 1) / 0.2) ** 2), 1)
    z = grid.points[grid.choose((torch.arange(4000, dtype=F64) + 0.5) / 4000), 0]
    assert float(z.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(z.std()) == pytest.approx(0.2, rel=5e-3)


def test_several_densities_ask_once_for_a_shared_node_and_do_not_see_each_other():
    asked = []

    def evaluate(node, who):
        asked.append((node, tuple(who)))
        return [-0.5 * ((node[0] - i) / 0.1) ** 2 for i in who]

    grids = lattice.run([lattice.explore(1, 0.15) for _ in range(2)], evaluate)
    assert sum(node == (0.0,) for node, _ in asked) == 1
    alone = lattice.run([lattice.explore(1, 0.15)], lambda node, who: [-0.5 * ((node[0] - 1) / 0.1) ** 2])[0]
    assert grids[1].nodes == alone.nodes and torch.equal(grids[1].log_mass, alone.log_mass)


def test_lattices_that_cannot_be(monkeypatch):
    with pytest.raises(UnsupportedError, match="evidence is not finite"):
        found(lambda z: math.nan, 1)
    with monkeypatch.context() as patch:
        patch.setattr(lattice, "_MAX_NODES", 300)
        with pytest.raises(UnsupportedError, match="more than 300 nodes.*gibbs"):
            found(lambda z: float(-0.5 * z.square().sum()), 2)
    monkeypatch.setattr(lattice, "_ROUNDS", 1)
    with pytest.raises(UnsupportedError, match="no lattice resolves.*gibbs"):
        found(lambda z: float(-0.5 * (z / 0.01).square().sum()), 1)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.2345, 1e-4), (-4.0, 0.3)])
def test_inversion_of_a_density(mean, std):
    uniform = (torch.arange(2000, dtype=F64) + 0.5) / 2000
    z = gibbs.invert(lambda z: -0.5 * ((z - mean) / std) ** 2, uniform)
    want = mean + std * torch.special.ndtri(uniform)
    assert float((z - want).abs().max()) < 3e-3 * std  # linear between points .06 std apart: h^2 / 12 in the far tail


# --- whole solves ---------------------------------------------------------------------------------------------------
NOISE = iv.noise.Gaussian(std=iv.LogNormal(median=0.2, factor=3.0))


def field(length):
    return iv.priors.GaussianPrior(mean=torch.zeros(6, dtype=F64), covariance=smooth(6, length))


FAMILY = iv.priors.Family(field, length=iv.LogUniform(low=0.3, high=20.0))


def data(items=2, m=24, std=0.4, seed=1):
    A = random(m, 6, seed=seed) / 2
    x = random(items, 6, seed=seed + 1) @ torch.linalg.cholesky(smooth(6, 3.0)).mT
    return iv.operators.Matrix(matrix=A), x @ A.mT + std * random(items, m, seed=seed + 2)


def quadrature(A, y, *, lengths=(3.0,), low=-5.0, high=5.0, points=1201):
    """log p(y), and mean and std of noise std and length, for every item: dense formulas on a fine grid."""
    z = torch.linspace(low, high, points, dtype=F64)
    stds = NOISE.std.transport(z)
    matrix, logs = A.matrix, []
    for length in lengths:
        values, vectors = torch.linalg.eigh(matrix @ smooth(6, length) @ matrix.mT)
        total = values + stds[:, None] ** 2
        c = (y @ vectors).square()
        logs.append(-0.5 * (c[:, None] / total + total.log() + math.log(2 * math.pi)).sum(-1))
    log_joint = torch.stack(logs, 1) - 0.5 * z.square() - 0.5 * math.log(2 * math.pi)  # (items, lengths, z)
    w = torch.softmax(log_joint.flatten(1), 1).view_as(log_joint)
    out = {"log": torch.logsumexp(log_joint.flatten(1), 1) + math.log(float(z[1] - z[0]) / len(lengths))}
    for name, value, weight in (
        ("noise.std", stds, w.sum(1)),
        ("prior.length", torch.tensor(lengths, dtype=F64), w.sum(2)),
    ):
        mean = weight @ value
        out[name] = mean, (weight * (value - mean[:, None]).square()).sum(1).sqrt()
    return out


def close(result, name, truth, spacing=0.15):
    """Mean and std of the drawn scalars within five standard errors."""
    mean, std = truth
    n = result.num_samples
    drawn = result[name]
    kurtosis = ((drawn.samples - drawn.mean) / drawn.std).pow(4).mean(0).clamp_min(3)
    assert (((drawn.mean - mean) / std).abs() < 5 / math.sqrt(n)).all()
    assert ((drawn.std / std - 1).abs() < 5 * ((kurtosis - 1) / (4 * n)).sqrt()).all()


def test_noise_level_with_a_closed_form():
    A, y = data()
    truth = quadrature(A, y)
    result = iv.solve(A, y, field(3.0), noise=NOISE, num_samples=2000)
    assert result.strategy == "Exact" and "noise.std: by the evidence, on a lattice of" in result.why
    assert torch.allclose(result.log_evidence, truth["log"], atol=1e-5)
    assert ((result.log_evidence - truth["log"]).abs() <= 2 * result.log_evidence_se).all()
    close(result, "noise.std", truth["noise.std"])
    assert result.parameters["noise.std"].shape == (2000, 2) and result["noise.std"].shape == ()
    # chi^2 is with the noise level of each sample, so that it is about one whatever that is.
    assert float(result.chi2.median()) == pytest.approx(1.0, abs=0.3)


def test_signals_are_drawn_given_their_scalars():
    A, y = data(items=2)
    result = iv.solve(A, y, field(3.0), noise=NOISE, num_samples=4000)
    # E x = sum over theta of p(theta | y) E[x | theta, y]; and the covariance of x with log sigma, which is not zero.
    z = torch.linspace(-4, 4, 801, dtype=F64)
    stds = NOISE.std.transport(z)
    posteriors = [field(3.0).posterior(A, y, float(s)) for s in stds]
    variances = torch.stack([p.covariance.diagonal() for p in posteriors])
    for item in range(2):
        w = torch.softmax(torch.stack([p.log_evidence[item] for p in posteriors]) - 0.5 * z.square(), 0)
        means = torch.stack([p.mean[item] for p in posteriors])
        mean = w @ means
        std = (w @ (variances + (means - mean).square())).sqrt()
        assert (((result.mean[item] - mean) / std).abs() < 5 / math.sqrt(4000)).all()
        assert ((result.std[item] / std - 1).abs() < 5 / math.sqrt(2 * 4000) * 1.2).all()
    means = torch.stack([p.mean[0] for p in posteriors])
    node = (result.parameters["noise.std"][:, :1] - stds).abs().argmin(1)
    square = ((result.samples[:, 0] - means[node]).square() / variances[node]).mean(1)
    logs = result.parameters["noise.std"][:, 0].log()
    correlation = float(torch.corrcoef(torch.stack([square, logs]))[0, 1])
    assert abs(correlation) < 5 / math.sqrt(4000)  # the spread is the one of the sample's own noise level


def test_noise_level_and_length_with_a_closed_form():
    A, y = data(items=1)
    lengths = torch.linspace(math.log(0.3), math.log(20.0), 402, dtype=F64)
    lengths = ((lengths[1:] + lengths[:-1]) / 2).exp().tolist()  # midpoints in the logarithm
    truth = quadrature(A, y, lengths=lengths, points=401)
    result = iv.solve(A, y, FAMILY, noise=NOISE, num_samples=2000)
    assert ((result.log_evidence - truth["log"]).abs() < 2e-3).all()
    assert ((result.log_evidence - truth["log"]).abs() <= 2 * result.log_evidence_se + 1e-4).all()
    for name in ("noise.std", "prior.length"):
        close(result, name, truth[name])
    assert float(result.info["lattice_nodes"].max()) < 4000


def test_length_alone_and_a_scalar_of_the_operator():
    A, y = data()
    gains = iv.operators.Family(
        lambda gain: iv.operators.Matrix(matrix=gain * A.matrix), gain=iv.LogNormal(median=1, factor=1.5)
    )
    result = iv.solve(gains, y, field(3.0), noise=0.4, num_samples=1000)
    z = torch.linspace(-5, 5, 1001, dtype=F64)
    values = gains.unknown["gain"].transport(z)
    logs = torch.stack([field(3.0).posterior(gains.at(gain=float(g)), y, 0.4).log_evidence for g in values], 1)
    w = torch.softmax(logs - 0.5 * z.square(), 1)
    mean = w @ values
    close(result, "operator.gain", (mean, (w * (values - mean[:, None]).square()).sum(1).sqrt()))
    fixed = iv.solve(A, y, FAMILY, noise=0.4, num_samples=50)
    assert set(fixed.parameters) == {"prior.length"}
    assert ((fixed.parameters["prior.length"] > 0.3) & (fixed.parameters["prior.length"] < 20)).all()


@pytest.mark.slow
def test_two_narrow_peaks_of_an_unknown_scalar():
    """A gain known up to its sign, the square of a scalar about 0.4: peaks at 0.4 +- 1 that are 0.05 wide."""
    A = iv.operators.Matrix(matrix=random(300, 6, seed=5))
    prior = iv.priors.GaussianPrior(mean=torch.ones(6, dtype=F64), covariance=0.01 * torch.eye(6, dtype=F64))

    def gain(value):
        return iv.operators.Matrix(matrix=(value - 0.4) ** 2 * A.matrix)

    y = A(torch.ones(1, 6, dtype=F64)) + random(1, 300, seed=6)
    family = iv.operators.Family(gain, value=iv.Normal(mean=0.0, std=1.0))
    result = iv.solve(family, y, prior, noise=1.0, num_samples=400)
    z = torch.linspace(-4, 4, 8001, dtype=F64)
    logs = torch.stack([prior.posterior(gain(float(v)), y, 1.0).log_evidence[0] for v in z[::8]])
    assert int(((logs[1:-1] > logs[:-2]) & (logs[1:-1] > logs[2:])).sum()) == 2  # two peaks
    logs = torch.stack([prior.posterior(gain(float(v)), y, 1.0).log_evidence[0] for v in z[2000:6000]])
    logs = logs - 0.5 * z[2000:6000].square() - 0.5 * math.log(2 * math.pi)
    truth = torch.logsumexp(logs, 0) + math.log(1e-3)
    assert float((result.log_evidence[0] - truth).abs()) <= 2 * float(result.log_evidence_se[0]) + 1e-4
    upper = float(torch.softmax(logs, 0)[z[2000:6000] > 0.4].sum())
    assert 0.05 < upper < 0.95
    share = float((result.parameters["operator.value"] > 0.4).double().mean())
    assert abs(share - upper) < 5 * math.sqrt(upper * (1 - upper) / 400)
    assert result.warnings == () and "scan of the prior at most 0.25 std apart" in result.why


def test_a_scan_that_was_broken_off_is_mentioned(monkeypatch):
    A, y = data(items=1)
    monkeypatch.setattr("invsolve.hyperparameters.mode_search._MOST", {1: 0})
    result = iv.solve(A, y, field(3.0), noise=NOISE, num_samples=4, hierarchy=iv.Hierarchy(scan=4.0))
    assert any("scan of noise.std was broken off" in w and "Hierarchy(scan=...)" in w for w in result.warnings)
    assert not result.certificate.reached
    assert float(result.log_evidence_se[0]) > 0.05
    finer = iv.solve(A, y, field(3.0), noise=NOISE, num_samples=4, hierarchy=iv.Hierarchy(scan=0.03))
    assert finer.warnings == () and "at most 0.03 std apart" in finer.why


@pytest.mark.slow
def test_a_row_depends_on_its_own_data_and_key_only():
    A, y = data(items=3)
    options = {"noise": NOISE, "hierarchy": iv.Hierarchy(spacing=1.0)}
    whole = iv.solve(A, y, FAMILY, num_samples=6, seed=5, **options)
    alone = iv.solve(A, y[1], FAMILY, num_samples=3, seed=5, **options)
    other = iv.solve(A, y[1:2], FAMILY, num_samples=3, seed=5, item_ids=[1], **options)
    assert alone.samples.shape == (3, 6) and alone.log_evidence.shape == () and not alone.batched
    for name in whole.parameters:
        assert torch.equal(other.parameters[name][:, 0], whole.parameters[name][:3, 1])
    assert torch.allclose(other.samples[:, 0], whole.samples[:3, 1], rtol=1e-9)
    assert torch.allclose(alone.log_evidence, whole.log_evidence[1], rtol=1e-10)
    again = iv.solve(A, y[:1], FAMILY, num_samples=6, seed=6, **options)
    assert not torch.equal(again.parameters["noise.std"], whole.parameters["noise.std"][:, :1])


def test_scalars_are_shown_saved_and_read_back(tmp_path):
    A, y = data()
    result = iv.solve(A, y, FAMILY, noise=NOISE, num_samples=8, hierarchy=iv.Hierarchy(spacing=1.0))
    text = result.summary()
    assert "noise.std: " in text and "prior.length: " in text and "length=LogUniform" in text
    result.save(tmp_path / "r.nc")
    loaded = iv.load_result(tmp_path / "r.nc")
    for name, value in result.parameters.items():
        assert torch.equal(loaded.parameters[name], value)
        assert torch.equal(loaded[name].mean, result[name].mean)
    assert result.to_xarray()["parameter_noise.std"].dims == ("sample", "item")
    with pytest.raises(InputError, match=r"one of 'noise.std', 'prior.length', got 'length'"):
        result["length"]
    assert "noise.std, prior.length vary from sample to sample" in str(result.check())
    mapped = result.map(lambda x: x.amax(1))
    assert torch.equal(mapped["noise.std"].samples, result.parameters["noise.std"])


def mixture():
    means = torch.tensor([[-1.0, 0.0], [1.0, 1.0]], dtype=F64)
    covariances = torch.stack([0.3 * torch.eye(2, dtype=F64), 0.1 * torch.eye(2, dtype=F64)])
    prior = iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.4, 0.6], dtype=F64), means=means, covariances=covariances
    )
    A = iv.operators.Matrix(matrix=random(12, 2, seed=3))
    y = A(prior.sample(1, seed=3)) + 0.3 * random(1, 12, seed=4)
    return prior, A, y


def mixture_truth(prior, A, y):
    z = torch.linspace(-5, 5, 1001, dtype=F64)
    stds = NOISE.std.transport(z)
    logs = torch.stack([prior.posterior(A, y, float(s)).log_evidence[0] for s in stds]) - 0.5 * z.square()
    w = torch.softmax(logs, 0)
    mean = w @ stds
    log = torch.logsumexp(logs, 0) + math.log(0.01) - 0.5 * math.log(2 * math.pi)
    return log, mean[None], (w @ (stds - mean).square()).sqrt()[None]


@pytest.mark.slow
def test_smc_on_the_lattice():
    prior, A, y = mixture()
    log, mean, std = mixture_truth(prior, A, y)
    options = {"strategy": iv.strategies.SMC(num_steps=12), "hierarchy": iv.Hierarchy(spacing=0.8)}
    result = iv.solve(A, y, prior, noise=NOISE, num_samples=256, **options)
    assert float((result.log_evidence - log).abs()) < 3 * float(result.log_evidence_se) < 0.2
    close(result, "noise.std", (mean, std))
    assert result.log_weights is None and float(result.ess) == 256
    exact = iv.solve(A, y, prior, noise=NOISE, num_samples=2000)
    error = (result.mean - exact.mean) / exact.std
    assert (error.abs() < 5 / math.sqrt(256) + 5 / math.sqrt(2000)).all()
    kept = lattice_keeps(options, prior, A, y)
    assert torch.equal(kept.samples, result.samples)  # made again, or kept: the same


@pytest.mark.slow
def test_chains_on_the_lattice():
    """A linear-Gaussian problem, whose closed form on the lattice is the reference."""
    prior, (A, y) = field(3.0), data(items=1)
    exact = iv.solve(A, y, prior, noise=NOISE, num_samples=4000)
    options = {"strategy": iv.strategies.NoiseMCMC(chains=256), "hierarchy": iv.Hierarchy(spacing=0.8)}
    result = iv.solve(A, y, prior, noise=NOISE, num_samples=256, **options)
    close(result, "noise.std", (exact["noise.std"].mean, exact["noise.std"].std))
    assert abs(float(result.log_evidence - exact.log_evidence)) < 4 * math.sqrt(2 * 7 / 256)  # seven rises


@pytest.mark.slow
def test_only_values_with_weight_say_that_samples_do_not_fit():
    """Items of unlike noise are solved side by side at every noise level, and at most levels they do not fit."""
    prior, A, _ = mixture()
    y = A(prior.sample(3, seed=3)) + torch.tensor([[0.02], [0.8], [1.0]], dtype=F64) * random(3, 12, seed=4)
    options = {"strategy": iv.strategies.SMC(num_steps=12), "hierarchy": iv.Hierarchy(spacing=1.0, scan=2.0)}
    result = iv.solve(A, y, prior, noise=NOISE, num_samples=64, **options)
    assert (result["noise.std"].mean[1:] > 10 * result["noise.std"].mean[0]).all()
    assert not any("do not fit" in text for text in result.warnings)
    # Data that no noise level of the law explains: all values say so.
    tight = iv.noise.Gaussian(std=iv.LogNormal(median=0.01, factor=1.1))
    result = iv.solve(A, y[1:], prior, noise=tight, num_samples=64, **options)
    assert any("do not fit the data: chi^2 per datum" in text for text in result.warnings)


def test_an_evidence_that_chains_did_not_reach_does_not_count():
    """That of a power of the likelihood is larger: noise levels that chains cannot cope with would win."""
    prior, (A, y) = field(3.0), data(items=1)
    few = iv.strategies.NoiseMCMC(chains=64, num_steps=10)
    result = iv.solve(A, y, prior, noise=NOISE, num_samples=64, strategy=few, hierarchy=iv.Hierarchy(spacing=1.0))
    truth = quadrature(A, y)
    mean, std = truth["noise.std"]
    assert abs(float(result["noise.std"].mean - mean)) < 5 / 8 * float(std)
    assert abs(float(result.log_evidence - truth["log"])) < 5 * math.sqrt(2 * 7 / 64)  # seven rises of 64 chains
    assert any("NoiseMCMC gave no evidence at 1 of" in text and "number of steps" in text for text in result.warnings)


def test_auto_takes_ensembles_where_there_is_no_closed_form():
    from invsolve.hyperparameters.request import choose

    sparse = iv.priors.SparsePrior(shape=(4,), coefficients=iv.priors.Laplace(scale=1.0), transform="haar")
    problem = iv.Problem(iv.operators.Mask(mask=torch.ones(4, dtype=torch.bool)), torch.zeros(4), noise=0.1)
    strategy, why = choose(problem, sparse, iv.Hierarchy(), 1)
    assert strategy.name == "NoiseMCMC" and "ensembles that give evidence" in why


def lattice_keeps(options, prior, A, y):
    """The same solve without memory for weighted samples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("invsolve.hyperparameters.on_lattice._KEPT", 0)
        patch.setattr("invsolve.hyperparameters.on_lattice._PRIORS", 1)
        return iv.solve(A, y, prior, noise=NOISE, num_samples=256, **options)


# --- Gibbs ----------------------------------------------------------------------------------------------------------
def test_gibbs_finds_the_noise_level():
    prior, A, y = mixture()
    _, mean, std = mixture_truth(prior, A, y)
    result = iv.solve(A, y, prior, noise=NOISE, num_samples=400, hierarchy=iv.Hierarchy(method="gibbs", num_sweeps=25))
    assert "noise.std: by 25 Gibbs sweeps" in result.why and result.log_evidence is None
    close(result, "noise.std", (mean, std))


def test_gibbs_with_guidance_is_right_where_guidance_is():
    A, y = data(items=1)
    truth = quadrature(A, y)
    result = iv.solve(
        A,
        y,
        field(3.0),
        noise=NOISE,
        num_samples=200,
        strategy=iv.strategies.MMPS(num_steps=16),
        hierarchy=iv.Hierarchy(num_sweeps=15),
    )
    close(result, "noise.std", truth["noise.std"])
    assert result.nfe == pytest.approx(16 * 16) and result.strategy == "MMPS"


@pytest.mark.slow
def test_gibbs_finds_scalars_of_prior_and_operator():
    A, y = data(items=1, m=48, std=0.2)
    lengths = torch.linspace(math.log(0.3), math.log(20.0), 402, dtype=F64)
    lengths = ((lengths[1:] + lengths[:-1]) / 2).exp()
    logs = torch.stack([field(float(v)).posterior(A, y, 0.2).log_evidence[0] for v in lengths])
    w = torch.softmax(logs, 0)
    mean = w @ lengths
    options = {"num_samples": 60, "hierarchy": iv.Hierarchy(method="gibbs", num_sweeps=8)}
    result = iv.solve(A, y, FAMILY, noise=0.2, **options)
    close(result, "prior.length", (mean[None], (w @ (lengths - mean).square()).sqrt()[None]))

    gains = iv.operators.Family(
        lambda gain: iv.operators.Matrix(matrix=gain * A.matrix), gain=iv.LogNormal(median=1, factor=1.2)
    )
    z = torch.linspace(-5, 5, 1001, dtype=F64)
    values = gains.unknown["gain"].transport(z)
    logs = torch.stack([field(3.0).posterior(gains.at(gain=float(g)), y, 1.0).log_evidence[0] for g in values])
    w = torch.softmax(logs - 0.5 * z.square(), 0)
    mean = w @ values
    result = iv.solve(gains, y, field(3.0), noise=1.0, **options)
    close(result, "operator.gain", (mean[None], (w @ (values - mean).square()).sqrt()[None]))


def test_gibbs_rows_do_not_see_each_other_and_slow_chains_are_mentioned():
    A, y = data(items=2)
    options = {"hierarchy": iv.Hierarchy(method="gibbs", num_sweeps=2), "seed": 3}
    whole = iv.solve(A, y, FAMILY, noise=NOISE, num_samples=3, **options)
    alone = iv.solve(A, y[:1], FAMILY, noise=NOISE, num_samples=2, **options)
    for name in whole.parameters:  # conjugate gradients agree between batches to their tolerance
        assert torch.allclose(alone.parameters[name][:, 0], whole.parameters[name][:2, 0], rtol=1e-6)
    trace = [random(50, 1, seed=0), random(50, 1, seed=1), random(50, 1, seed=0), random(50, 1, seed=0) + 0.1]
    assert memory(("a",), [trace[1], trace[0], trace[1], trace[2]])[0].startswith("a moves slowly")
    assert memory(("a",), [trace[0], trace[1], trace[2], trace[3]]) == ()
    assert memory(("a",), trace[:1]) == ()
    drifting = [trace[0], trace[1] + 3, trace[1], trace[0]]  # no memory, but a mean that moved by three std
    assert "their mean moved by" in memory(("a",), drifting)[0]


# --- refusals -------------------------------------------------------------------------------------------------------
def test_what_does_not_work_with_unknowns(tmp_path):
    A, y = data(items=1)
    for options, message in (
        ({"checkpoint": tmp_path / "c"}, "checkpoint.*unknown scalars"),
        ({"draws": lambda items, samples: None}, "draws.*unknown scalars"),
        ({"strategy": iv.strategies.MMPS(), "hierarchy": iv.Hierarchy(method="lattice")}, "MMPS gives no evidence"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            iv.solve(A, y, field(3.0), noise=NOISE, **options)
    many = 2**17
    black = iv.operators.from_callable(lambda x: x[:, :3].exp(), (many,), (3,), kind="black box")
    blind = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(many,), scale=1.0, dtype=F64)
    with pytest.raises(UnsupportedError, match="'auto' finds none.*not Exact.*not MMPS"):
        iv.solve(black, y[:, :3], blind, noise=NOISE)
    with pytest.raises(InputError, match="hierarchy.*no scalar is unknown"):
        iv.solve(A, y, field(3.0), noise=0.1, hierarchy=iv.Hierarchy())
    with pytest.raises(InputTypeError, match="hierarchy.*iv.Hierarchy"):
        iv.solve(A, y, field(3.0), noise=NOISE, hierarchy="gibbs")
    for options, message in (
        ({"method": "magic"}, "one of"),
        ({"spacing": 2.0}, "at most 1"),
        ({"scan": 5.0}, "at most 4"),
        ({"num_sweeps": 0}, "at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            iv.Hierarchy(**options)


def test_many_or_too_large_scalars_go_to_gibbs():
    A, y = data(items=1, m=4)

    def four(a, b, c, d):
        return field(a + b + c + d)

    laws = {name: iv.Uniform(low=0.1, high=1.0) for name in "abcd"}
    with pytest.raises(UnsupportedError, match="4 of them, more than 3"):
        iv.solve(A, y, iv.priors.Family(four, **laws), noise=0.1, hierarchy=iv.Hierarchy(method="lattice"))
    with pytest.raises(UnsupportedError, match="at most 3 scalars of the prior"):
        iv.solve(A, y, iv.priors.Family(four, **laws), noise=0.1)
    masks = iv.operators.Mask(mask=torch.ones(1, 6, dtype=torch.bool), in_shape=(6,))
    with pytest.raises(UnsupportedError, match="closed form is too large, or another for every item"):
        iv.solve(masks, y.new_ones(1, 6), field(3.0), noise=NOISE, hierarchy=iv.Hierarchy(method="lattice"))
    result = iv.solve(masks, y.new_ones(1, 6), field(3.0), noise=NOISE, num_samples=2)
    assert "Gibbs" in result.why


def test_scalars_of_a_prior_without_density_need_the_evidence():
    def make(scale):
        return iv.priors.from_denoiser(
            lambda x, s: x * scale**2 / (scale**2 + s**2), shape=(3,), scale=scale, dtype=F64
        )

    family = iv.priors.Family(make, scale=iv.LogNormal(median=1.0, factor=2.0))
    A = iv.operators.Matrix(matrix=torch.eye(3, dtype=F64))
    with pytest.raises(UnsupportedError, match="FunctionPrior with MMPS has neither.*SMC"):
        iv.solve(A, torch.ones(1, 3, dtype=F64), family, noise=0.5, strategy=iv.strategies.MMPS())


@pytest.mark.parametrize("strategy", [iv.strategies.SMC(), iv.strategies.FPS()], ids=lambda s: s.name)
def test_gibbs_takes_no_ensemble(strategy):
    """Of one particle, which nothing corrects."""
    prior = iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=F64), covariance=torch.eye(2, dtype=F64))
    A = iv.operators.Matrix(matrix=torch.eye(2, dtype=F64))
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.5, factor=2.0))
    with pytest.raises(UnsupportedError, match=f"one signal at a time, and {strategy.name} weighs many"):
        iv.solve(
            A,
            torch.ones(1, 2, dtype=F64),
            prior,
            noise=noise,
            strategy=strategy,
            hierarchy=iv.Hierarchy(method="gibbs"),
        )


def test_auto_under_gibbs_takes_guidance_rather_than_an_ensemble():
    hidden = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(3,), scale=1.0, dtype=F64)
    A = iv.operators.Matrix(matrix=torch.eye(3, dtype=F64))
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.5, factor=2.0))
    result = iv.solve(
        A,
        torch.ones(1, 3, dtype=F64),
        hidden,
        noise=noise,
        num_samples=2,
        hierarchy=iv.Hierarchy(method="gibbs", num_sweeps=2),
    )
    assert result.strategy == "MMPS" and "one signal at a time" in result.why


# --- families and the hook ------------------------------------------------------------------------------------------
def test_a_family_of_priors():
    assert FAMILY.shape == (6,) and FAMILY.dtype == F64 and "length=LogUniform" in repr(FAMILY)
    assert FAMILY.at(length=2.0).covariance.equal(smooth(6, 2.0))
    assert FAMILY.fingerprint() != iv.priors.Family(field, length=iv.LogUniform(low=0.3, high=21.0)).fingerprint()
    assert FAMILY.to(dtype=torch.float32).at(length=2.0).dtype == torch.float32
    x, values = FAMILY.sample(400, seed=2), FAMILY.parameters(400, seed=2)["length"]
    assert torch.equal(x[:3], FAMILY.sample(3, seed=2))
    ratio = (x[:, 1:] - torch.exp(-1 / values)[:, None] * x[:, :-1]) / (1 - torch.exp(-2 / values)).sqrt()[:, None]
    assert float(ratio.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / ratio.numel()))  # each with its own length
    with pytest.raises(UnsupportedError, match="no denoiser.*at"):
        FAMILY.denoise(torch.zeros(1, 6, dtype=F64), 1.0)


def test_a_family_of_operators():
    masks = torch.tensor([[True, False], [True, True]])

    def make(gain):
        return iv.operators.Matrix(matrix=gain * torch.eye(2)) @ iv.operators.Mask(mask=masks, in_shape=(2,))

    family = iv.operators.Family(make, gain=iv.Uniform(low=1.0, high=3.0))
    assert (
        family.batch == 2 and family.in_shape == (2,) and family.dtype == torch.float32 and family.device.type == "cpu"
    )
    taken = family.take(torch.tensor([1, 1, 0]))
    assert taken.batch == 3
    assert torch.equal(taken.at(gain=2.0)(torch.ones(3, 2)), torch.tensor([[2.0, 2], [2, 2], [2, 0]]))
    assert family.to(dtype=F64).at(gain=1.0).dtype == F64
    assert "gain=Uniform" in repr(family)
    single = iv.operators.Family(
        lambda gain: iv.operators.Matrix(matrix=gain * torch.eye(2)), gain=iv.Uniform(low=1, high=3)
    )
    assert single.take(torch.tensor([0, 0])) is single and single.observed is None
    with pytest.raises(UnsupportedError, match="cannot be applied.*at"):
        family(torch.ones(2, 2))


LAW = iv.Uniform(low=0.5, high=2.0)


@pytest.mark.parametrize("kind", ["prior", "operator"])
def test_families_refuse(kind):
    family, good = {
        "prior": (
            iv.priors.Family,
            lambda a: iv.priors.GaussianPrior(mean=torch.zeros(2), covariance=a * torch.eye(2)),
        ),
        "operator": (iv.operators.Family, lambda a: iv.operators.Matrix(matrix=a * torch.eye(2))),
    }[kind]
    sizes = {
        "prior": lambda a: iv.priors.GaussianPrior(mean=torch.zeros(int(a) + 1), covariance=torch.eye(int(a) + 1)),
        "operator": lambda a: iv.operators.Matrix(matrix=torch.eye(int(a) + 1)),
    }[kind]
    for make, laws, error, message in (
        (3, {"a": LAW}, InputTypeError, "make.*function"),
        (good, {}, InputError, "given by name"),
        (good, {"a": 1.0}, InputTypeError, "a.*distribution"),
        (lambda a: a, {"a": LAW}, InputTypeError, f"iv.{kind}s"),
    ):
        with pytest.raises(error, match=message):
            family(make, **laws)
    with pytest.raises(InputError, match=r"at\(...\).*called with a, got b"):
        family(good, a=LAW).at(b=1.0)
    with pytest.raises(InputError, match="of the shape"):
        family(sizes, a=LAW).at(a=0.6)
    with pytest.raises(InputTypeError, match=f"iv.{kind}s"):
        family(lambda a: good(a) if a > 1 else None, a=LAW).at(a=0.6)


def test_an_operator_family_observes_the_same_data():
    def make(gain):
        return iv.operators.Mask(mask=torch.tensor([True, gain > 1]))

    with pytest.raises(InputError, match="observing the same"):
        iv.operators.Family(make, gain=LAW).at(gain=0.6)


def test_unknowns_are_described_row_by_row():
    A, y = data(items=2)
    gains = iv.operators.Family(lambda gain: iv.operators.Matrix(matrix=gain * A.matrix), gain=LAW)
    unknowns = Unknowns.from_problem(iv.Problem(gains, y, noise=NOISE), FAMILY)
    assert unknowns.names == ("noise.std", "prior.length", "operator.gain")
    assert Unknowns.from_problem(iv.Problem(A, y, noise=0.1), field(1.0)) is None
    theta = unknowns.transport(random(3, 3))
    assert torch.allclose(unknowns.medians, torch.tensor([0.2, math.sqrt(6.0), 1.25], dtype=F64))
    theta[:, 2] = 1.5
    rows = unknowns.problem_at(theta, torch.tensor([0, 1, 1]))
    x = random(3, 6, seed=9)
    for r, item in enumerate((0, 1, 1)):
        one = iv.Problem(iv.operators.Matrix(matrix=1.5 * A.matrix), y[item], noise=float(theta[r, 0]))
        assert float(rows.log_likelihood(x)[r]) == pytest.approx(float(one.log_likelihood(x[r : r + 1])), rel=1e-12)
    theta[0, 2] = 1.0
    with pytest.raises(UnsupportedError, match="share the scalars of the operator"):
        unknowns.problem_at(theta, torch.tensor([0, 1, 1]))


class Unmatched(iv.operators.LinearOperator):
    """An adjoint that is not one."""

    in_shape = out_shape = (4,)

    def _apply(self, x):
        return x.cumsum(1)

    def _adjoint(self, y):
        return y


def test_a_wrong_adjoint_is_refused_beside_unknown_scalars():
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=2.0))
    prior = iv.priors.GaussianPrior(torch.zeros(4), torch.eye(4))
    with pytest.raises(iv.errors.OperatorError, match="must have the adjoint it states"):
        iv.solve(Unmatched(), torch.ones(4), prior, noise=noise, strategy=iv.strategies.MMPS(num_steps=5))


def test_levels_that_a_prior_was_not_made_for_are_named_beside_unknown_scalars():
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.5, factor=1.5))
    prior = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(3,), scale=1.0, sigma_range=(0.01, 10.0))
    strategy = iv.strategies.MMPS(grid=iv.samplers.log_grid(50.0, 1e-3, 10))
    A = iv.operators.Mask(torch.ones(3, dtype=torch.bool))
    how = iv.Hierarchy(method="gibbs", num_sweeps=1)
    result = iv.solve(A, torch.ones(3), prior, noise=noise, strategy=strategy, num_samples=2, hierarchy=how)
    assert any("the grid goes from 50 to 0.001" in text for text in result.warnings)
    assert result.settings["reproducible"] is False


def test_data_in_other_units_than_a_learned_priors_are_refused_beside_unknown_scalars():
    prior = iv.priors.load("head-mr-128")
    A = iv.operators.MRI(torch.ones(128, 128, dtype=torch.bool), prior.shape)
    y = 1e-5 * A(torch.ones(1, *prior.shape, dtype=torch.complex64))
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=1e-8, factor=2.0))
    with pytest.raises(iv.errors.InputError, match="times as large"):
        iv.solve(A, y, prior, noise=noise, strategy=iv.strategies.MMPS(num_steps=2), num_samples=1)


def test_a_member_that_a_strategy_cannot_take_is_refused_where_it_is_met():
    """At the median the operator is linear, elsewhere it has no derivative."""

    def member(gain):
        if gain == 1.0:
            return iv.operators.from_callable(lambda x: x, (3,), (3,), kind="linear")
        return iv.operators.from_callable(lambda x: gain * x, (3,), (3,), kind="black box")

    A = iv.operators.Family(member, gain=iv.LogNormal(median=1.0, factor=2.0))
    prior = iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3))
    with pytest.raises(UnsupportedError, match="strategy MMPS needs what is not there"):
        iv.solve(A, torch.ones(3), prior, noise=0.5, strategy=iv.strategies.MMPS(num_steps=5), num_samples=2)
