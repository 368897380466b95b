"""`advise`: what can take a problem, in the order of what was measured on its kind."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.strategies.choice.advise import measured
from invsolve.strategies.choice.catalogue import catalogue

GAUSSIAN = iv.priors.GaussianPrior(mean=torch.zeros(6), covariance=torch.eye(6))
SMOOTH = iv.priors.GaussianPrior(mean=torch.zeros(6), covariance=torch.logspace(0, -3, 6).diag())
MASK = iv.operators.Mask(mask=torch.tensor([True, False, True, True, False, True]))
KINDS = {"mask", "smooth", "blur", "modes", "sparse", "curved", "counts"}


def test_the_table_has_a_row_for_every_candidate_and_kind():
    names = {name for name, _ in catalogue()}
    assert {name for name, _ in measured()} == names
    assert {kind for _, kind in measured()} == KINDS
    assert len(measured()) == len(names) * len(KINDS)
    assert {row["verdict"] for row in measured().values()} <= {"right", "close", "off", "refused"}


def test_the_most_trustworthy_come_first_and_what_cannot_is_said():
    advice = iv.strategies.advise(MASK, GAUSSIAN, noise=0.1)
    assert advice.kind == "mask"
    order = ["right", "close", "off", "untested"]
    places = [order.index(s.verdict) for s in advice]
    assert places == sorted(places)
    assert advice.strategies[0].name == "auto" and advice.best == "auto"
    assert "DDRM" in str(advice) and "not to be trusted" in str(advice) and "iv.calibrate" in str(advice)
    assert not advice.refused
    assert "Measured on: Gaussian prior, 16 correlated values" in str(advice)


@pytest.mark.parametrize(
    ("kind", "A", "prior", "noise"),
    [
        ("smooth", MASK, SMOOTH, 0.1),
        ("smooth", iv.operators.Blur(kernel=torch.ones(3) / 3, in_shape=(6,), boundary="periodic"), SMOOTH, 0.1),
        ("blur", iv.operators.Blur(kernel=torch.ones(3) / 3, in_shape=(6,), boundary="periodic"), GAUSSIAN, 0.1),
        (
            "modes",
            MASK,
            iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(6,), mean=torch.zeros(6), scale=1.0),
            0.1,
        ),
        ("sparse", MASK, iv.priors.SparsePrior(shape=(6,), coefficients=iv.priors.Laplace(scale=1.0)), 0.1),
        ("curved", iv.operators.from_callable(lambda x: x**3, (6,), (6,), kind="nonlinear"), GAUSSIAN, 0.1),
        ("counts", MASK, GAUSSIAN, iv.noise.Poisson(counts_per_unit=3.0)),
    ],
)
def test_every_kind_is_recognised_and_its_best_strategy_solves(kind, A, prior, noise):
    advice = iv.strategies.advise(A, prior, noise)
    assert advice.kind == kind
    assert advice.strategies[0].verdict in ("right", "close")
    assert all(s.verdict != "refused" for s in advice)
    if kind == "curved":
        assert "linear" in advice.refused["DDRM()"]
    if kind == "counts":
        assert "Gaussian noise" in advice.refused["DDRM()"]


def test_noise_of_any_law_and_black_boxes_are_advised():
    for noise in (
        iv.noise.Saturated(std=0.1, low=2.0, high=3.0),
        iv.noise.Rician(std=0.1),
        iv.noise.Quantised(std=0.1, step=0.7),
        iv.noise.Multiplicative(std=0.2),
    ):
        assert iv.strategies.advise(MASK, GAUSSIAN, noise).kind == "counts"
    box = iv.operators.from_callable(lambda x: x**2, (6,), (6,), kind="black box")
    advice = iv.strategies.advise(box, GAUSSIAN, 0.1)
    assert advice.kind == "black box" and {s.verdict for s in advice} == {"untested"}
    assert {s.name for s in advice} >= {"auto", "NoiseMCMC()"} and "black box" in advice.refused["DPS()"]


def test_problems_are_taken_and_wrong_calls_refused():
    problem = iv.Problem(MASK, torch.zeros(6), noise=0.1)
    assert str(iv.strategies.advise(problem, GAUSSIAN)) == str(iv.strategies.advise(MASK, GAUSSIAN, 0.1))
    with pytest.raises(TypeError, match="advise.*prior"):
        iv.strategies.advise(MASK, "a prior", 0.1)
    with pytest.raises(TypeError, match="advise.*prior"):
        iv.strategies.advise(problem, None)
    with pytest.raises(ValueError, match="advise.*shape"):
        iv.strategies.advise(MASK, iv.priors.GaussianPrior(mean=torch.zeros(2), covariance=torch.eye(2)), 0.1)
    with pytest.raises(ValueError, match="advise.*noise.*left out"):
        iv.strategies.advise(problem, GAUSSIAN, noise=0.1)
    with pytest.raises(TypeError, match="advise.*noise"):
        iv.strategies.advise(MASK, GAUSSIAN)
    with pytest.raises(TypeError, match="Operator"):
        iv.strategies.advise("A", GAUSSIAN, 0.1)
