"""Certified, not certified, not tested: in every place where people look, by name."""

from __future__ import annotations

import html
import math
from dataclasses import replace

import pytest
import torch

import invsolve as iv
from invsolve.results.certificate import NOT_TESTED, Attempt, Certificate

D = torch.float64
N = 4
PRIOR = iv.priors.GaussianPrior(torch.zeros(N, dtype=D), torch.eye(N, dtype=D) + 0.5)
FIELD = iv.priors.GaussianFieldPrior((N,), iv.priors.Matern(std=1.0, length=0.3), dtype=D)
SPARSE = iv.priors.SparsePrior((N,), iv.priors.Laplace(0.5), transform="haar", dtype=D)
MIX = iv.priors.GaussianMixturePrior(
    torch.tensor([0.5, 0.5], dtype=D),
    torch.tensor([[-1.0] * N, [1.0] * N], dtype=D),
    0.1 * torch.eye(N, dtype=D).expand(2, N, N),
)
FEW = iv.Budget(evaluations=600)
HALF = iv.operators.Matrix(torch.eye(N, dtype=D)[:2] + 0.1)


def curve(f):
    return iv.operators.from_callable(f, (N,), (N,))


def box(f):
    return iv.operators.BlackBox(f, (N,), (N,)) if hasattr(iv.operators, "BlackBox") else curve(f)


def summed(f):  # entries meet, so that there is no quadrature
    return curve(lambda x: f(x) + 0.1 * x.roll(1, 1))


def network(x, sigma):
    return x / (1 + sigma.view(-1, 1) ** 2)


