"""Every noise model at the ends of floating point, against mpmath: no NaN that is not the caller's, no digits lost."""

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import pytest
import torch

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.noise import (
    Gaussian,
    Laplace,
    Multiplicative,
    Poisson,
    PoissonTransmission,
    Quantised,
    Rician,
    Saturated,
    SinglePhoton,
    Speckle,
)

F64 = torch.float64
SIZES = [
    *(5e-324, 1e-300, 1e-100, 1e-10, 1e-3, 0.5, 1.0, 3.0, 30.0, 300.0, 700.0, 709.0, 710.0, 745.0, 746.0, 800.0, 1e3),
    *(1e4, 1e5, 1e7, 1e10, 1e20, 1e100, 1e150, 1e160, 1e200, 1e300, 1.7e308, math.inf),
]
CLEAN = [-size for size in reversed(SIZES)] + [0.0, *SIZES]
ZERO = mp.mpf(0)


def log_cdf(z: Any) -> Any:
    """Log of Phi; far out by three terms of the asymptotic series, right to z^-6."""
    if z < -100:
        return -z * z / 2 - mp.log(-z) - mp.log(2 * mp.pi) / 2 + mp.log(1 - z**-2 + 3 * z**-4)
    return mp.log(mp.erfc(-z / mp.sqrt(2)) / 2)


def gaussian(std):
    return lambda y, m: -(((y - m) / std) ** 2) / 2 - mp.log(std) - mp.log(2 * mp.pi) / 2


def laplace(scale):
    return lambda y, m: -abs(y - m) / scale - mp.log(2 * scale)


def counts(y, mu, log_mu=None):
    if mu <= 0:
        return ZERO if y == 0 and mu == 0 else -mp.inf
    return y * (mp.log(mu) if log_mu is None else log_mu) - mu - mp.loggamma(y + 1)


def transmission(i0, background):
    def log_prob(y, m):
        passed = i0 * mp.exp(-m) if m > -1e6 else mp.inf  # mpmath holds e^(1e6), floating point no e^(1e3)
        return -mp.inf if passed == mp.inf else counts(y, passed + background)

    return log_prob


def rician(std):
    def log_prob(y, m):
        x = y * abs(m) / std**2
        near = x < 1e3  # beyond, four terms of the asymptotic series
        series = 1 + 1 / (8 * x) + 9 / (128 * x**2) + 225 / (3072 * x**3) if not near else ZERO
        bessel = mp.log(mp.besseli(0, x)) if near else x - mp.log(2 * mp.pi * x) / 2 + mp.log(series)
        return mp.log(y) - 2 * mp.log(std) - (y * y + m * m) / (2 * std * std) + bessel

    return log_prob


def multiplicative(std):
    return lambda y, m: -mp.inf if m <= 0 else gaussian(std)(mp.log(y), mp.log(m)) - mp.log(y)


def speckle(looks):
    def log_prob(y, m):
        if m <= 0:
            return -mp.inf
        return looks * mp.log(looks / m) - mp.loggamma(looks) + (looks - 1) * mp.log(y) - looks * y / m

    return log_prob


def quantised(std, step):
    def log_prob(y, m):
        near = (abs(y - m) - step / 2) / std
        if near > 1e6:  # log Phi(-near), and what the far end takes from it, of width w: log(1 - e^(-w near) ...)
            return log_cdf(-near) + mp.log(-mp.expm1(-step / std * near))
        return mp.log(mp.exp(log_cdf(-near)) - mp.exp(log_cdf(-near - step / std)))

    return log_prob


def saturated(std, low, high):
    def log_prob(y, m):
        if low < y < high:
            return gaussian(std)(y, m)
        z = ((low - m) if y <= low else (m - high)) / std
        return log_cdf(z) if z < 50 else ZERO

    return log_prob


def frames(number, photons):
    def log_prob(y, m):
        mu = photons(m)
        if mu < 0 or (mu == 0 and y > 0):
            return -mp.inf
        seen = y * mp.log(-mp.expm1(-mu)) if y > 0 else ZERO
        return mp.log(mp.binomial(number, y)) + seen - (number - y) * mu

    return log_prob


