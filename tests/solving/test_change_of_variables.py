"""`solve` with priors of x = f(u): against quadrature and against the same problem written out for u by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import invsolve as iv
from invsolve.errors import InputError, OperatorError
from invsolve.operators.base import BlackBox

F64 = torch.float64
pri, ops, ivs = iv.priors, iv.operators, iv.strategies
COV = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=F64)
MIX = torch.tensor([[1.0, 0.6], [0.3, 1.0]], dtype=F64)
Y = torch.tensor([3.0, 1.2], dtype=F64)


def base():
    return pri.GaussianPrior(torch.tensor([0.3, 0.1], dtype=F64), COV)


def moments(f):
    """Evidence, mean and std of x = f(u) for the two correlated entries, on a lattice of u."""
    axis = np.linspace(-4.5, 4.5, 401)
    u = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    prior = stats.multivariate_normal([0.3, 0.1], COV.numpy()).logpdf(u)
    x = f(u)
    fit = stats.norm(0, 0.5).logpdf(Y.numpy() - x @ MIX.numpy().T).sum(1)
    w = np.exp(prior + fit)
    total = w.sum() * (axis[1] - axis[0]) ** 2
    mean = (w[:, None] * x).sum(0) / w.sum()
    return math.log(total), mean, np.sqrt((w[:, None] * (x - mean) ** 2).sum(0) / w.sum())


@pytest.mark.parametrize(
    ("transform", "f"),
    [
        (pri.exp, np.exp),
        (lambda p: pri.softplus(p, width=0.5), lambda u: 0.5 * np.logaddexp(0, u / 0.5)),
        (lambda p: pri.bounded(p, low=0.0, high=4.0), lambda u: 4 / (1 + np.exp(-u))),
    ],
    ids=["exp", "softplus", "bounded"],
)
def test_posteriors_and_evidence_are_those_of_quadrature(transform, f):
    result = iv.solve(ops.Matrix(MIX), Y, transform(base()), noise=0.5, num_samples=4000)
    log_evidence, mean, std = moments(f)
    assert bool(result.certificate.passed)
    # The certificate says 0.1 of a std and 5 %; the samples themselves add 1 / sqrt(4000).
    assert float(((result.mean - torch.tensor(mean)) / torch.tensor(std)).abs().max()) < 0.1
    assert float((result.std / torch.tensor(std) - 1).abs().max()) < 0.05
    assert abs(float(result.log_evidence) - log_evidence) < 4 * float(result.log_evidence_se) + 0.01


def test_independent_entries_are_exact():
    """Counts through a mask: quadrature in one dimension, and the evidence in closed form."""
    law = pri.GaussianPrior(torch.tensor([1.0, 0.0], dtype=F64), torch.diag(torch.tensor([0.6, 0.3], dtype=F64)))
    A, y = ops.Mask(mask=torch.tensor([True, True])), torch.tensor([7.0, 0.0], dtype=F64)
    noise = iv.noise.Poisson(counts_per_unit=1.0, background=0.5)
    result = iv.solve(A, y, pri.exp(law), noise=noise, num_samples=4000)
    assert result.strategy == "Exact"
    logs, means, stds = [], [], []
    for m, v, count in ((1.0, 0.6, 7), (0.0, 0.3, 0)):

        def weight(u, power, m=m, v=v, count=count):
            return math.exp(power * u) * stats.norm(m, v**0.5).pdf(u) * stats.poisson(math.exp(u) + 0.5).pmf(count)

        total, first, second = (integrate.quad(weight, -6, 6, args=(k,))[0] for k in (0, 1, 2))
        logs.append(math.log(total))
        means.append(first / total)
        stds.append(math.sqrt(second / total - (first / total) ** 2))
    assert float(result.log_evidence) == pytest.approx(sum(logs), abs=1e-7)
    off = (result.samples.mean(0) - torch.tensor(means)) / torch.tensor(stds)
    assert float(off.abs().max()) < 5 / 4000**0.5


def by_hand():
    """The operator of u, without anything of ours behind it."""

    def forward(u):
        return u.exp() @ MIX.mT.to(u)

    return ops.from_callable(forward, (2,), (2,))


def test_it_is_the_problem_of_u_to_the_last_bits():
    chains = ivs.NoiseMCMC(chains=64, islands=4, rounds=4)
    of_x = iv.solve(ops.Matrix(MIX), Y, pri.exp(base()), noise=0.5, strategy=chains, num_samples=16)
    of_u = iv.solve(by_hand(), Y, base(), noise=0.5, strategy=chains, num_samples=16)
    assert torch.allclose(of_x.samples, of_u.samples.exp(), rtol=1e-9)
    assert torch.allclose(of_x.chi2, of_u.chi2, rtol=1e-9)
    assert float(of_x.log_evidence) == pytest.approx(float(of_u.log_evidence), abs=1e-9)


@pytest.mark.parametrize("strategy", [ivs.MMPS(num_steps=10), ivs.SMC(num_steps=10), ivs.DPS(), ivs.TMPD()], ids=repr)
def test_every_strategy_gives_positive_samples(strategy):
    result = iv.solve(ops.Matrix(MIX), Y, pri.exp(base()), noise=0.5, strategy=strategy, num_samples=8)
    assert bool((result.samples > 0).all())


def test_the_result_is_about_x(tmp_path):
    prior, A = pri.exp(base()), ops.Matrix(MIX)
    problem = iv.Problem(A, Y[None].repeat(2, 1), noise=0.5, dims=("place",), units="Bq")
    chains = ivs.NoiseMCMC(chains=64, islands=4, rounds=4)
    result = iv.solve(problem, prior, strategy=chains, num_samples=19)
    assert result.problem is problem and result.prior is prior and result.strategy_object == chains
    assert (result.dims, result.units) == (("place",), "Bq")
    assert "exp(GaussianPrior" in result.settings["prior"] and result.settings["operator"] == repr(A)
    assert torch.allclose(problem.take(torch.tensor([0])).chi2(result.samples[0, :1]), result.chi2[0, :1])
    low, high, _ = result.interval(0.9)
    assert bool((low > 0).all()) and bool((result.mean > low).all()) and bool((result.mean < high).all())
    result.save(tmp_path / "r.nc")
    loaded = iv.load_result(tmp_path / "r.nc")
    assert torch.equal(loaded.samples, result.samples) and loaded.units == "Bq"


def test_it_is_checked():
    law = pri.exp(pri.GaussianPrior(torch.ones(3, dtype=F64), 0.3 * torch.eye(3, dtype=F64)))
    A = ops.Mask(mask=torch.tensor([True, True, True]))
    y = law.sample(1, seed=5)[0] + 0.2 * torch.tensor([0.3, -1.0, 0.5], dtype=F64)
    assert iv.solve(A, y, law, noise=0.2, num_samples=200).check(budget=600).passed
    assert not iv.solve(A, y + 20, law, noise=0.2, num_samples=200).check().passed


def test_it_is_calibrated():
    law = pri.exp(pri.GaussianPrior(torch.zeros(3, dtype=F64), 0.3 * torch.eye(3, dtype=F64)))
    A = ops.Mask(mask=torch.tensor([True, False, True]))
    assert iv.calibrate(A, law, noise=0.3, runs=60, num_samples=63).passed


def test_the_prior_is_sampled_by_its_denoiser():
    result = iv.sample(pri.exp(base()), num_samples=400)
    logs = result.samples.log()
    assert float(((logs.mean(0) - base().mean) / COV.diagonal().sqrt()).abs().max()) < 5 / 20


def test_runs_are_resumed(tmp_path):
    chains = ivs.NoiseMCMC(chains=64, islands=4, rounds=4)
    path = tmp_path / "run.ckpt"
    first, again = (
        iv.solve(ops.Matrix(MIX), Y, pri.exp(base()), noise=0.5, strategy=chains, num_samples=8, checkpoint=path)
        for _ in range(2)
    )
    assert torch.equal(first.samples, again.samples)
    with pytest.raises(iv.errors.CheckpointError):
        iv.solve(ops.Matrix(MIX), Y, pri.softplus(base()), noise=0.5, strategy=chains, num_samples=8, checkpoint=path)


# --- with unknown scalars -----------------------------------------------------------------------------------------------
def shifted(level):
    return pri.GaussianPrior(torch.full((2,), level, dtype=F64), COV)


@pytest.mark.slow
def test_a_scalar_of_the_prior_behind_f():
    """A common shift of u has the same law as more covariance; f of a family is the family of f."""
    chains, level = ivs.NoiseMCMC(chains=64, islands=4, rounds=4), iv.Normal(0.2, 0.3)
    one, other = (
        pri.exp(pri.Family(shifted, level=level)),
        pri.Family(lambda level: pri.exp(shifted(level)), level=level),
    )
    coarse = iv.Hierarchy(spacing=1.0, scan=2.0)
    result, same = (
        iv.solve(ops.Matrix(MIX), Y, p, noise=0.5, strategy=chains, num_samples=64, hierarchy=coarse)
        for p in (one, other)
    )
    whole = pri.GaussianPrior(torch.full((2,), 0.2, dtype=F64), COV + 0.09)
    want = iv.solve(ops.Matrix(MIX), Y, pri.exp(whole), noise=0.5, num_samples=2000)
    assert torch.equal(result.samples, same.samples) and bool((result.samples > 0).all())
    assert torch.equal(result["prior.level"].samples, same["prior.level"].samples)
    # 64 samples: 5 / sqrt(64) of a standard deviation.
    assert float(((result.mean - want.mean) / want.std).abs().max()) < 5 / 8


def test_a_function_that_depends_on_the_scalar_is_refused():
    family = pri.Family(lambda high: pri.bounded(base(), low=0.0, high=high), high=iv.Uniform(3.0, 5.0))
    with pytest.raises(InputError, match="under the same function for every value.*a gain of exp"):
        iv.solve(ops.Matrix(MIX), Y, family, noise=0.5, strategy=ivs.SMC(num_steps=5))


def test_a_scalar_of_the_operator_before_f():
    family = ops.Family(lambda gain: ops.Matrix(gain * MIX), gain=iv.LogNormal(1.0, 1.2))
    chains = ivs.NoiseMCMC(chains=64, islands=4, rounds=4)
    hierarchy = iv.Hierarchy(spacing=1.0, scan=4.0)
    result = iv.solve(
        family, Y, pri.exp(base()), noise=0.5, strategy=chains, num_samples=8, hierarchy=hierarchy, throw=False
    )
    assert bool((result.samples > 0).all()) and bool((result["operator.gain"].samples > 0).all())


# --- what is looked at before ---------------------------------------------------------------------------------------------
class Flipped(ops.LinearOperator):
    """An adjoint that is wrong."""

    in_shape = out_shape = (2,)

    def _apply(self, x):
        return x @ MIX.mT

    def _adjoint(self, v):
        return v.flip(1)


def test_a_wrong_adjoint_is_refused_behind_f_too():
    with pytest.raises(OperatorError, match="Flipped"):
        iv.solve(Flipped(), Y, pri.exp(base()), noise=0.5)


def test_fillers_are_named_behind_f_too():
    A = ops.Matrix(torch.tensor([[1.0, 0.5], [0.0, 0.0]], dtype=F64))
    chains = ivs.NoiseMCMC(chains=64, islands=4, rounds=4)
    y = torch.tensor([2.0, 0.0], dtype=F64)
    result = iv.solve(A, y, pri.sigmoid(base()), noise=0.5, strategy=chains, num_samples=4)
    assert any("look never measured" in w for w in result.warnings)


def test_signals_at_the_end_of_their_support_are_no_fillers():
    """Where f is flat the clean data do not change with u, though the signal has a part in them."""
    flat = pri.sigmoid(pri.GaussianPrior(torch.full((2,), 100.0, dtype=F64), COV))
    chains = ivs.NoiseMCMC(chains=64, islands=4, rounds=4)
    y = torch.zeros(2, dtype=F64)
    result = iv.solve(ops.Matrix(MIX), y, flat, noise=0.5, strategy=chains, num_samples=4)
    assert not any("look never measured" in w for w in result.warnings)


def test_a_black_box_before_f_is_one():
    A = ops.from_callable(lambda x: x @ MIX.mT, (2,), (2,), kind="black box")
    assert isinstance(A @ ops.Mask(mask=torch.tensor([True, True])), BlackBox)
    assert isinstance(ops.Mask(mask=torch.tensor([True, True])) @ A, BlackBox)
    chains = ivs.NoiseMCMC(chains=64, islands=4, rounds=4)
    assert bool((iv.solve(A, Y, pri.exp(base()), noise=0.5, strategy=chains).samples > 0).all())


def test_advise_speaks_of_what_is_solved():
    advice = ivs.advise(ops.Matrix(MIX), pri.exp(base()), 0.5)
    assert advice.because == "Matrix @ Exponential is not linear"
    assert {"NoiseMCMC()", "auto"} & {s.name.strip("\"'") for s in advice}
    assert "Matrix @ Exponential is not a LinearOperator" in str(advice.refused)


@pytest.mark.parametrize("batch", [False, True])
def test_a_padded_field_keeps_its_closed_form(batch):
    """Mean, std and quantiles of the middle of the larger box, not those of samples."""
    field = iv.priors.GaussianFieldPrior((12, 10), iv.priors.Matern(std=1.0, length=0.3))
    padded = field.padded(margin=0.4)
    A = iv.operators.Mask(mask=torch.rand(12, 10, generator=torch.Generator().manual_seed(0)) < 0.4)
    y = A(padded.sample(1, seed=1))
    result = iv.solve(A, y if batch else y[0], padded, noise=0.1)
    crop = padded.function
    exact = padded.base.posterior(A @ crop, y, 0.1)
    assert result.exact_statistics == ("mean", "std", "quantile", "interval")
    torch.testing.assert_close(result.mean.view(12, 10), crop(exact.mean)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.std.view(12, 10), crop(exact.std)[0], rtol=1e-4, atol=1e-5)