HIDDEN = iv.priors.from_denoiser(network, shape=(N,), mean=torch.zeros(N, dtype=D), scale=1.0)
HIDDEN_MIX = iv.priors.from_denoiser(MIX._denoise, shape=(N,), mean=MIX.mean, scale=MIX.scale)
Y = torch.tensor([1.0, 0.5, 2.0, 0.1], dtype=D)
# name: operator, data, prior, noise, options, word
NOT = "not certified"
RESULTS = {
    "square": (summed(lambda x: x**2), Y, PRIOR, 0.1, {}, NOT),
    "square of a batch": (summed(lambda x: x**2), Y.expand(3, N), PRIOR, 0.1, {}, NOT),
    "cube": (summed(lambda x: x**3), Y, PRIOR, 0.1, {}, NOT),
    "sine": (summed(torch.sin), Y / 4, PRIOR, 0.1, {}, NOT),
    "exponential": (summed(torch.exp), Y, PRIOR, 0.1, {}, NOT),
    "magnitude": (summed(torch.abs), Y, PRIOR, 0.1, {}, NOT),
    "softplus": (summed(torch.nn.functional.softplus), Y, PRIOR, 0.1, {}, NOT),
    "field": (summed(lambda x: x**2), Y, FIELD, 0.1, {}, NOT),
    "sparse": (HALF, Y[:2], SPARSE, 0.1, {"budget": iv.Budget(evaluations=2000)}, "not tested"),
    "sparse, chains": (summed(lambda x: x**2), Y, SPARSE, 0.1, {}, NOT),
    "precise data": (summed(lambda x: x**2), Y, PRIOR, 1e-4, {}, NOT),
    "Poisson": (summed(lambda x: x**2), Y.round(), PRIOR, iv.noise.Poisson(5.0), {}, NOT),
    "heavy tails": (
        summed(lambda x: x),
        Y,
        PRIOR,
        iv.noise.StudentT(0.1, 3.0) if hasattr(iv.noise, "StudentT") else 0.05,
        {},
        NOT,
    ),
    "a budget of seconds": (summed(lambda x: x**2), Y, PRIOR, 0.1, {"budget": 1e-3}, NOT),
    "one sample": (summed(lambda x: x**2), Y, PRIOR, 0.1, {"num_samples": 1}, NOT),
    "denoiser": (summed(lambda x: x**2), Y, HIDDEN, 0.1, {}, NOT),
    "denoiser, few particles": (HALF, Y[:2], HIDDEN_MIX, 0.1, {"budget": iv.Budget(evaluations=900)}, NOT),
    "denoiser, guidance": (HALF, Y[:2], HIDDEN_MIX, 0.1, {"budget": iv.Budget(evaluations=4000)}, "not tested"),
    "rows alone": (HALF, Y[:2], HIDDEN_MIX, 0.1, {"reproducible": True, "budget": None}, "not tested"),
    "guidance of a batch": (
        HALF,
        Y[:2].expand(2, 2),
        HIDDEN,
        0.1,
        {"reproducible": True, "budget": None},
        "not tested",
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_it_says_so_wherever_one_looks(name, tmp_path):
    operator, y, prior, noise, options, word = RESULTS[name]
    result = iv.solve(
        operator, y, prior, noise=noise, **{"budget": FEW, "num_samples": 19, "seed": 1, "throw": False} | options
    )
    assert not result.certificate.reached
    result.save(tmp_path / "r.nc")
    sentence = result.certified
    assert sentence == result.certificate.sentence and sentence.startswith(f"{word}: ")
    assert result.certificate.missing in sentence and result.certificate.remedy in sentence
    assert result.certificate.missing and result.certificate.remedy  # why, and what it would take
    page = result._repr_html_()
    assert html.unescape(page).count(sentence) == 3 and f"<b>{html.escape(sentence)}</b>" in page
    for one in (result, iv.load_result(tmp_path / "r.nc"), result.map(lambda x: 2 * x)):
        shown = str(one)
        assert shown == f"{one!r}\n  {sentence}" and repr(one).startswith(f"Result({word}, ") and "SUCCESS" not in shown
        assert f"\n  certificate: {sentence}\n" in one.summary()
        assert one.warnings[0] == sentence
    assert str(result.certificate).startswith(word.capitalize())
    assert repr(result.certificate).startswith(f"Certificate({word}, ")


def test_at_least_twenty():
    assert len(RESULTS) >= 20


def test_what_is_certified_says_so_and_no_more():
    for operator in (HALF, iv.operators.from_callable(lambda x: x[:, :2] + 0.1 * x[:, 1:3] ** 2, (N,), (2,))):
        result = iv.solve(operator, Y[:2], PRIOR, noise=1.0)
        assert result.certificate.reached and result.certified_word == "certified"
        assert str(result) == repr(result) and repr(result).startswith("Result(certified, ")
        assert result.certified.startswith("certified") and result.warnings == ()
        assert result.summary().splitlines()[1] == f"  certificate: {result.certified}"
        assert f"<b>{html.escape(result.certified)}</b>" in result._repr_html_()
        assert result.certificate.remedy == "" and str(result.certificate).startswith("Certified")


def test_what_nobody_tested_says_that():
    chosen = iv.solve(HALF, Y[:2], PRIOR, noise=0.1, strategy=iv.strategies.MMPS(num_steps=4), num_samples=2)
    drawn = iv.sample(HIDDEN, num_samples=2)
    for result, words in ((chosen, NOT_TESTED), (drawn, NOT_TESTED)):
        assert result.certificate is None and result.certified == words and result.certified_word == "not tested"
        assert str(result) == f"{result!r}\n  {words}" and repr(result).startswith("Result(not tested, ")
        assert f"\n  certificate: {words}\n" in result.summary() and html.escape(words) in result._repr_html_()
        assert result.warnings == ()
    exact = iv.solve(HALF, Y[:2], PRIOR, noise=0.1, strategy=iv.strategies.Exact(), num_samples=2)
    assert exact.certified == "certified: exact draws from the closed form (Exact())"


def test_failed_rows_are_still_seen():
    result = iv.solve(HALF, Y[:2], PRIOR, noise=0.1, num_samples=2)
    failed = torch.tensor([True, False])
    lost = replace(
        result,
        failed=failed,
        status=iv.Status.SOME_FAILED,
        samples=result.samples.masked_fill(failed[:, None], math.nan),
    )
    assert "SOME_FAILED, failed=1 of 2" in repr(lost) and "status: SOME_FAILED. Some" in lost.summary()


def attempt(**options):
    defaults = {"strategy": "A()", "items": 1, "reached": 0, "seconds": 1.0, "evaluations": 1, "text": ""}
    return Attempt(**defaults | options)


def certificate(*attempts, **options):
    nan = torch.tensor(math.nan)
    defaults = {"reached": False, "passed": torch.tensor(False), "exact": False, "tests": {}, "missing": "why"}
    return Certificate(mean_error=nan, std_error=nan, attempts=attempts, **defaults | options)


def test_tested_if_any_attempt_was():
    guided, chains = attempt(tested=False), attempt()
    assert certificate(guided).word == "not tested" and certificate(guided).sentence == "not tested: why"
    assert certificate(chains, guided, remedy="do").sentence == "not certified: why. do"
    assert certificate(guided, reached=True).word == "certified"


def test_certificates_of_earlier_files():
    value = certificate(attempt(tested=False), remedy="do").to_dict()
    assert Certificate.from_dict(value).sentence == "not tested: why. do"
    del value["remedy"], value["attempts"][0]["tested"]
    assert Certificate.from_dict(value).sentence == "not certified: why"


def test_the_remedy_is_a_budget_only_where_one_would_help():
    def remedy(name):
        operator, y, prior, noise, options, _ = RESULTS[name]
        return iv.solve(
            operator, y, prior, noise=noise, **{"budget": FEW, "num_samples": 4, "seed": 1} | options
        ).certificate.remedy

    assert remedy("square") == "Give a larger budget"
    assert remedy("denoiser, guidance").startswith("A larger budget (about ")
    assert "evaluations) would run ensembles, which are tested; result.check()" in remedy("denoiser, guidance")
    wide = torch.ones(600, dtype=D)  # too many numbers for ensembles under a prior known by its denoiser
    large = iv.priors.from_denoiser(network, shape=(600,), mean=0 * wide, scale=1.0)
    A = iv.operators.Mask(mask=wide > 0)
    none = iv.solve(A, wide, large, noise=0.1, num_samples=2, budget=iv.Budget(evaluations=30)).certificate
    assert none.word == "not tested" and "ensembles" not in none.remedy and none.remedy.startswith("result.check()")
    assert remedy("rows alone") == "result.check() and iv.calibrate(A, prior, noise=...) test it"
