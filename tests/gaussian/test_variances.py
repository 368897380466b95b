"""Variances of entries and quantiles of single entries against dense formulas and scipy."""

from __future__ import annotations

import math
from math import prod

import numpy as np
import pytest
import torch
from scipy import optimize, stats

import invsolve as iv
from invsolve.core.arrays import from_real, to_real
from invsolve.gaussian import systems, variances
from invsolve.gaussian.marginals import MixtureMarginals, Moments, NormalMarginals
from invsolve.gaussian.posterior import GaussianPosterior
from invsolve.gaussian.systems import DenseSystem, IterativeSystem

D = torch.float64
EPS = torch.finfo(D).eps


def random(*shape, seed=0, dtype=D):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def field(shape, basis="neumann", kind="real", coloured=False):
    spectrum = iv.priors.Matern(std=1.0, length=0.3, smoothness=1.5)
    noise = iv.priors.Matern(std=1.0, length=0.1, smoothness=0.5) if coloured else None
    return iv.priors.GaussianFieldPrior(shape, spectrum, basis=basis, kind=kind, noise_spectrum=noise, dtype=D)


def dense_std(prior, A, item, std):
    """By inverting the precision over real numbers: prior covariance from its modes, the operator from unit signals."""
    n = prod(prior.shape) * (2 if prior.kind == "complex" else 1)
    complex_ = torch.complex128 if prior.kind == "complex" else None
    unit = from_real(torch.eye(n, dtype=D), prior.shape, complex_)
    modes = prior.law.modes
    u = from_real(torch.eye(n, dtype=D), tuple(modes.mode_shape), complex_)
    root = to_real(modes.synthesis(prior.law.variances.sqrt() * u)).mT
    rows = A if A.batch is None else A.take(torch.full((n,), item))
    matrix = to_real(rows(unit)).mT
    covariance = torch.linalg.inv(torch.linalg.inv(root @ root.mT) + matrix.mT @ matrix / std**2)
    variance = covariance.diagonal()
    return (variance.view(-1, 2).sum(1) if complex_ else variance).sqrt().view(prior.shape)


KERNEL = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]], dtype=D) / 16
CASES = {  # prior, operator
    "few data": (field((24,)), iv.operators.Matrix(random(5, 24))),
    "many data": (field((12,)), iv.operators.Matrix(random(30, 12))),
    "complex": (field((9,), kind="complex"), iv.operators.Matrix(random(4, 9, dtype=torch.complex128))),
    "coloured noise": (field((9,), coloured=True), iv.operators.Matrix(random(4, 9))),
    "entries": (
        iv.priors.GaussianPrior(torch.zeros(7, dtype=D), torch.diag(1 + torch.arange(7, dtype=D))),
        iv.operators.Matrix(random(3, 7)),
    ),
    "item by item": (
        field((10,)),
        iv.operators.Mask(torch.tensor([[1] * 4 + [0] * 6, [0, 1] * 5]).bool(), in_shape=(10,)),
    ),
    "a blur in its own basis": (field((8, 6), basis="periodic"), iv.operators.Blur(KERNEL, (8, 6))),
    "all of a complex signal": (field((9,), kind="complex"), iv.operators.Mask(torch.ones(9).bool(), kind="complex")),
}


def posterior(name):
    prior, A = CASES[name]
    y = random(2, *A.out_shape, dtype=torch.complex128 if A.out_kind == "complex" else D)
    return prior, A, prior.posterior(iv.Problem(A, y, noise=0.3))


WAYS = [(name, "as it is") for name in CASES] + [("many data", "by squares")]
WAYS += [(name, "by difference") for name in ("few data", "complex", "coloured noise", "entries")]


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_std_is_that_of_the_dense_formula(name, way, monkeypatch):
    prior, A, law = posterior(name)
    if way != "as it is":
        m, n = law.system.matrix.shape
        if way == "by squares":
            monkeypatch.setattr(variances, "_by_difference", lambda *a: None)
        limit = {"by difference": 2 * (m + n) * m**2, "by squares": 2 * n**3}[way]
        assert limit < 2 * (m + n) * n**2
        monkeypatch.setattr(variances, "CHEAP", limit)
    found = law.marginals().std
    for item in range(2):
        right = dense_std(prior, A, item, 0.3)
        # The prior's covariance is inverted for the reference: its condition is below 1e6 here.
        assert ((found[item] / right - 1).abs() < 1e6 * EPS).all()


