"""Mixtures fitted to points: a density, its draws, and how near it comes to what the points are from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invsolve.core.normal_mixture import NormalMixture

D = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def even(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=D)


def modes(count: int, seed: int) -> Tensor:
    """Three, far apart, of a half, 0.3 and 0.2 of the points."""
    places = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 30.0]], dtype=D)
    part = (torch.arange(count) % 10 >= 5).long() + (torch.arange(count) % 10 >= 8)
    return places[part] + normal(count, 2, seed=seed) @ torch.tensor([[1.0, 0.0], [0.5, 0.2]], dtype=D)


def test_the_density_integrates_to_one_and_its_draws_are_from_it() -> None:
    """A grid over all parts; means and second moments of draws by those of the grid, in five standard errors."""
    q = NormalMixture.fit(modes(1000, 0), even(1000), modes(1000, 1), even(1000))
    assert q is not None and len(q.means) >= 3
    x, y = torch.linspace(-10, 30, 401, dtype=D), torch.linspace(-10, 40, 501, dtype=D)
    grid = torch.cartesian_prod(x, y)
    p = q.log_prob(grid).exp() * float((x[1] - x[0]) * (y[1] - y[0]))
    assert abs(float(p.sum()) - 1) < 1e-4
    count = 4000
    drawn = q.draw(normal(count, 3, seed=2))
    for f in (lambda v: v, lambda v: v.square()):
        want = (p[:, None] * f(grid)).sum(0)
        assert ((f(drawn).mean(0) - want).abs() < 5 * f(drawn).std(0) / math.sqrt(count)).all()


def test_well_separated_modes_are_told_apart() -> None:
    """The entropy of the parts known, -log q falls short of it by the fit alone: 0.1 nats with 1,000 points."""
    q = NormalMixture.fit(modes(1000, 0), even(1000), modes(1000, 1), even(1000))
    assert q is not None
    fresh = modes(10000, 3)
    root = math.log(0.2)
    entropy = math.log(2 * math.pi) + 1 + root - sum(w * math.log(w) for w in (0.5, 0.3, 0.2))
    assert -0.02 < -float(q.log_prob(fresh).mean()) - entropy < 0.1


def test_weights_count() -> None:
    """Points of a wide law weighted down to a narrow one."""
    points = 3 * normal(4000, 1)
    logs = -0.5 * points[:, 0].square() * (1 - 1 / 9)
    w = torch.softmax(logs, 0)
    a, b = w[::2], w[1::2]
    q = NormalMixture.fit(points[::2], a / a.sum(), points[1::2], b / b.sum())
    assert q is not None
    fresh = normal(10000, 1, seed=5)
    log_p = -0.5 * fresh[:, 0].square() - 0.5 * math.log(2 * math.pi)
    assert 0 < float((log_p - q.log_prob(fresh)).mean()) < 0.1  # how far q is from the narrow law, nats


def test_too_few_points_or_points_on_a_line_have_no_density() -> None:
    few = normal(10, 3)
    assert NormalMixture.fit(few, even(10), few, even(10)) is None
    flat = normal(100, 2)
    flat[:, 1] = 0
    assert NormalMixture.fit(flat, even(100), flat, even(100)) is None
