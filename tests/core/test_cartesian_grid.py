"""Points of a box: where they are said to be, and where the bases of random fields have theirs."""

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputTypeError
from invsolve.priors.fields.bases import nodes

PAIRS = (("centers", "neumann"), ("interior", "dirichlet"), ("periodic", "periodic"))


@pytest.mark.parametrize(("points", "basis"), PAIRS)
@pytest.mark.parametrize("n", [1, 4, 5])
def test_points_are_those_of_the_bases_of_random_fields(points, basis, n):
    grid = iv.CartesianGrid((n,), extent=3.0, points=points, origin=(2.0,))
    np.testing.assert_allclose(grid.axes[0], 2.0 + nodes(basis, n, 3.0).numpy(), rtol=1e-15)


@pytest.mark.parametrize(("points", "total"), [("centers", 6.0), ("periodic", 6.0), ("interior", 6.0 * 16 / 25)])
def test_cells_fill_the_box(points, total):
    # inner nodes leave half a cell at every wall: (n / (n + 1)) of every side
    grid = iv.CartesianGrid((4, 4), extent=(2.0, 3.0), points=points)
    assert grid.cell * 16 == pytest.approx(total)
    if points != "interior":
        return
    assert grid.spacing == pytest.approx((0.4, 0.6))


def test_mesh_names_and_other_sizes():
    grid = iv.CartesianGrid((3, 5), extent=(1.0, 2.0), unit="m", names=("depth", "x"))
    rows, columns = grid.mesh()
    assert rows.shape == columns.shape == (3, 5)
    assert rows.dtype == torch.float64
    np.testing.assert_array_equal(rows[:, 2].numpy(), grid.axes[0])
    np.testing.assert_array_equal(columns[1].numpy(), grid.axes[1])
    name, along, about = grid.coords["depth"]
    assert name == "depth"
    assert about == {"units": "m"}
    np.testing.assert_array_equal(along, grid.axes[0])
    assert grid.on((6, 7)).extent == grid.extent
    assert iv.CartesianGrid((2, 2, 2)).names == ("z", "y", "x")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"shape": (2, 2, 2, 2)}, iv.errors.InputError, "of 1 to 3 axes"),
        ({"points": "corners"}, iv.errors.InputError, "`points` must be"),
        ({"extent": (1.0,)}, iv.errors.InputError, "one number for each of 2 axes"),
        ({"extent": -1.0}, iv.errors.InputError, "`extent` must be"),
        ({"extent": "wide"}, iv.errors.InputTypeError, "a number or a tuple"),
        ({"origin": (float("nan"), 0.0)}, iv.errors.InputError, "`origin` must be"),
        ({"names": ("x", "x")}, iv.errors.InputError, "2 different names"),
        ({"names": "xy"}, iv.errors.InputTypeError, "a tuple of names"),
        ({"unit": 3}, iv.errors.InputTypeError, "`unit` must be"),
    ],
)
def test_what_is_no_grid_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        iv.CartesianGrid(**({"shape": (2, 3)} | arguments))


def test_numbers_of_numpy_are_numbers_and_truth_values_are_none():
    grid = iv.CartesianGrid((4, 2), extent=np.float32(2.0), origin=np.int64(3))
    assert (grid.extent, grid.origin) == ((2.0, 2.0), (3.0, 3.0))
    with pytest.raises(InputTypeError, match="extent"):
        iv.CartesianGrid((4, 2), extent=True)
