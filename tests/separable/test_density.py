"""Many one-dimensional densities: their masses and quantiles against closed forms and another quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from invsolve.separable.density import resolve

CPU = torch.device("cpu")
LEVELS = torch.linspace(0.001, 0.999, 97, dtype=torch.float64)


def normal(z, std=1.0):
    return -((z / std) ** 2) / 2 - math.log(std) - 0.5 * math.log(2 * math.pi)


def one(log_density):
    return resolve(lambda owner, z: log_density(z), 1, CPU)


def quantiles(found):
    return found.draw(torch.zeros(len(LEVELS), dtype=torch.int64), LEVELS)


@pytest.mark.parametrize("std", [3.0, 1.0, 1e-2, 1e-5, 1e-8])
@pytest.mark.parametrize("datum", [0.0, 0.7123, -6.3, 1000.0])
def test_a_normal_datum_of_any_precision(std, datum):
    """Mass N(datum; 0, 1 + std^2), and a normal posterior; rounded z alone moves the log by eps |z| / std a std."""
    found = one(lambda z: normal(z) + normal(z - datum, std))
    rounding = 1e-9 + 1e-15 * abs(datum) / std + 1e-13 * datum**2
    assert abs(float(found.log_total) - stats.norm.logpdf(datum, scale=math.hypot(1, std))) < rounding
    assert float(found.error) < 1e-8 + 100 * rounding
    gain = 1 / (1 + std**2)
    right = stats.norm.ppf(LEVELS, loc=gain * datum, scale=std * gain**0.5)
    assert (quantiles(found) - torch.as_tensor(right)).abs().max() < std * 1e-7 + 1e-12 * abs(datum)


@pytest.mark.parametrize("wall", [-0.5, -0.4712345, 1.3, 5.01])
def test_a_wall(wall):
    """N(z) exp(-2 z) beyond the wall: a truncated N(-2, 1) of known mass."""
    found = one(lambda z: torch.where(z > wall, normal(z) - 2 * z, -math.inf))
    assert abs(float(found.log_total) - (2 + stats.norm.logsf(wall + 2))) < 1e-10
    right = stats.truncnorm(wall + 2, np.inf, loc=-2).ppf(LEVELS)
    assert (quantiles(found) - torch.as_tensor(right)).abs().max() < 1e-8


@pytest.mark.parametrize(
    ("log", "roots"),
    [
        (lambda z: normal(z**3 - 2 * z - 0.5, 1e-3), np.roots([1, 0, -2, -0.5]).real),
        (lambda z: normal(z.abs() - 0.7, 1e-4), [-0.7, 0.7]),
        (lambda z: -(z - 0.3).abs() / 0.05, [0.3]),
        (lambda z: torch.where(((z.abs() - 2.123).abs() < 1e-2), 0.0, -math.inf), [-2.133, -2.113, 2.113, 2.133]),
        (lambda z: -4 * torch.log1p(((z - 9) / 0.2) ** 2), [9.0]),
        (lambda z: normal(torch.sin(3 * z) - 0.3, 0.05), np.arange(-9, 9, np.pi / 3)),
    ],
    ids=["cubic", "magnitude", "kink", "narrow windows", "heavy tail", "many modes"],
)
def test_modes_kinks_and_windows(log, roots):
    found = one(lambda z: normal(z) + log(z))

    def density(z):
        return float(
            torch.exp(normal(torch.tensor(z, dtype=torch.float64)) + log(torch.tensor(z, dtype=torch.float64)))
        )

    near = [r + d for r in roots for d in (-0.02, -0.005, -0.0005, 0.0, 0.0005, 0.005, 0.02)]
    edges = sorted({-12.0, 12.0, *near, *np.linspace(-11.5, 11.5, 47).tolist()})
    right = sum(
        integrate.quad(density, a, b, epsabs=1e-15, epsrel=1e-10, limit=200)[0]
        for a, b in zip(edges, edges[1:], strict=False)
    )
    assert abs(float(found.log_total) - math.log(right)) < 1e-7
    assert float(found.error) < 1e-8


def test_densities_do_not_see_each_other():
    centre = torch.tensor([-3.0, 0.1, 2.0, 40.0], dtype=torch.float64)
    std = torch.tensor([0.1, 1e-4, 5.0, 0.3], dtype=torch.float64)
    found = resolve(lambda k, z: normal(z) + normal((z - centre[k, None]) / std[k, None]), 4, CPU)
    for k in range(4):
        alone = one(lambda z, k=k: normal(z) + normal((z - centre[k]) / std[k]))
        assert float(alone.log_total) == float(found.log_total[k])
        assert torch.equal(quantiles(alone), found.draw(torch.full((len(LEVELS),), k), LEVELS))


def test_shares_of_nodes_make_moments():
    found = one(lambda z: torch.where(z > 0.5, normal(z), -math.inf))
    law = stats.truncnorm(0.5, np.inf)
    mean = (found.shares * found.nodes).sum()
    assert abs(float(found.shares.sum()) - 1) < 1e-12
    assert abs(float(mean) - law.mean()) < 1e-10
    assert abs(float((found.shares * (found.nodes - mean) ** 2).sum()) - law.var()) < 1e-10


def test_what_is_impossible_has_no_mass():
    nowhere = one(lambda z: torch.full_like(z, -math.inf))
    assert float(nowhere.log_total) == -math.inf and bool(quantiles(nowhere).isnan().all())
    invalid = one(lambda z: torch.where(z < 0, math.nan, normal(z)))  # NaN is never accepted
    assert abs(float(invalid.log_total) - math.log(0.5)) < 1e-10
