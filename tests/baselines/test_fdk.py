"""Feldkamp's reconstruction: scale, centre, the middle plane, short scans, pieces."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import turn
from ct_space import blob, blob_data, distance, ellipsoid_data, places
from operator_cases import Numbers

import invsolve as iv
from invsolve.baselines import fbp, fdk

ops = iv.operators
WHOLE = 2 * math.pi
SIZE, PLACE, RADII = 48, (7.0, -11.0, 5.0), (40.0, 32.0, 26.0)
FAR = {"source_to_center": 500.0, "source_to_detector": 700.0, "bin_size": 3.6}


def scan(angles: torch.Tensor | None = None, **options: object) -> ops.ConeBeam:
    angles = turn(80, WHOLE) if angles is None else angles
    return ops.ConeBeam(angles, (SIZE, SIZE, SIZE), **{"voxel_size": 128 / SIZE, **FAR, **options})


SCANS = {
    "flat": lambda: scan(),
    "curved": lambda: scan(detector="curved"),
    "offset and off centre": lambda: scan(
        detector_offset=(1.3, 7.0), center=(2.0, -1.0, 1.0), rows=80, bins=84, bin_size=(3.9, 3.4)
    ),
    "thick slices": lambda: ops.ConeBeam(turn(80, WHOLE), (32, SIZE, SIZE + 1), voxel_size=(4.0, 2.7, 2.6), **FAR),
}


@pytest.mark.parametrize("name", SCANS)
def test_fdk_has_the_right_scale_and_centre(name):
    """Of exact line integrals of an ellipsoid and of a blob: the mean within 1 %, the centre within 0.01 voxels."""
    A = SCANS[name]()
    volume = fdk(A, torch.stack([ellipsoid_data(A, PLACE, RADII), blob_data(A, PLACE, 10.0)]))
    away = [p - c for p, c in zip(places(A), PLACE, strict=True)]
    inside = sum((a / r).square() for a, r in zip(away, RADII, strict=True)) < 0.6
    assert abs(float(volume[0][inside].mean()) - 1) < 0.01
    near = distance(A, PLACE) < 30
    for a, size in zip(away, A.geometry.voxel_size[::-1], strict=True):
        assert abs(float((volume[1] * near * a).sum() / (volume[1] * near).sum())) < 0.01 * size
    assert float((volume[1] - blob(A, PLACE, 10.0))[near].abs().max()) < 0.03


@pytest.mark.parametrize("arc", [WHOLE, 1.3 * math.pi], ids=["whole", "short"])
@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_the_middle_plane_is_that_of_a_fan(arc, detector):
    """A short scan too: its rays count by the weights of the fan."""
    common = {"detector": detector, "bins": 30, "detector_offset": 0.7, **FAR}
    fan = ops.FanBeam(turn(40, arc, 0.3), (20, 21), pixel_size=(3.0, 2.5), center=(1.0, 2.0), **common)
    y = Numbers(0).data(fan, 2)
    common["detector_offset"] = (0.7, 0.0)
    A = ops.ConeBeam(fan.angles, (3, 20, 21), voxel_size=(2.0, 3.0, 2.5), center=(1.0, 2.0, 0.0), rows=5, **common)
    data = Numbers(1).data(A, 2)
    data[:, :, 2] = y
    assert torch.allclose(fdk(A, data)[:, 1], fbp(fan, y), rtol=0, atol=1e-11)
    assert torch.allclose(fdk(A, data, window="hann")[:, 1], fbp(fan, y, window="hann"), rtol=0, atol=1e-11)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_what_does_not_change_along_z_is_reconstructed_like_a_fan_in_every_slice(detector):
    """Rays that run upwards see more of it, by one over the cosine of their slope: wide cones too."""
    near = {"source_to_center": 90.0, "source_to_detector": 140.0, "bin_size": 2.0, "detector": detector}
    fan = ops.FanBeam(turn(30, WHOLE), (12, 12), pixel_size=2.0, bins=31, **near)
    A = ops.ConeBeam(
        fan.angles, (9, 12, 12), voxel_size=2.0, bins=31, rows=60, center=(0.0, 0.0, 4.0), detector_offset=(0.0, -9.0),
        **near,
    )  # fmt: skip
    y = Numbers(0).data(fan, 1)
    _, direction = A.geometry.rays(0, A.geometry.lines)
    steeper = 1 / direction[..., :2].norm(dim=-1).view(A.out_shape)
    assert float(steeper.max()) > 1.05
    assert torch.allclose(
        fdk(A, y[:, :, None] * steeper), fbp(fan, y)[:, None].expand(-1, 9, -1, -1), rtol=0, atol=1e-10
    )


def test_slabs_order_of_views_and_complex_data_change_nothing():
    small = {"voxel_size": 3.0, "rows": 8, "bins": 10, **FAR}
    A = ops.ConeBeam(turn(20, WHOLE), (6, 7, 5), **small)
    y = Numbers(0).data(A, 2)
    volume = fdk(A, y)
    assert torch.allclose(fdk(ops.ConeBeam(A.angles, A.in_shape, memory=2**13, **small), y), volume, rtol=0, atol=1e-13)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = ops.ConeBeam(A.angles[order], A.in_shape, **small)
    assert torch.allclose(fdk(shuffled, y[:, order]), volume, rtol=0, atol=1e-13)
    both = ops.ConeBeam(A.angles, A.in_shape, kind="complex", **small)
    assert torch.allclose(fdk(both, torch.complex(y, -2 * y)), torch.complex(volume, -2 * volume), rtol=0, atol=1e-13)
    assert fdk(A, y.float()).dtype == torch.float32
    assert float((fdk(A, y.float()) - volume).abs().max()) < 1e-5 * float(volume.abs().max())


def test_what_fdk_refuses():
    small = {"rows": 4, "bins": 5, **FAR}
    A = ops.ConeBeam(turn(20, WHOLE), (4, 4, 4), **small)
    y = torch.ones(1, 20, 4, 5)
    with pytest.raises(iv.errors.InputTypeError, match="`A` must be an iv.operators.ConeBeam"):
        fdk(ops.Matrix(torch.ones(2, 2)), torch.ones(1, 2))
    with pytest.raises(iv.errors.InputError, match="of one set of angles, got 2 items"):
        fdk(ops.ConeBeam(turn(40).view(2, 20), (4, 4, 4), **small), y.expand(2, -1, -1, -1))
    with pytest.raises(iv.errors.InputError, match=r"a circle without pitch, tilt and roll, got pitch 3, roll 0.1"):
        fdk(ops.ConeBeam(A.angles, A.in_shape, pitch=3.0, roll=0.1, **small), y)
    with pytest.raises(iv.errors.InputError, match=r"over a whole turn, or 1\d\d.\d degrees at least"):
        fdk(ops.ConeBeam(turn(20, 1.5), A.in_shape, **small), y)
    with pytest.raises(iv.errors.InputError, match="`window` must be one of"):
        fdk(A, y, window="box")
