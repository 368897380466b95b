"""Scans in a plane: against closed forms and astra, in every shape, by every back end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ct_phantoms import F64, FAN, blob, blob_data, scans, turn
from operator_cases import Numbers

import invsolve as iv
from invsolve.operators.ct.backends.matrix import StoredMatrix
from invsolve.operators.ct.backends.on_the_fly import OnTheFly

ops = iv.operators
NAMES = list(scans(8, 4))


# --- what is measured ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_line_integrals_of_a_smooth_blob_converge_quadratically(name):
    errors = []
    for size in (64, 128):
        A = scans(size, 24)[name]
        exact = blob_data(A, 7.0, -11.0, 14.0)
        errors.append(float((A(blob(A, 7.0, -11.0, 14.0)[None])[0] - exact).norm() / exact.norm()))
    assert errors[1] < 5e-4 if "wide" not in name else 2e-3  # interpolation: some (pixel / std)^2 / 12
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


def test_axes_and_orientation():
    """At angle 0 columns are summed, from left to right; at 90 degrees rows, from below; lengths are in mm."""
    A = ops.ParallelBeam([0.0, math.pi / 2, math.pi], (3, 3), bins=3, pixel_size=2.0)
    x = Numbers(0).randn(1, 3, 3)
    assert torch.allclose(A(x)[0, 0], 2 * x[0].sum(0), atol=1e-12)
    assert torch.allclose(A(x)[0, 1], 2 * x[0].sum(1).flip(0), atol=1e-12)
    assert torch.allclose(A(x)[0, 2], A(x)[0, 0].flip(0), atol=1e-12)
    thin = ops.ParallelBeam([0.0, math.pi / 2], (2, 4), bins=4, pixel_size=(3.0, 2.0), bin_size=2.0)
    y = thin(torch.ones(1, 2, 4, dtype=F64))
    assert torch.allclose(y[0, 0], torch.full((4,), 6.0, dtype=F64))  # two rows of 3 mm
    # Bins at -3, -1, 1, 3 mm, rows at -1.5 and 1.5: weights of interpolation 1/2, 5/6 (and 1/6 of the other), ...
    assert torch.allclose(y[0, 1], 8 * torch.tensor([0.5, 1, 1, 0.5], dtype=F64))


def test_offset_and_centre_move_what_is_seen():
    x = Numbers(0).randn(1, 6, 6)
    still = ops.ParallelBeam(turn(8), (6, 6), bins=11)(x)
    assert torch.allclose(ops.ParallelBeam(turn(8), (6, 6), bins=11, detector_offset=1.0)(x)[..., :-1], still[..., 1:])
    # The axis of rotation one pixel further to the right: at angle 0 the image is one bin further to the left.
    moved = ops.ParallelBeam(turn(8), (6, 6), bins=11, center=(1.0, 0.0))(x)
    assert torch.allclose(moved[:, 0, :-1], still[:, 0, 1:]) and torch.allclose(moved[:, 4], still[:, 4])


def test_a_fan_from_far_away_is_parallel():
    x = Numbers(0).randn(1, 16, 15)
    far = ops.FanBeam(turn(9), (16, 15), bins=23, source_to_center=1e9, source_to_detector=1e9)(x)
    near = ops.ParallelBeam(turn(9), (16, 15), bins=23)(x)
    assert torch.allclose(far, near, atol=1e-5)  # rays turn by 23 / 1e9, 1e-7 of a pixel, but ties at angle 0


def test_agrees_with_astra():
    """Its weights are ours, up to positions that it adds up step by step in single precision, which drift.

    Each of ``size`` additions rounds a position below ``size`` by half a unit in the last place, always the same way.
    """
    astra = pytest.importorskip("astra")
    size, views, bins = 32, 24, 47
    volume = astra.create_vol_geom(size, size)
    beam = astra.create_proj_geom("parallel", 0.8, bins, turn(views).numpy())
    found = astra.projector.matrix(astra.create_projector("linear", beam, volume))
    matrix = astra.matrix.get(found)
    x = Numbers(0).randn(1, size, size, dtype=torch.float32)
    theirs = torch.from_numpy(matrix @ x.flatten().numpy().astype(np.float64)).view(views, bins)
    ours = ops.ParallelBeam(turn(views), (size, size), bins=bins, bin_size=0.8)(x)[0].double()
    drift = size * size * torch.finfo(torch.float32).eps / 2
    assert float((ours - theirs).norm() / theirs.norm()) < drift
    # astra has Siddon's weights only for fans: the same on smooth images, up to the error of both.
    A = ops.FanBeam(turn(24, 2 * math.pi), (48, 48), bins=80, bin_size=2.0, **FAN)
    beam = astra.create_proj_geom("fanflat", 2.0, 80, A.angles.numpy(), 300.0, 200.0)
    found = astra.projector.matrix(astra.create_projector("line_fanflat", beam, astra.create_vol_geom(48, 48)))
    image = blob(A, 4.0, -9.0, 7.0)
    theirs = torch.from_numpy(astra.matrix.get(found) @ image.flatten().numpy()).view(24, 80)
    assert float((A(image[None])[0] - theirs).norm() / theirs.norm()) < 2 * (1 / 7.0) ** 2 / 6


# --- the contract, by shapes and back ends ----------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (1, 1), (6, 1), (1, 5)], ids=str)
@pytest.mark.parametrize("backend", ["matrix", "on the fly"])
def test_contract_in_every_shape(shape, backend):
    for kind, views in (("real", 4), ("complex", 3)):
        common = {"backend": backend, "kind": kind}
        scanner = {"source_to_center": 40.0, "source_to_detector": 70.0}
        made = [
            ops.ParallelBeam(turn(views), shape, **common),
            ops.ParallelBeam(
                turn(views), shape, pixel_size=(0.7, 1.1), detector_offset=0.2, center=(0.1, -0.3), **common
            ),
            ops.FanBeam(turn(views, 2 * math.pi), shape, **scanner, **common),
            ops.FanBeam(turn(views), shape, detector="curved", detector_offset=0.3, **scanner, **common),
        ]
        for A in made:
            assert iv.testing.check_operator(A).passed
            rows = Numbers(1).signals(A, 5)
            assert torch.allclose(A(rows), torch.cat([A(row[None]) for row in rows]), atol=1e-12)


SYMMETRIC = {
    "half a turn": (lambda b: ops.ParallelBeam(turn(24), (16, 16), backend=b), 8, 3),
    "half a turn, an offset": (lambda b: ops.ParallelBeam(turn(24), (16, 16), detector_offset=0.3, backend=b), 4, 3),
    "a whole turn, every ray twice": (lambda b: ops.ParallelBeam(turn(48, 2 * math.pi), (15, 15), backend=b), 8, 10),
    "not square": (lambda b: ops.ParallelBeam(turn(24), (16, 12), backend=b), 4, 3),
    "golden angle": (lambda b: ops.ParallelBeam(2.399 * torch.arange(24), (16, 16), backend=b), 2, 1.9),
    "axis of rotation elsewhere": (lambda b: ops.ParallelBeam(turn(24), (16, 16), center=(1.0, 0.0), backend=b), 1, 1),
    "a fan": (lambda b: ops.FanBeam(turn(48, 2 * math.pi), (16, 16), backend=b, **FAN), 8, 6),
    "a curved fan": (
        lambda b: ops.FanBeam(turn(48, 2 * math.pi), (15, 15), detector="curved", backend=b, **FAN), 8, 6
    ),
    "a fan, an offset": (lambda b: ops.FanBeam(turn(48, 2 * math.pi), (16, 16), detector_offset=2.0, backend=b, **FAN), 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetries_save_weights_and_change_nothing(name):
    """The least number of times that fewer rays are stored; the weights on the fly know no symmetry."""
    make, kinds, saved = SYMMETRIC[name]
    A, B = make("matrix"), make("on the fly")
    x, y = Numbers(0).signals(A, 3), Numbers(1).data(A, 3)
    assert torch.allclose(A(x), B(x), atol=1e-11) and torch.allclose(A.adjoint(y), B.adjoint(y), atol=1e-11)
    (stored,), (made,) = A._made.values(), B._made.values()
    assert isinstance(stored, StoredMatrix) and isinstance(made, OnTheFly)
    assert stored.kinds == kinds
    assert len(A.angles) * A.bins >= saved * stored.weights.shape[0]


def test_many_images_go_in_pieces():
    A = ops.ParallelBeam(turn(6), (5, 4))
    x = Numbers(0).signals(A, 150)
    assert torch.allclose(A(x), torch.cat([A(v) for v in x.split(7)]), atol=1e-13)


def test_rays_that_miss_measure_nothing():
    A = ops.ParallelBeam(turn(3), (4, 4), bins=41)
    y = A(torch.ones(1, 4, 4, dtype=F64))
    assert bool((y[..., :10] == 0).all()) and bool((y[..., -10:] == 0).all()) and float(y.max()) > 3


# --- what is chosen, what is kept -------------------------------------------------------------------------------------
def test_the_back_end_goes_by_bytes_and_is_said():
    small, large = ops.ParallelBeam(turn(12), (8, 8)), ops.ParallelBeam(turn(720), (700, 700))
    assert "stored matrix, 0 MiB" in repr(small) and "weights on the fly" in repr(large)
    assert "stored matrix" in repr(ops.ParallelBeam(turn(720), (700, 700), backend="matrix"))
    assert small.dtype is None and small.to(dtype=torch.float32).angles.dtype == F64


def test_weights_follow_the_items_and_are_made_once():
    angles = torch.stack([turn(4), turn(4, first=0.1)])
    A = ops.ParallelBeam(angles, (6, 5))
    x = Numbers(0).signals(A, 2)
    y = A(x)
    assert torch.allclose(y[1:], ops.ParallelBeam(angles[1], (6, 5), bins=A.bins)(x[1:]), atol=1e-13)
    assert len(A._made) == 2
    rows = A.take(torch.tensor([1, 1, 0]))
    assert rows._made is A._made and torch.allclose(rows(x[[1, 1, 0]]), y[[1, 1, 0]]) and len(A._made) == 2


def test_a_wrong_centre_of_rotation_is_inferred():
    """The offset of the detector is found beside the image, within three of its standard deviations."""

    def scan(offset: float) -> ops.ParallelBeam:
        return ops.ParallelBeam(turn(16), (12, 12), bins=19, pixel_size=2.0, detector_offset=offset)

    field = iv.priors.GaussianFieldPrior((12, 12), iv.priors.Matern(std=0.01, length=0.3))
    y = scan(1.4)(field.sample(1, seed=3)) + 0.02 * Numbers(0).randn(1, 16, 19, dtype=torch.float32)
    family = ops.Family(scan, offset=iv.Uniform(low=-4.0, high=4.0))
    found = iv.solve(family, y, field, noise=0.02, num_samples=50)["operator.offset"]
    assert float(found.std) < 0.2 and abs(float(found.mean) - 1.4) < 3 * float(found.std)


# --- what is refused, and Hounsfield units ----------------------------------------------------------------------------
REFUSED = {
    "no angles": (lambda: ops.ParallelBeam([], (4, 4)), r"`angles` must be of shape \(views,\) or \(items, views\)"),
    "angles NaN": (lambda: ops.ParallelBeam([math.nan], (4, 4)), "`angles` must be finite"),
    "angles complex": (lambda: ops.ParallelBeam(torch.ones(2, dtype=torch.complex64), (4, 4)), "`angles` must be real"),
    "a volume": (lambda: ops.ParallelBeam([0.0], (3, 4, 4)), r"\(H, W\).*slices of a volume are a batch"),
    "kind": (lambda: ops.ParallelBeam([0.0], (4, 4), kind="both"), "`kind` must be one of"),
    "backend": (lambda: ops.ParallelBeam([0.0], (4, 4), backend="cuda"), "`backend` must be one of"),
    "pixel": (lambda: ops.ParallelBeam([0.0], (4, 4), pixel_size=0.0), "`pixel_size` must be positive"),
    "pixels": (lambda: ops.ParallelBeam([0.0], (4, 4), pixel_size=(1, 1, 1)), "`pixel_size` must be a number, or two"),
    "bin": (lambda: ops.ParallelBeam([0.0], (4, 4), bin_size=-1.0), "`bin_size` must be positive"),
    "bins": (lambda: ops.ParallelBeam([0.0], (4, 4), bins=0), "`bins` must be at least 1"),
    "offset": (lambda: ops.ParallelBeam([0.0], (4, 4), detector_offset=math.inf), "`detector_offset` must be finite"),
    "detector": (lambda: ops.FanBeam([0.0], (4, 4), detector="arc", **FAN), "`detector` must be one of"),
    "source inside": (
        lambda: ops.FanBeam([0.0], (400, 400), source_to_center=100.0, source_to_detector=500.0),
        "`source_to_center` must be larger than 282.843, the radius of the image.*in mm",
    ),
    "water": (lambda: ops.ct.to_hounsfield(torch.ones(2), water=0.0), "`water` must be positive"),
    "no attenuation": (lambda: ops.ct.from_hounsfield("bone"), "`hounsfield` must be numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        make()


def test_hounsfield_units_both_ways():
    values = torch.tensor([-1000.0, 0.0, 60.0, 1000.0])
    mu = ops.ct.from_hounsfield(values, water=0.02)
    assert torch.allclose(mu, torch.tensor([0.0, 0.02, 0.0212, 0.04]), atol=1e-9)
    assert torch.allclose(ops.ct.to_hounsfield(mu, water=0.02), values, atol=1e-3)
    assert ops.ct.to_hounsfield(np.array([0.0192])).item() == pytest.approx(0.0)
