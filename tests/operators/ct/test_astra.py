"""Astra as a back end: our weights by a second program, in single precision."""

from __future__ import annotations

import builtins
import math

import pytest
import torch
from ct_phantoms import FAN, turn
from operator_cases import Numbers

import invsolve as iv
from invsolve.operators.ct.backends.astra import check_astra

astra = pytest.importorskip("astra")
ops = iv.operators
F32 = torch.float32


@pytest.mark.parametrize(
    "more",
    [{}, {"detector_offset": 0.7, "center": (1.0, -2.0), "pixel_size": 2.5, "bin_size": 1.9}],
    ids=["plain", "moved"],
)
@pytest.mark.parametrize("weights", ["joseph", "siddon"])
def test_parallel_rays_have_our_weights(more, weights):
    """To 1e-5, forward and back: see `test_agrees_with_astra` for how its positions drift in single precision."""
    scan = {"bins": 47, "weights": weights, **more}
    A, B = (ops.ParallelBeam(turn(24, first=0.1), (32, 30), backend=b, **scan) for b in ("astra", "matrix"))
    x, y = Numbers(0).rand(3, 32, 30).float(), Numbers(1).rand(3, 24, 47).float()
    assert float((A(x) - B(x)).norm() / B(x).norm()) < 1e-5
    assert float((A.adjoint(y) - B.adjoint(y)).norm() / B.adjoint(y).norm()) < 1e-5


def test_a_fan_has_siddons_weights():
    """To its single precision, as of parallel rays; no ray runs along an edge, which astra gives to one pixel only."""
    scan = {
        "bins": 80,
        "bin_size": 2.0,
        "center": (3.0, 1.0),
        "detector_offset": 1.0,
        "detector_tilt": 0.1,
        "weights": "siddon",
        **FAN,
    }
    A, B = (ops.FanBeam(turn(24, 2 * math.pi, first=0.1), (48, 40), backend=b, **scan) for b in ("astra", "matrix"))
    x = Numbers(0).rand(3, 48, 40).float()
    assert float((A(x) - B(x)).norm() / B(x).norm()) < 3e-5  # positions drift, as above


def test_contract_to_single_precision():
    """The adjoint is the transpose to rounding, which the report says; images one after another, derivatives too."""
    for A in (
        ops.ParallelBeam(turn(5), (6, 7), backend="astra", kind="complex"),
        ops.FanBeam(turn(5, 6.0), (6, 7), backend="astra", weights="siddon", **FAN),
        ops.ParallelBeam(torch.stack([turn(3), turn(3, first=0.2)]), (5, 5), bins=8, backend="astra"),
    ):
        report = iv.testing.check_operator(A)
        assert report.passed and A.dtype == F32 and repr(A).endswith("astra, float32)")
        gap = next(p for p in report.properties if p.name == "adjoint")
        assert gap.value is not None and gap.value < 1e-6
    assert A([[[1.0] * 5] * 5] * 2).dtype == F32


def test_its_projectors_are_deleted():
    A = ops.ParallelBeam(turn(3), (4, 4), backend="astra")
    A(torch.ones(1, 4, 4))
    (made,) = A._made.values()
    number = made.projector
    assert astra.projector.volume_geometry(number)["GridRowCount"] == 4
    del A, made
    with pytest.raises(astra.log.AstraError if hasattr(astra.log, "AstraError") else Exception):
        astra.projector.volume_geometry(number)


def test_what_it_cannot():
    with pytest.raises(iv.errors.InputError, match="pixels that are not square.*got 'astra' with pixels of 1 x 2 mm"):
        ops.ParallelBeam([0.0], (4, 4), pixel_size=(1.0, 2.0), backend="astra")
    with pytest.raises(iv.errors.InputError, match="one that knows curved detectors"):
        ops.FanBeam([0.0], (4, 4), detector="curved", backend="astra", **FAN)
    with pytest.raises(iv.errors.InputError, match="'siddon' for backend='astra', which has no others of fans"):
        ops.FanBeam([0.0], (4, 4), backend="astra", **FAN)
    geometry = ops.ParallelBeam([0.0], (4, 4)).geometry.to("meta")
    with pytest.raises(iv.errors.InputError, match="'astra', which is run on the CPU here"):
        check_astra("ParallelBeam", geometry)


def test_where_it_is_not_installed(monkeypatch):
    original = builtins.__import__

    def without(name, *others):
        if name == "astra":
            raise ImportError(name)
        return original(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(iv.errors.UnsupportedError, match="needs astra-toolbox .GPLv3.: pip install astra-toolbox"):
        ops.ParallelBeam([0.0], (4, 4), backend="astra")