R = mp.mpf
CASES = {  # model, its log density, data
    "Gaussian": (Gaussian(0.125), gaussian(R(0.125)), [0.0, 1.0, -1e5]),
    "Laplace": (Laplace(0.1), laplace(R(0.1)), [0.0, 1.0, -1e5]),
    "Poisson": (Poisson(3.0), lambda y, m: counts(y, 3 * m), [0.0, 1.0, 40.0, 1e6]),
    "Poisson, background": (
        Poisson(3.0, background=0.5),
        lambda y, m: counts(y, 3 * m + R(0.5)),
        [0.0, 1.0, 40.0, 1e6],
    ),
    "transmission": (PoissonTransmission(100.0), transmission(R(100), R(0)), [0.0, 1.0, 90.0, 1e6]),
    "transmission, background": (
        PoissonTransmission(100.0, background=0.5),
        transmission(R(100), R(0.5)),
        [0.0, 1.0, 90.0, 1e6],
    ),
    "single photon": (SinglePhoton(3.0, background=0.5), frames(1, lambda m: 3 * m + R(0.5)), [0.0, 1.0]),
    "single photon, dark": (SinglePhoton(3.0, frames=40), frames(40, lambda m: 3 * m), [0.0, 1.0, 17.0, 40.0]),
    "Rician": (Rician(0.125), rician(R(0.125)), [1e-300, 1e-3, 0.1, 1.0, 1e5]),
    "multiplicative": (Multiplicative(0.1), multiplicative(R(0.1)), [1e-300, 1e-3, 1.0, 1e5]),
    "speckle": (Speckle(2.5), speckle(R(2.5)), [1e-300, 1e-3, 1.0, 1e5]),
    "quantised": (Quantised(0.125, step=0.5), quantised(R(0.125), R(0.5)), [0.0, 0.5, -1e5]),
    "quantised, coarse": (Quantised(2**-10, step=1.0), quantised(R(2) ** -10, R(1)), [0.0, 1.0, -1e5]),
    "quantised, fine": (Quantised(8.0, step=2**-10), quantised(R(8), R(2) ** -10), [0.0, 1.0]),
    "saturated": (Saturated(0.125, low=0.0, high=1.0), saturated(R(0.125), R(0), R(1)), [0.0, 0.5, 1.0]),
}


@pytest.mark.parametrize(("noise", "reference", "data"), CASES.values(), ids=CASES)
def test_log_densities_are_right_to_the_end(noise, reference, data):
    """To a few thousand roundings, as terms cancel; what a float cannot hold is minus infinity."""
    clean = torch.tensor(CLEAN, dtype=F64)[:, None]
    noise = noise.check((1,), len(clean), F64, torch.device("cpu"))
    with mp.workdps(40):
        for y in data:
            found = noise.log_prob(torch.full_like(clean, y), clean)
            for value, m in zip(found.tolist(), CLEAN, strict=True):
                if math.isinf(m):
                    assert value <= 0  # a detector at its limit, a background alone: 0 or so; else minus infinity
                    continue
                want = float(reference(mp.mpf(y), mp.mpf(m)))
                assert value == want or abs(value - want) <= 1e-12 * max(1.0, abs(want)), (y, m, value, want)


@pytest.mark.parametrize(("noise", "reference", "data"), CASES.values(), ids=CASES)
def test_nothing_else_is_nan_either(noise, reference, data):
    clean = torch.tensor(CLEAN, dtype=F64)[:, None]
    noise = noise.check((1,), len(clean), F64, torch.device("cpu"))
    for y in data:
        there = torch.full_like(clean, y)
        for name, value in {
            "grad": noise.grad(there, clean),
            "information": noise.curvature(torch.ones_like(clean), clean),
            "residual": noise.residual(there, clean),
            "expansion": torch.cat(noise.expansion(there, clean)),
        }.items():
            assert not value.isnan().any(), (name, y, clean[value[: len(clean)].isnan()])
        if y != 1e-300:  # whose information is infinite
            found = noise.gaussian_at(there[1:-1], clean[1:-1])
            assert not any(value.isnan().any() for value in found), y
    draws = Draws.for_rows(0, [0] * len(clean), list(range(len(clean))), torch.device("cpu"))
    assert not noise.sample(clean, draws).isnan().any()


def test_the_case_that_was_reported():
    y, m = torch.zeros(1, 1, dtype=F64) + 3, torch.full((1, 1), -710.0, dtype=F64)
    assert float(PoissonTransmission(1000.0).log_prob(y, m)) == -math.inf


@pytest.mark.parametrize("far", [1e5, 1e8, 1e12])
def test_the_gradient_of_readings_far_away_is_that_to_the_nearer_end(far):
    """E[z | near < z < near + w] = near + (1 - u / (e^u - 1)) / near, u = w near, up to near^-3; over std."""
    noise, y = Quantised(2.0, step=1.0), torch.zeros(1, 1, dtype=F64)
    near = (far - 0.5) / 2.0
    want = near + (1 - (0.5 * near / math.expm1(0.5 * near) if near < 1e3 else 0.0)) / near
    got = float(noise.grad(y, torch.full_like(y, far)))
    assert got == pytest.approx(want / 2.0, rel=1e-14)
    assert float(noise.grad(y, torch.full_like(y, -far))) == pytest.approx(-want / 2.0, rel=1e-14)


def test_a_residual_knows_how_far_a_small_clean_measurement_is():
    """The floor of the gradient is none of the residual: chi^2 of a far miss was 0."""
    y, m = torch.ones(1, 1, dtype=F64), torch.full((1, 1), 1e-200, dtype=F64)
    assert float(Multiplicative(0.5).residual(y, m)) == pytest.approx(200 * math.log(10) / 0.5, rel=1e-14)
    assert float(Speckle(4.0).residual(y, m)) == pytest.approx(2e200, rel=1e-14)


def test_signals_that_overflow_have_no_likelihood_and_do_not_spoil_others():
    A = iv.operators.Matrix(torch.tensor([[1e10]], dtype=F64))
    problem = iv.Problem(A, torch.tensor([[3.0], [3.0]], dtype=F64), noise=PoissonTransmission(100.0))
    found = problem.log_likelihood(torch.tensor([[-1.0], [3e-10]], dtype=F64))
    assert found[0] == -math.inf and math.isfinite(found[1])
