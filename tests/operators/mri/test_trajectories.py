"""Where samples are, and what each stands for: spokes, spirals, stacks; densities whose sums are integrals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.operators.mri import kooshball, pipe_menon, radial, radial_density, spiral, stack_of_stars

F64 = torch.float64
GOLDEN = 111.2461179749811


def angles(trajectory: Tensor) -> Tensor:
    return torch.rad2deg(torch.atan2(trajectory[..., 0], trajectory[..., 1]))


def test_spokes_run_through_the_centre():
    spokes = radial(4, 8).view(4, 8, 2)
    assert spokes.dtype == F64 and torch.allclose(angles(spokes[:, -1]), torch.tensor([0.0, 45, 90, 135], dtype=F64))
    assert torch.equal(spokes[:, 4], torch.zeros(4, 2, dtype=F64))
    assert torch.allclose(spokes[0, :, 1], math.pi * torch.arange(-4, 4, dtype=F64) / 4)
    assert torch.equal(radial(2, 5).view(2, 5, 2)[:, 2], torch.zeros(2, 2, dtype=F64))  # odd numbers too
    golden = radial(30, 8, angles="golden", first=0.1).view(30, 8, 2)
    turned = angles(golden[:, -1]).diff().remainder(360)
    assert torch.allclose(turned, torch.full((29,), GOLDEN, dtype=F64))


def test_directions_in_space_are_even():
    """The mean of the outer product of directions that fill the sphere is 1/3 of the identity."""
    spokes = kooshball(500, 8).view(500, 8, 3)
    direction = spokes[:, -1] / spokes[:, -1].norm(dim=-1, keepdim=True)
    assert torch.allclose(spokes[:, 4], torch.zeros(500, 3, dtype=F64))
    assert torch.allclose(direction.mT @ direction / 500, torch.eye(3, dtype=F64) / 3, atol=2e-3)
    nearest = (direction @ direction.mT - 2 * torch.eye(500)).amax(1).clamp(max=1).acos()
    assert float(nearest.min()) > 0.6 * math.sqrt(2 * math.pi / 500)  # none twice


def test_stacks_are_planes():
    stack = stack_of_stars(6, 5, 8, angles="golden").view(6, 40, 3)
    assert torch.allclose(stack[:, :, 0], (math.pi / 3 * torch.arange(-3, 3, dtype=F64))[:, None].expand(-1, 40))
    assert torch.equal(stack[2, :, 1:], radial(5, 8, angles="golden"))


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_spirals_run_outwards_at_equal_steps(power):
    arms = spiral(3, 40000, turns=6, power=power).view(3, 40000, 2)
    radius = arms.norm(dim=-1)
    assert torch.allclose(radius[:, [0, -1]], torch.tensor([0.0, math.pi], dtype=F64).expand(3, 2))
    assert torch.allclose(
        angles(arms[:, -1]).round().remainder(360).sort().values, torch.tensor([0.0, 120, 240], dtype=F64), atol=1e-6
    )
    steps = arms[0].diff(dim=0).norm(dim=-1)[10000:]  # behind the first turn
    assert float(steps.max() / steps.min()) < 1.05 if power == 1 else 1.2
    crossed = int((arms[0][1:, 1].sign().diff() != 0).sum())
    assert crossed == 12  # six turns cross an axis twelve times


# --- density ----------------------------------------------------------------------------------------------------------
def gaussian(omega: Tensor, width: float) -> Tensor:
    return torch.exp(-omega.square().sum(-1) / (2 * width**2))


CASES = {
    "uniform": (lambda n: radial(n, 128), 2),
    "golden angle": (lambda n: radial(n, 128, angles="golden"), 2),
    "an odd number": (lambda n: radial(n, 127), 2),
    "half a step off": (lambda n: radial(n, 128) + shift(radial(n, 128), n, 0.5), 2),
    "a third of a step off": (lambda n: radial(n, 128) + shift(radial(n, 128), n, 0.3), 2),
    "outwards": (lambda n: radial(2 * n, 128).view(2 * n, 128, 2)[:, 64:].flatten(0, 1) * turned(2 * n), 2),
    "in space": (lambda n: kooshball(n, 64), 3),
}


def shift(trajectory: Tensor, spokes: int, steps: float) -> Tensor:
    one = trajectory.view(spokes, -1, trajectory.shape[-1])
    step = one[:, 1:2] - one[:, :1]
    return (steps * step).expand_as(one).flatten(0, 1)


def turned(spokes: int) -> Tensor:
    """Every other spoke to the other side: over a whole turn."""
    sign = torch.where(torch.arange(spokes) % 2 == 0, 1.0, -1.0).double()
    return sign.repeat_interleave(64)[:, None]


@pytest.mark.parametrize("name", CASES)
def test_the_ramp_integrates_smooth_functions(name):
    """``sum w g`` is the integral of g over k-space, as a share: closed form for a Gaussian."""
    make, dim = CASES[name]
    spokes = 100 if dim == 2 else 400
    trajectory = make(spokes)
    w = radial_density(trajectory, 2 * spokes if name == "outwards" else spokes)
    for width in (0.3, 0.55):
        exact = (width / math.sqrt(2 * math.pi)) ** dim
        assert float((w * gaussian(trajectory, width)).sum()) == pytest.approx(exact, rel=1e-4)
    covered = math.pi / 4 if dim == 2 else math.pi / 6
    assert float(w.sum()) == pytest.approx(covered, rel=0.03)


@pytest.mark.parametrize(
    "make", [lambda: radial(60, 64), lambda: spiral(12, 900, turns=2), lambda: radial(80, 64, angles="golden")]
)
def test_pipe_and_menon_integrate_too(make):
    """Within 1 %, of whatever trajectory that is dense enough."""
    A = iv.operators.NonCartesianMRI(make(), (32, 32))
    w = pipe_menon(A)
    assert w.dtype == F64 and float(w.min()) > 0
    found = float((w * gaussian(A.omega, 0.7)).sum())
    assert found == pytest.approx((0.7 / math.sqrt(2 * math.pi)) ** 2, rel=0.01)
    items = iv.operators.NonCartesianMRI(torch.stack([make(), -make()]), (32, 32))
    assert torch.allclose(pipe_menon(items)[0], w) and pipe_menon(items).shape == (2, len(w))


REFUSED = {
    "spokes": (lambda: radial(0, 8), "radial: `spokes` must be at least 1"),
    "angles": (lambda: radial(3, 8, angles="random"), "radial: `angles` must be one of 'uniform', 'golden'"),
    "first": (lambda: radial(3, 8, first=math.inf), "radial: `first` must be finite"),
    "koosh": (lambda: kooshball(3, 1.5), "kooshball: `samples` must be an integer"),
    "stack": (lambda: stack_of_stars(0, 3, 8), "stack_of_stars: `partitions` must be at least 1"),
    "stack angles": (lambda: stack_of_stars(2, 3, 8, angles="no"), "stack_of_stars: `angles` must be one of"),
    "turns": (lambda: spiral(2, 9, turns=0.0), "spiral: `turns` must be positive"),
    "power": (lambda: spiral(2, 9, turns=1.0, power=-1.0), "spiral: `power` must be positive"),
    "no operator": (lambda: pipe_menon(radial(3, 8)), "pipe_menon: `A` must be an iv.operators.NonCartesianMRI"),
    "iterations": (
        lambda: pipe_menon(iv.operators.NonCartesianMRI(radial(3, 8), (4, 4)), iterations=0),
        "pipe_menon: `iterations` must be at least 1",
    ),
    "not so many spokes": (lambda: radial_density(radial(3, 8), 5), r"must be of shape \(samples, 2\).* of 5 spokes"),
    "no spokes": (lambda: radial_density(spiral(3, 8, turns=2.0), 3), "lines through the origin.*pipe_menon"),
    "complex": (lambda: radial_density(radial(3, 8) + 0j, 3), "`trajectory` must be real"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        make()
