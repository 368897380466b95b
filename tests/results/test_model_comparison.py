"""Log-evidence against dense formulas, and probabilities of models from it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, UnsupportedError

F64 = torch.float64
ITEMS = 3


def random(*shape, seed=0, dtype=F64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def smooth(n, length):
    i = torch.arange(n, dtype=F64)
    return torch.exp(-(i[:, None] - i).abs() / length)


def dense(y, A, mean, covariance, std):
    """log N(y; A m, A C A^T + std^2) in float64."""
    S = (A @ covariance @ A.mT).double().numpy() + std**2 * np.eye(len(A))
    return np.atleast_1d(multivariate_normal((A @ mean).double().numpy(), S).logpdf(y.double().numpy()))


# --- the evidence of Exact ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("n", "m"), [(256, 128), (16, 40), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_gaussian_evidence_is_the_dense_formula_within_its_bound(n, m, dtype):
    C, A, mean = smooth(n, 10.0).to(dtype), random(m, n, seed=1).to(dtype) / math.sqrt(n), random(n, seed=2).to(dtype)
    prior = iv.priors.GaussianPrior(mean=mean, covariance=C)
    y = random(ITEMS, m, seed=3).to(dtype)
    result = iv.solve(iv.operators.Matrix(matrix=A), y, prior, noise=0.3, num_samples=2)
    want = dense(y, A.double(), mean.double(), C.double(), 0.3)
    error, stated = np.abs(result.log_evidence.numpy() - want), result.log_evidence_se.numpy()
    assert result.log_evidence.shape == (ITEMS,) and result.log_evidence.dtype == F64
    assert (error <= 2 * stated).all()
    # A bound of size eps times the magnitudes involved: far below a nat, and not zero.
    assert (stated > 0).all() and stated.max() < (1e-8 if dtype == F64 else 0.1)


def test_mixture_evidence_is_the_dense_formula_within_its_bound():
    means, A, weights = random(3, 4, seed=1), random(6, 4, seed=2), torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    covariances = torch.stack([smooth(4, k + 1.0) for k in range(3)])
    prior = iv.priors.GaussianMixturePrior(weights=weights, means=means, covariances=covariances)
    y = random(ITEMS, 6, seed=3)
    result = iv.solve(iv.operators.Matrix(matrix=A), y, prior, noise=0.05, num_samples=2)
    parts = [dense(y, A, m, c, 0.05) + math.log(w) for m, c, w in zip(means, covariances, weights, strict=True)]
    want = logsumexp(np.stack(parts), axis=0)
    # The reference factorises S of condition up to 1e4: its own error is some 1e-12 of the exponent.
    assert (
        np.abs(result.log_evidence.numpy() - want) <= 2 * result.log_evidence_se.numpy() + 1e-12 * np.abs(want)
    ).all()
    assert (result.log_evidence_se > 0).all() and float(result.log_evidence_se.max()) < 1e-9


def test_only_observed_and_complex_data_count():
    mask = torch.tensor([True, False, True, True])
    prior = iv.priors.GaussianPrior(mean=torch.zeros(4, dtype=torch.complex128), covariance=smooth(4, 2.0))
    y = torch.complex(random(1, 4, seed=1), random(1, 4, seed=2))
    result = iv.solve(iv.operators.Mask(mask=mask, kind="complex"), y, prior, noise=0.5, num_samples=1)
    A = torch.eye(4, dtype=F64)[mask]
    want = sum(dense(part[0, mask], A, torch.zeros(4, dtype=F64), smooth(4, 2.0), 0.5) for part in (y.real, y.imag))
    assert float(result.log_evidence) == pytest.approx(float(want[0]), abs=1e-10)


def test_evidence_has_the_items_of_the_data_whatever_the_chunks():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(4, dtype=F64), covariance=smooth(4, 2.0))
    A, y = iv.operators.Matrix(matrix=random(3, 4)), random(ITEMS, 3, seed=1)
    whole = iv.solve(A, y, prior, noise=0.5, num_samples=5)
    parts = iv.solve(A, y, prior, noise=0.5, num_samples=5, chunk=2)
    one = iv.solve(A, y[1], prior, noise=0.5, num_samples=5)
    assert torch.equal(whole.log_evidence, parts.log_evidence)
    assert one.log_evidence.shape == ()
    assert torch.allclose(one.log_evidence, whole.log_evidence[1], rtol=1e-13)


def test_what_cannot_be_factorised_has_no_evidence(monkeypatch):
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3, dtype=F64), covariance=smooth(3, 2.0))
    y = random(2, 3)
    each = iv.solve(
        iv.operators.Mask(mask=torch.tensor([[True, True, False], [True, True, True]]), in_shape=(3,)),
        y,
        prior,
        noise=0.5,
        num_samples=2,
    )
    assert each.log_evidence is None and each.log_evidence_se is None
    monkeypatch.setattr("invsolve.gaussian.posterior._CHEAP", 10)
    assert iv.solve(iv.operators.Mask(mask=torch.ones(3, dtype=torch.bool)), y, prior, noise=0.5).log_evidence is None


def test_the_evidence_is_shown_and_saved(tmp_path):
    result, *_ = pair()
    assert "log evidence: -" in result.summary() and "standard error at most" in result.summary()
    assert "nats per item" in result.summary()
    result.save(tmp_path / "r.nc")
    loaded = iv.load_result(tmp_path / "r.nc")
    assert torch.equal(loaded.log_evidence, result.log_evidence)
    assert torch.equal(loaded.log_evidence_se, result.log_evidence_se)
    other = pair()[1]
    assert torch.equal(iv.compare([loaded, other]).probability, iv.compare([result, other]).probability)


# --- comparing ------------------------------------------------------------------------------------------------------
def pair(batched=True, seed=4):
    """The same data under a narrow and a wide prior, and SMC under the wide one."""
    A, y = iv.operators.Matrix(matrix=random(3, 4)), random(ITEMS, 3, seed=seed)
    y = y if batched else y[0]
    narrow, wide = (
        iv.priors.GaussianPrior(mean=torch.zeros(4, dtype=F64), covariance=s * smooth(4, 2.0)) for s in (1.0, 4.0)
    )
    smc = iv.strategies.SMC(num_steps=10)
    return (
        iv.solve(A, y, narrow, noise=0.5, num_samples=2),
        iv.solve(A, y, wide, noise=0.5, num_samples=2),
        iv.solve(A, y, wide, noise=0.5, num_samples=64, strategy=smc),
    )


def test_probabilities_are_bayes_rule():
    narrow, wide, _ = pair()
    C = smooth(4, 2.0)
    odds = np.stack(
        [
            dense(narrow.problem.data, narrow.problem.operator.matrix, torch.zeros(4, dtype=F64), s * C, 0.5)
            for s in (1.0, 4.0)
        ]
    )
    for weights, factor in (
        (None, [1.0, 1.0]),
        ([1.0, 3.0], [1.0, 3.0]),
        (np.array([1, 3]), [1.0, 3.0]),
        ({"wide": 3.0, "narrow": 1.0}, [1.0, 3.0]),
    ):
        found = iv.compare({"narrow": narrow, "wide": wide}, weights=weights)
        want = np.exp(odds) * np.array(factor)[:, None]
        assert np.allclose(found.probability.numpy(), want / want.sum(0), rtol=1e-10)
        assert found.names == ("narrow", "wide")
        assert torch.allclose(found.probability.sum(0), torch.ones(ITEMS, dtype=F64))
    log, se = found.log_bayes_factor("narrow", "wide")
    assert np.allclose(log.numpy(), odds[0] - odds[1], rtol=1e-9)
    assert torch.allclose(se, found.log_evidence_se.square().sum(0).sqrt())
    assert torch.equal(found.log_bayes_factor("wide", "wide")[1], torch.zeros(ITEMS, dtype=F64))
    assert found.best == tuple("narrow" if a else "wide" for a in found.probability[0] > 0.5)


def test_errors_follow_from_those_of_the_evidence():
    stated = torch.tensor([0.01, 0.03, 0.02], dtype=F64)
    results = [
        replace(r, info={**r.info, "log_evidence_se": torch.full_like(r.info["log_evidence"], float(s))})
        for r, s in zip(pair(), stated, strict=True)
    ]
    found = iv.compare(results)
    scattered = found.log_evidence + stated[:, None] * random(100_000, *found.probability.shape, seed=9)
    # 1e5 draws give a std to 0.2 %; second order is some 3 % of 3 %.
    assert torch.allclose(found.probability_se, torch.softmax(scattered, 1).std(0), rtol=0.01)


def test_the_table():
    found = iv.compare(dict(zip(("narrow", "wide", "wide by SMC"), pair(batched=False), strict=True)))
    lines = str(found).splitlines()
    assert lines[0].split() == ["model", "probability", "log", "evidence", "behind", "the", "best"]
    assert lines[1].startswith(str(found.best)) and lines[1].rstrip().endswith("-")
    assert len(lines) == 4 and all("+-" in line for line in lines[1:])
    assert repr(found) == "Comparison(narrow, wide, wide by SMC)"
    batch = iv.compare(pair())
    assert batch.names == ("model 0", "model 1", "model 2") and "item 2" in str(batch)
    assert "3 items" in repr(batch)


def test_other_data_are_refused_by_name():
    one, two = pair()[0], pair(seed=5)[1]
    with pytest.raises(InputError, match="same data.*'second' than in 'first'"):
        iv.compare({"first": one, "second": two})
    with pytest.raises(InputError, match="same data.*items"):
        iv.compare([one, pair(batched=False)[0]])


def test_unobserved_data_may_hold_anything_and_observed_sets_must_agree():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3, dtype=F64), covariance=smooth(3, 2.0))
    y = random(1, 3)
    other = y.clone()
    other[0, 2] = 7.0

    def solved(data, *mask):
        return iv.solve(iv.operators.Mask(mask=torch.tensor(mask)), data, prior, noise=0.5, num_samples=1)

    a, b = solved(y, True, True, False), solved(other, True, True, False)
    assert torch.allclose(iv.compare([a, b]).probability, torch.full((2, 1), 0.5, dtype=F64))
    with pytest.raises(InputError, match="same data"):
        iv.compare([a, solved(y, True, True, True)])


def test_refusals():
    one, two, _ = pair()
    prior = one.prior
    plain = iv.solve(one.problem, prior, strategy=iv.strategies.MMPS(num_steps=4), num_samples=1)
    with pytest.raises(UnsupportedError, match="'second'.*MMPS has no evidence.*SMC"):
        iv.compare({"first": one, "second": plain})
    for results, kind, message in (
        (one, InputTypeError, "results.*mapping"),
        ("ab", InputTypeError, "results.*mapping"),
        ([one], InputError, "two models or more"),
        ({1: one, 2: two}, InputTypeError, "mapping of strings"),
        ([one, 3.0], InputTypeError, r"results\['model 1'\].*iv.Result"),
    ):
        with pytest.raises(kind, match=message):
            iv.compare(results)
    for weights, kind, message in (
        ([1.0], InputError, "weights.*length 2"),
        ({"a": 1.0, "b": 2.0}, InputError, "weights.*model 0, model 1"),
        ([1.0, 0.0], InputError, "weights.*positive"),
        (3.0, InputTypeError, "weights.*mapping"),
    ):
        with pytest.raises(kind, match=message):
            iv.compare([one, two], weights=weights)
    with pytest.raises(InputError, match="name.*'model 0', 'model 1'.*'x'"):
        iv.compare([one, two]).log_bayes_factor("x", "model 1")
