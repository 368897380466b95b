"""Sensors: the same physical ones on every grid."""

import math

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.testing import check_operator

Grid = iv.CartesianGrid
POINTS = ("centers", "interior", "periodic")
RNG = np.random.default_rng(0)


def smooth(grid):
    """A product of few modes of the box, and of the same at any coordinates."""

    def one(x, length):
        t = math.pi * x / length
        if grid.points == "interior":
            return torch.sin(t) - 0.4 * torch.sin(3 * t)
        if grid.points == "periodic":
            return 1 + torch.sin(2 * t) + 0.3 * torch.cos(4 * t)
        return 1 + torch.cos(2 * t) - 0.2 * torch.cos(3 * t)

    def field(*coordinates):
        value = 1.0
        for x, start, length in zip(coordinates, grid.origin, grid.extent, strict=True):
            value = value * one(x - start, length)
        return value

    return field


def box(shape, points):
    d = len(shape)
    return Grid(shape, extent=(1.0, 2.0, 0.5)[:d], origin=(0.5, -1.0, 0.0)[:d], points=points)


def places(grid, *lead):
    return torch.from_numpy(np.array(grid.origin) + np.array(grid.extent) * RNG.random((*lead, len(grid.shape))))


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("shape", [(5,), (4, 7), (1, 6), (3, 4, 2)])
def test_they_keep_the_contract(points, shape):
    grid = box(shape, points)
    one, many = places(grid, 6), places(grid, 3, 6)
    check_operator(iv.operators.PointValues(grid, one))
    check_operator(iv.operators.PointValues(grid, many, method="spectral"))
    check_operator(iv.operators.BoxAverages(grid, torch.minimum(many, one), torch.maximum(many, one)))


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("shape", [(9,), (8, 9), (9, 8, 10)])
def test_fields_of_few_modes_have_their_values_between_points(points, shape):
    grid = box(shape, points)
    at = places(grid, 20)
    field = smooth(grid)
    found = iv.operators.PointValues(grid, at, method="spectral")(field(*grid.mesh())[None])[0]
    assert torch.allclose(found, field(*at.T), rtol=0, atol=1e-12)


@pytest.mark.parametrize("points", POINTS)
def test_lines_between_points_are_of_second_order(points):
    errors = []
    for n in (32, 64, 128, 256):
        grid = box((n, n), points)
        # fixed places, of every position in a cell of the coarsest grid
        at = torch.tensor(grid.origin) + torch.tensor(grid.extent) * torch.rand(
            400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
        error = iv.operators.PointValues(grid, at)(smooth(grid)(*grid.mesh())[None])[0] - smooth(grid)(*at.T)
        errors.append(float(error.square().mean().sqrt()))
    # an average over places in the cells: the order is seen from the first to the last
    assert math.log2(errors[0] / errors[-1]) / 3 == pytest.approx(2, abs=0.1)


def test_at_the_points_themselves_nothing_is_interpolated():
    for points in POINTS:
        grid = box((4, 5), points)
        at = torch.stack(grid.mesh(), -1).flatten(0, 1)
        for method in ("linear", "spectral"):
            x = torch.randn(2, 4, 5, dtype=torch.float64)
            assert torch.allclose(iv.operators.PointValues(grid, at, method=method)(x), x.flatten(1), atol=1e-12)


def test_averages_are_integrals_over_cells():
    grid = Grid((4, 2), extent=(4.0, 2.0))
    x = torch.arange(8, dtype=torch.float64).view(1, 4, 2)
    A = iv.operators.BoxAverages(grid, [[0.0, 0.0], [0.5, 0.0], [1.5, 0.5]], [[4.0, 2.0], [1.5, 1.0], [1.5, 2.0]])
    # all; half of two cells; a well at the middle of the second row, over half a cell and one
    assert A(x)[0].tolist() == pytest.approx([3.5, 1.0, (0.5 * 2 + 3) / 1.5])
    for points in ("periodic", "centers"):
        grid = box((6, 5), points)
        whole = iv.operators.BoxAverages(grid, [grid.origin], [tuple(np.add(grid.origin, grid.extent))])
        x = torch.randn(1, 6, 5, dtype=torch.float64)
        assert float(whole(x) - x.mean()) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda g: iv.operators.PointValues(g, [[0.6, 1.5]]), InputError, r"inside of the box \[0.5, 1.5\]"),
        (lambda g: iv.operators.PointValues(g, [0.6]), InputError, r"of shape \(m, 2\)"),
        (lambda g: iv.operators.PointValues(g, [[0.6, 0.0]], method="cubic"), InputError, "method"),
        (lambda g: iv.operators.PointValues((4, 4), [[0.6, 0.0]]), InputTypeError, "an iv.CartesianGrid"),
        (lambda g: iv.operators.BoxAverages(g, [[0.6, 0.0]], [[0.7, -0.5]]), InputError, ">= lower"),
        (lambda g: iv.operators.BoxAverages(g, [[0.6, 0.0]] * 2, [[0.7, 0.5]]), InputError, "of the shape of lower"),
    ],
)
def test_sensors_that_cannot_be_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(box((4, 4), "centers"))
