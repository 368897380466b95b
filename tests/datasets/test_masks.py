"""Sampling masks: numbers of samples, calibration regions, densities and distances."""

from __future__ import annotations

import math

import pytest
import torch

from invsolve import datasets
from invsolve.errors import InputError, InputTypeError

RUNS = 300


def lines_of(mask: torch.Tensor, axis: int) -> torch.Tensor:
    """(n,) bool; whole lines only."""
    along = mask.movedim(axis, 0)
    assert mask.dtype == torch.bool and torch.equal(along.all(1), along.any(1))
    return along[:, 0]


@pytest.mark.parametrize("make", [datasets.random_mask, datasets.equispaced_mask])
@pytest.mark.parametrize("axis, n, acceleration, fraction", [(-1, 100, 4, 0.08), (0, 67, 8, 0.04), (1, 100, 2.5, 0.0)])
def test_lines_of_fastmri(make, axis, n, acceleration, fraction):
    """The centre is always there, where fastMRI has it; the mean number of lines is that of the acceleration."""
    shape = (67, 100)
    masks = [make(shape, acceleration, center_fraction=fraction, axis=axis, seed=s) for s in range(RUNS)]
    lines = torch.stack([lines_of(m, axis) for m in masks]).double()
    centre = round(fraction * n)
    first = (n - centre + 1) // 2
    assert lines[:, first : first + centre].all() and (centre == 0 or first <= n // 2 < first + centre)
    count, spread = lines.sum(1).mean(), lines.sum(1).std() / math.sqrt(RUNS)
    # Equispaced: what is cut off at both ends, at most one line, and what the centre holds of whole steps, another.
    slack = 5 * spread if make is datasets.random_mask else 2.0
    assert abs(float(count) - n / acceleration) <= slack
    others = torch.cat([lines[:, :first], lines[:, first + centre :]], 1)
    if make is datasets.random_mask:  # each other line with the one probability
        p = (n / acceleration - centre) / (n - centre)
        assert (others.mean(0) - p).abs().max() < 5 * math.sqrt(p * (1 - p) / RUNS)
    assert torch.equal(masks[3], make(shape, acceleration, center_fraction=fraction, axis=axis, seed=3))


def test_equispaced_lines_keep_their_distance():
    """``a = R (n - c) / (n - R c)``: neighbours are that far apart, rounded up or down, from every whole offset."""
    n, R, c = 320, 4, round(0.08 * 320)
    a = R * (n - c) / (n - R * c)
    starts = set()
    for seed in range(60):
        found = datasets.equispaced_mask((1, n), R, center_fraction=0.08, seed=seed)[0].nonzero()[:, 0]
        left = found[found < (n - c + 1) // 2]
        assert {int(d) for d in left.diff()} <= {math.floor(a), math.ceil(a)}
        starts.add(int(found[0]))
    assert starts == set(range(round(a)))


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("side", ["high", "low"])
def test_partial_fourier(n, side):
    found = lines_of(datasets.partial_fourier_mask((n, 3), 0.75, side=side, axis=0), 0)
    k = torch.arange(n) - n // 2
    half = k > 0 if side == "high" else k < 0
    assert found[half].all() and found[n // 2] and int(found.sum()) == round(0.75 * n)
    assert int(found.int().diff().abs().sum()) == 1  # in one piece
    assert datasets.partial_fourier_mask((n, 3), 1.0, side=side).all()


MAKERS = [
    lambda shape, R, **o: datasets.variable_density_mask(shape, R, **o),
    lambda shape, R, **o: datasets.variable_density_mask(shape, R, density="gaussian", std=0.3, **o),
    lambda shape, R, **o: datasets.poisson_disc_mask(shape, R, **o),
    lambda shape, R, **o: datasets.poisson_disc_mask(shape, R, power=0.0, **o),
]


@pytest.mark.parametrize("make", MAKERS, ids=["polynomial", "gaussian", "disc", "uniform disc"])
@pytest.mark.parametrize("shape, block", [((40, 31), (6, 5)), ((17, 24), (0, 0)), ((1, 50), (1, 4))], ids=str)
def test_points_are_exactly_as_many_and_the_centre_is_full(make, shape, block):
    for R in (3, 6.5):
        mask = make(shape, R, calibration=block, seed=4)
        assert mask.shape == shape and mask.dtype == torch.bool
        assert int(mask.sum()) == round(shape[0] * shape[1] / R)
        rows, columns = ((n - b + 1) // 2 for n, b in zip(shape, block, strict=True))
        assert mask[rows : rows + block[0], columns : columns + block[1]].all()
        assert torch.equal(mask, make(shape, R, calibration=block, seed=4))
        assert not torch.equal(mask, make(shape, R, calibration=block, seed=5))


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_points_of_a_poisson_disc_keep_their_distance(power):
    """At least ``min(rho_1, rho_2)`` with one c: from c = the largest distance over radius that the density allows."""
    shape = (48, 40)
    mask = datasets.poisson_disc_mask(shape, 8, power=power, seed=1)
    points = mask.nonzero().double()
    rho = (((points - torch.tensor([24.0, 20.0])) / torch.tensor([25.0, 21.0])).norm(dim=1)) ** power
    distance = torch.cdist(points, points).fill_diagonal_(math.inf)
    least = torch.minimum(rho[:, None], rho)
    c = float((distance / least).min())
    # A disc of radius rho / 2 around every point: random packings fill 0.547 of the plane, points alone 0.785 rho^-2.
    r = torch.hypot(*torch.meshgrid((torch.arange(48.0) - 24) / 25, (torch.arange(40.0) - 20) / 21, indexing="ij"))
    expected = 0.547 * (4 / math.pi) * (1 / (c * r**power).clamp_min(1) ** 2).sum()
    assert c > 1.5 and 0.7 < float(expected) / len(points) < 1.5
    random = datasets.variable_density_mask(shape, 8, power=0.0, seed=1).nonzero().double()
    assert torch.cdist(random, random).fill_diagonal_(math.inf).min() == 1  # what is not kept apart touches


def test_one_point_has_the_stated_density():
    """Of one single point the probabilities are the weights themselves: chi^2 in rings."""
    shape, runs = (9, 9), 600
    k = (torch.arange(9.0, dtype=torch.float64) - 4) / 5
    r = torch.hypot(k[:, None], k)
    for options, weight in (
        ({"power": 3.0}, (1 - r / math.sqrt(2)) ** 3),
        ({"density": "gaussian", "std": 0.4}, torch.exp(-(r**2) / 0.32)),
    ):
        counts = sum(datasets.variable_density_mask(shape, 81, seed=s, **options).double() for s in range(runs))
        expected = runs * weight / weight.sum()
        rings = (r * 5).floor().long().clamp_max(4).flatten()
        a, b = (torch.zeros(5, dtype=torch.float64).index_add(0, rings, v.flatten()) for v in (counts, expected))
        assert float(((a - b) ** 2 / b).sum()) < 23.5  # the 1e-4 quantile of 4 degrees of freedom


def test_masks_combine():
    both = datasets.partial_fourier_mask((12, 16), 0.7) & datasets.poisson_disc_mask((12, 16), 3)
    assert not both[:, :4].any() and both.any()


lines, even, points, disc = (
    datasets.random_mask,
    datasets.equispaced_mask,
    datasets.variable_density_mask,
    datasets.poisson_disc_mask,
)
REFUSED = {
    "acceleration": (
        lambda: lines((8, 8), 0.5),
        InputError,
        "random_mask: `acceleration` must be between 1 and the numb",
    ),
    "centre": (
        lambda: lines((8, 8), 4, center_fraction=0.6),
        InputError,
        "`center_fraction` must be between 0 and 0.25",
    ),
    "all of it": (lambda: even((8, 8), 4, center_fraction=0.25), InputError, "less than n / acceleration = 2 lines"),
    "axis": (lambda: even((8, 8), 2, axis=2), InputError, "equispaced_mask: `axis` must be one of"),
    "shape": (lambda: even((8, 8, 8), 2), InputError, r"`shape` must be of two axes \(H, W\)"),
    "fraction": (
        lambda: datasets.partial_fourier_mask((8, 8), 0.4),
        InputError,
        "`fraction` must be from 0.5, where the origin is reached, to 1, got 0.4",
    ),
    "low": (lambda: datasets.partial_fourier_mask((8, 8), 0.5, side="low"), InputError, "must be from 0.625, where"),
    "side": (lambda: datasets.partial_fourier_mask((8, 8), side="left"), InputError, "`side` must be one of 'high'"),
    "points": (lambda: points((4, 4), 17), InputError, "between 1 and the number of points, 16, got 17"),
    "region": (lambda: disc((8, 8), 4, calibration=(5, 5)), InputError, "of at most 16 points, those measured"),
    "sides": (
        lambda: disc((8, 8), 4, calibration=(5, 5, 5)),
        InputError,
        r"`calibration` must be two integers \(h, w\)",
    ),
    "half": (lambda: disc((8, 8), 4, calibration=(2.5, 2)), InputTypeError, r"`calibration\[0\]` must be an integer"),
    "density": (lambda: points((8, 8), 4, density="flat"), InputError, "one of 'polynomial', 'gaussian'"),
    "power": (lambda: points((8, 8), 4, power=-1), InputError, "`power` must be non-negative"),
    "std": (lambda: points((8, 8), 4, std=0), InputError, "`std` must be positive"),
    "seed": (lambda: disc((8, 8), 4, seed=0.5), InputTypeError, "poisson_disc_mask: `seed` must be an integer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
