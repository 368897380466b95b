"""Tables of costly functions: piecewise polynomials, and the moments of Student coefficients made of them."""

from __future__ import annotations

import math

import pytest
import torch

from invsolve.priors import SparsePrior, Student
from invsolve.priors.exact import student
from invsolve.priors.exact.coefficients import ScaleMixture
from invsolve.priors.exact.interpolation import Table

D = torch.float64


def make(function, end=2.0, tolerance=1e-10, limit=2**14):
    return Table.make(
        function, end, buckets=5, tolerance=tolerance, limit=limit, error=lambda t, a, b: (a - b).abs().amax(1)
    )


def test_error_is_below_the_tolerance_and_the_table_continuous():
    def function(t):
        return torch.stack([torch.atan(100 * (t - 0.7)), torch.exp(-t)], 1)

    table = make(function)
    assert table.error <= 1e-10 and len(set(table.cells.tolist())) > 1  # cut finely near 0.7 alone
    t = torch.rand(4000, 5, dtype=D, generator=torch.Generator().manual_seed(0)) * 2
    assert (table(t) - function(t.flatten()).mT.view(2, 4000, 5)).abs().max() < 3e-10
    ends = torch.cat([(k + torch.arange(int(c), dtype=D) / c) * 0.4 for k, c in enumerate(table.cells)])[1:]
    steps = table(ends * (1 + 1e-15)) - table(ends * (1 - 1e-15))
    assert steps.abs().max() < 2e-12  # the slope of 100 over 1e-15, and rounding


def test_beyond_the_end_and_not_a_number():
    table = make(lambda t: t[:, None] ** 2)
    assert torch.allclose(table(torch.tensor([2.0, 3.0, 7.0], dtype=D)), torch.tensor([[4.0, 8.0, 24.0]], dtype=D))
    assert torch.isnan(table(torch.tensor([math.nan, 1.0], dtype=D))).tolist() == [[True, False]]


def test_none_beyond_the_limit_and_where_the_function_is_not_finite():
    assert make(lambda t: torch.sign(t - 0.7)[:, None]) is None
    assert make(lambda t: torch.full_like(t, math.nan)[:, None]) is None


def by_sum(law, u, sigma):
    return ScaleMixture.moments(law, u, sigma)


def numbers(reach):
    """16,384 of them, from 1e-4 to 1e8 of ``reach`` and 0, of either sign."""
    g = torch.Generator().manual_seed(0)
    normal, wide = (torch.randn(8192, dtype=D, generator=g) for _ in range(2))
    u = reach * torch.cat([3 * normal, torch.sign(wide) * 10 ** (12 * torch.rand(8192, dtype=D, generator=g) - 4)])
    u[0] = 0.0
    return u.view(256, 64)


@pytest.mark.parametrize("ratio", [1e-5, 0.1, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("dof", [2.1, 3.0, 40.0])
def test_student_table_against_the_sum(dof, ratio, monkeypatch):
    law, sigma = Student(scale=0.5, dof=dof), torch.tensor(0.5 * ratio, dtype=D)
    u = numbers(0.5 * max(1.0, ratio))
    u = u.clamp(-0.4e9, 0.4e9)  # the sum itself ends at 1e9 scales
    want = by_sum(law, u, sigma)
    monkeypatch.setattr(ScaleMixture, "moments", None)
    log, mean, variance = law.moments(u, sigma)
    assert (log - want[0]).abs().max() < 1e-8
    assert torch.allclose(mean, want[1], rtol=1e-8, atol=0) and torch.allclose(variance, want[2], rtol=1e-8, atol=0)
    score = (mean - u) / sigma**2
    rounding = 4e-16 * (u.abs() + mean.abs()) / sigma**2
    assert ((score - (want[1] - u) / sigma**2).abs() <= 1e-8 * score.abs() + rounding).all()


def test_one_table_for_each_scale(monkeypatch):
    scale = torch.tensor([0.5, 2.0] * 32, dtype=D)
    law, sigma = Student(scale=scale, dof=3.0), torch.tensor(0.7, dtype=D)
    u = numbers(1.0).clamp(-1e6, 1e6).repeat(2, 1)
    want = by_sum(law, u, sigma)
    calls = []
    monkeypatch.setattr(
        student, "_student_moments", lambda *key, old=student._student_moments: calls.append(key) or old(*key)
    )
    for a, b in zip(law.moments(u, sigma), want, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-8 * float(b.abs().min()))
    assert calls == [(3.0, 0.7 / 0.5), (3.0, 0.7 / 2.0)]
    law.moments(u[:256], sigma)  # too few for two tables
    assert len(calls) == 2


@pytest.mark.parametrize("case", ["few", "a level for every row", "a graph", "no table"])
def test_the_sum_is_used_otherwise(case, monkeypatch):
    law, u, sigma = Student(scale=0.5, dof=3.0), numbers(1.0).clamp(-1e6, 1e6), torch.tensor(0.4, dtype=D)
    if case == "few":
        u = u[:100]
    elif case == "a level for every row":
        sigma = sigma.expand(len(u), 1).clone()
    elif case == "a graph":
        u = u.requires_grad_()
    monkeypatch.setattr(student, "_student_moments", (lambda *key: None) if case == "no table" else None)
    got, want = law.moments(u, sigma), by_sum(law, u, sigma)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    if case == "a graph":
        (grad,) = torch.autograd.grad(got[1].sum(), u)
        assert torch.allclose(grad, got[2] / sigma**2, rtol=1e-6)


def test_denoiser_of_a_large_batch():
    prior = SparsePrior(shape=(64,), transform="haar", coefficients=Student(scale=0.5, dof=4.0), dtype=D)
    x = prior.sample(256, seed=0) + 0.3 * torch.randn(256, 64, dtype=D, generator=torch.Generator().manual_seed(0))
    value, pull = prior.pullback(x, 0.3)
    assert torch.equal(value, prior.denoise(x, 0.3))
    assert torch.allclose(value[:8], prior.denoise(x[:8], 0.3), rtol=0, atol=1e-8)  # by the sum
    v = torch.randn(x.shape, dtype=D, generator=torch.Generator().manual_seed(1))
    h = 1e-4
    difference = (prior.denoise(x + h * v, 0.3) - prior.denoise(x - h * v, 0.3)) / (2 * h)
    assert torch.allclose(pull(v), difference, atol=1e-6)
    poisoned = x.clone()
    poisoned[1] = math.nan
    keep = torch.arange(256) != 1
    again = prior.denoise(poisoned, 0.3)
    assert torch.equal(again[keep], value[keep]) and torch.isnan(again[1]).all()


def test_variance_far_out_in_little_noise():
    """c is all but known there: the variance is that of the noise, less ``(dof + 1) sigma^4 / u^2``."""
    u, sigma = torch.tensor([[1e8, 1e4]], dtype=D), torch.tensor(1e-6, dtype=D)
    variance = Student(scale=1.0, dof=3.0).moments(u, sigma)[2]
    assert torch.allclose(variance / sigma**2, torch.ones_like(u), rtol=1e-9)