def test_a_large_stationary_blur_needs_no_matrix(monkeypatch):
    prior, A, dense = posterior("a blur in its own basis")
    monkeypatch.setattr(systems, "DENSE_SIDE", 0)
    _, _, large = posterior("a blur in its own basis")
    assert isinstance(dense.system, DenseSystem) and isinstance(large.system, IterativeSystem)
    assert torch.allclose(large.marginals().std, dense.std, rtol=1e-9)
    monkeypatch.setattr(variances, "_by_modes", lambda *a: None)
    assert large.marginals().std is None and not large.marginals().has_quantiles
    with pytest.raises(iv.errors.UnsupportedError, match="too large to form"):
        large.std  # noqa: B018


def test_modes_that_the_data_mix_are_not_taken_one_by_one(monkeypatch):
    monkeypatch.setattr(systems, "DENSE_SIDE", 0)
    for basis, A in (
        ("neumann", iv.operators.Blur(KERNEL, (8, 6))),
        ("periodic", iv.operators.Mask(torch.arange(9) < 3)),
    ):
        law = field(A.in_shape, basis=basis).posterior(iv.Problem(A, random(1, *A.out_shape), noise=0.3))
        assert variances.entry_variances(law.problem, law.law, law.system) is None


def test_a_difference_that_lost_its_digits_is_not_given(monkeypatch):
    prior = field((24,))
    law = prior.posterior(iv.Problem(iv.operators.Mask(torch.arange(24) < 2), random(1, 24), noise=1e-6))
    right = law.std
    m, n = law.system.matrix.shape
    assert variances._by_difference(law.system.matrix, law.law) is None
    monkeypatch.setattr(variances, "_LOST", 0.0)
    lossy = variances._by_difference(law.system.matrix, law.law)
    assert not torch.allclose(lossy.sqrt(), right, rtol=1e-6, atol=0)
    gram = law.system.matrix.mT @ law.system.matrix
    squared = DenseSystem(**{**vars(law.system), "gram": gram})
    assert variances._by_squares(squared, law.law) is None


def test_a_solve_that_did_not_end_has_no_marginals(monkeypatch):
    monkeypatch.setattr(systems, "DENSE_SIDE", 0)
    prior = field((24,))
    problem = iv.Problem(iv.operators.Matrix(random(24, 24)), random(1, 24), noise=1e-3)
    assert GaussianPosterior.from_problem(prior.law, problem, max_iter=1).marginals() is None


# --- quantiles ------------------------------------------------------------------------------------------------------
LEVELS = [1e-9, 0.05, 0.3, 0.5, 0.999]


def test_quantiles_of_normal_entries():
    law = NormalMarginals(mean=random(2, 3), std=random(2, 3, seed=1).exp())
    for q in LEVELS:
        right = stats.norm(law.mean.numpy(), law.std.numpy()).ppf(q)
        np.testing.assert_allclose(law.quantile(q).numpy(), right, rtol=1e-12, atol=1e-14)


def test_quantiles_of_mixtures():
    weights = torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]], dtype=D)
    means, stds = 3 * random(2, 3, 4), random(2, 3, 4, seed=1).exp()
    law = MixtureMarginals(mean=means.mean(1), std=stds.mean(1), weights=weights, means=means, stds=stds)
    for q in LEVELS:
        for item in range(2):
            for entry in range(4):
                m, s = means[item, :, entry].numpy(), stds[item, :, entry].numpy()

                w = weights[item].numpy()

                def excess(x, w=w, m=m, s=s, q=q):
                    return (w * stats.norm.cdf(x, m, s)).sum() - q

                right = optimize.brentq(excess, -500, 500, xtol=1e-13)
                slope = (weights[item].numpy() * stats.norm.pdf(right, m, s)).sum()
                error = abs(float(law.quantile(q)[item, entry]) - right)
                assert error < 1e-12 + 8 * EPS * q / slope  # of the reference, and the rounding of its sum
    alone = law.only_item()
    assert torch.equal(alone.quantile(0.3), law.quantile(0.3)[0])
    some = law.selected(lambda v: v[..., 1:3])
    assert torch.equal(some.quantile(0.3), law.quantile(0.3)[:, 1:3]) and some.mean.shape == (2, 2)


def test_moments_have_no_quantiles():
    law = Moments(mean=torch.zeros(1, 2), std=None)
    assert not law.has_quantiles and law.only_item().std is None
    with pytest.raises(NotImplementedError):
        law.quantile(0.5)
    assert not NormalMarginals(mean=torch.zeros(2, dtype=torch.complex64), std=torch.ones(2)).has_quantiles
    assert math.isclose(
        float(NormalMarginals(mean=torch.zeros(1), std=torch.ones(1)).quantile(0.975)), 1.959964, rel_tol=1e-6
    )
