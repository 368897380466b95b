"""Scans in space: against closed forms and scans in a plane, in every shape, by every back end, in pieces."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import F64, turn
from ct_space import NEAR, blob, blob_data, space_scans
from operator_cases import Numbers

import invsolve as iv
from invsolve.operators.ct.backends.crossings import crossings
from invsolve.operators.ct.backends.sampled import Sampled
from invsolve.operators.ct.backends.stored_rays import StoredRays

ops = iv.operators
PLACE = (7.0, -11.0, 5.0)
SMALL = {"source_to_center": 40.0, "source_to_detector": 70.0}
WHOLE = 2 * math.pi


# --- what is measured -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(space_scans(3)))
def test_line_integrals_of_a_smooth_blob_converge_quadratically(name):
    errors = []
    for size in (24, 48):
        A = space_scans(size)[name]
        exact = blob_data(A, PLACE, 14.0)
        errors.append(float((A(blob(A, PLACE, 14.0)[None])[0] - exact).norm() / exact.norm()))
    assert errors[1] < (max(A.geometry.voxel_size) / 14.0) ** 2 / 6  # interpolation along two axes, at most
    assert 1.8 < math.log2(errors[0] / errors[1]) < 2.2


@pytest.mark.parametrize("weights", ["joseph", "siddon"])
@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_the_middle_plane_of_a_cone_is_a_fan(weights, detector):
    common = {"detector": detector, "weights": weights, "backend": "on the fly", **SMALL}
    angles, x = turn(6, WHOLE, 0.1), Numbers(0).randn(2, 7, 8)
    fan = ops.FanBeam(angles, (7, 8), pixel_size=(1.1, 0.9), detector_offset=0.4, center=(0.3, -0.2), **common)
    cone = ops.ConeBeam(
        angles, (1, 7, 8), voxel_size=(1.0, 1.1, 0.9), detector_offset=(0.4, 0.0), center=(0.3, -0.2, 0.0), rows=1,
        **common,
    )  # fmt: skip
    assert cone.bins == fan.bins
    assert torch.allclose(cone(x[:, None])[:, :, 0], fan(x), rtol=0, atol=1e-12)
    both = {"detector": detector, "bins": fan.bins, "bin_size": fan.bin_size, **SMALL}
    # Two rows, half a bin above and below: the default height sees all of the volume.
    assert ops.ConeBeam(angles, (1, 7, 8), **both).rows >= 2


def test_vectors_give_every_other_scan():
    x, y = Numbers(0).randn(2, 6, 5), Numbers(1).randn(2, 3, 6, 5)
    for A in (ops.ParallelBeam(turn(5, first=0.2), (6, 5), pixel_size=(1.1, 0.8)), _fan("flat"), _fan("curved")):
        a = A.angles
        along, ahead = torch.stack([a.cos(), a.sin()], -1), torch.stack([-a.sin(), a.cos()], -1)
        at = {"direction": 3 * ahead, "detector_center": 0.0 * along}
        if isinstance(A, ops.FanBeam):
            at = {"source": -40.0 * ahead, "detector_center": 30.0 * ahead, "detector": A.detector}
        B = ops.VectorBeam(u=A.bin_size * along, in_shape=(6, 5), bins=A.bins, voxel_size=A.pixel_size, **at)
        assert B.out_shape == A.out_shape
        assert torch.allclose(B(x), A(x), rtol=0, atol=1e-11)
        assert torch.allclose(B.adjoint(A(x)), A.adjoint(A(x)), rtol=0, atol=1e-11)
    # Parallel rays along the slices: each slice by itself, in its row of the detector.
    A = ops.ParallelBeam(turn(5, first=0.2), (6, 5))
    pad = torch.nn.functional.pad
    up = torch.tensor([0.0, 0.0, 2.0], dtype=F64).expand(5, 3)
    B = ops.VectorBeam(
        direction=pad(torch.stack([-A.angles.sin(), A.angles.cos()], -1), (0, 1)),
        detector_center=0 * up,
        u=pad(torch.stack([A.angles.cos(), A.angles.sin()], -1), (0, 1)),
        v=up,
        in_shape=(3, 6, 5),
        rows=3,
        bins=A.bins,
        voxel_size=(2.0, 1.0, 1.0),
    )
    assert torch.allclose(B(y), A(y.flatten(0, 1)).view(2, 3, 5, -1).transpose(1, 2), rtol=0, atol=1e-11)
    # A cone, by the vectors that it says it has.
    for cone in space_scans(6).values():
        g = cone.geometry
        if isinstance(cone, ops.ConeBeam):
            kind = {"voxel_size": cone.voxel_size, "rows": g.rows, "bins": g.bins, "detector": cone.detector}
            vectors = {"source": g.source, "detector_center": g.detector_center, "u": g.u, "v": g.v}
            x = Numbers(2).signals(cone, 1)
            assert torch.allclose(
                ops.VectorBeam(in_shape=cone.in_shape, **vectors, **kind)(x), cone(x), rtol=0, atol=1e-9
            )


def _fan(detector: str) -> ops.FanBeam:
    return ops.FanBeam(turn(5, WHOLE, 0.2), (6, 5), pixel_size=(1.1, 0.8), detector=detector, **SMALL)


def cone(angles: list[float], **options: object) -> ops.ConeBeam:
    return ops.ConeBeam(angles, (4, 6, 6), **{"rows": 7, "bins": 8, "bin_size": 1.75, **SMALL, **options})


def test_axes_and_orientation():
    """At angle 0 the source is below an image, bins run to the right and rows along the slices."""
    x = torch.zeros(1, 4, 6, 6, dtype=F64)
    x[0, 3, 5, 4] = 1  # x = 1.5, y = -2.5, z = 1.5
    seen = cone([0.0], bins=201, rows=201, bin_size=0.1)(x)[0, 0]
    middle = (
        (seen * torch.arange(201)).sum(-1).sum() / seen.sum(),
        (seen.sum(-1) * torch.arange(201)).sum() / seen.sum(),
    )
    assert [float(v - 100) * 0.1 for v in middle] == pytest.approx([1.5 * 70 / 37.5] * 2, abs=0.02)
    for angle in (0.0, 0.7):
        A = cone([angle], tilt=0.3)
        expected = [40 * math.cos(0.3) * math.sin(angle), -40 * math.cos(0.3) * math.cos(angle), 40 * math.sin(0.3)]
        assert A.geometry.source[0].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("detector", ["flat", "curved"])
def test_offsets_pitch_and_roll_move_what_is_seen(detector):
    x, kind = Numbers(0).randn(1, 4, 6, 6), {"detector": detector}
    angles = [0.0, 0.4, 2.0]
    still = cone(angles, **kind)(x)
    moved = cone(angles, detector_offset=(1.75, -3.5), **kind)(x)
    assert torch.allclose(moved[..., 2:, :-1], still[..., :-2, 1:], rtol=0, atol=1e-12)
    # A turn later the source is one pitch higher.
    higher = cone([0.4], center=(0.2, 0.1, 1.3), **kind)(x)
    assert torch.allclose(
        cone([0.4 + WHOLE], center=(0.2, 0.1, 0.0), pitch=1.3 * WHOLE / (0.4 + WHOLE), **kind)(x), higher
    )
    if detector == "flat":  # a quarter of a turn: rows run upwards, and what was right is below
        turned = cone(angles, roll=math.pi / 2, rows=8, bins=7, **kind)(x)
        assert torch.allclose(turned, still.transpose(-1, -2).flip(-2), rtol=0, atol=1e-12)


# --- the contract, by shapes and back ends ----------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(5, 3, 4), (1, 1, 1), (1, 6, 5), (6, 1, 1)], ids=str)
@pytest.mark.parametrize("weights", ["joseph", "siddon"])
@pytest.mark.parametrize("backend", ["matrix", "on the fly"])
def test_contract_in_every_shape(shape, weights, backend):
    common = {"weights": weights, "backend": backend}
    whole, far = turn(3, WHOLE, 0.1), torch.tensor([[0.0, -30.0, 4.0], [20.0, 9.0, -3.0]])
    made = [
        ops.ConeBeam(whole, shape, **SMALL, **common),
        ops.ConeBeam(whole, shape, rows=3, bins=4, pitch=1.0, roll=0.2, tilt=0.3, kind="complex", **SMALL, **common),
        ops.VectorBeam(
            source=far,
            detector_center=-far,
            u=torch.tensor([[1.0, 0.1, 0.0], [-0.3, 1.0, 0.2]]),
            v=torch.tensor([[0.0, 0.2, 1.0], [0.1, 0.0, 1.1]]),
            in_shape=shape,
            rows=4,
            bins=3,
            voxel_size=(0.9, 1.1, 0.7),
            **common,
        ),
    ]
    for A in made:
        assert iv.testing.check_operator(A).passed
        rows, data = Numbers(1).signals(A, 5), Numbers(2).data(A, 5)
        assert torch.allclose(A(rows), torch.cat([A(row[None]) for row in rows]), rtol=0, atol=1e-12)
        other = A._replace({name: value.clone() for name, value in A._tensors().items()})
        object.__setattr__(other, "backend", "on the fly" if backend == "matrix" else "matrix")
        assert torch.allclose(other(rows), A(rows), rtol=0, atol=1e-12)
        assert torch.allclose(other.adjoint(data), A.adjoint(data), rtol=0, atol=1e-12)
        gap = (A(rows) * data.conj()).sum() - (rows * A.adjoint(data).conj()).sum()
        assert float(gap.abs()) < 1e-12 * float(A(rows).norm() * data.norm() + 1)
        assert (
            A(rows.to(torch.complex64 if A.kind == "complex" else torch.float32)).dtype.itemsize * 2
            == rows.dtype.itemsize
        )


def test_items_have_their_own_angles():
    angles = torch.stack([turn(4), turn(4, first=0.1)])
    A = ops.ConeBeam(angles, (3, 4, 5), rows=4, bins=6, **SMALL)
    x = Numbers(0).signals(A, 2)
    single = ops.ConeBeam(angles[1], (3, 4, 5), rows=4, bins=6, **SMALL)
    assert torch.allclose(A(x)[1:], single(x[1:]), rtol=0, atol=1e-13)
    assert torch.allclose(torch.vmap(A)(x.expand(3, -1, -1, -1, -1))[2], A(x), rtol=0, atol=1e-13)
    assert len(A._made) == 2
    rows = A.take(torch.tensor([1, 1, 0]))
    assert rows._made is A._made and torch.allclose(rows(x[[1, 1, 0]]), A(x)[[1, 1, 0]]) and len(A._made) == 2


# --- back ends --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weights", ["joseph", "siddon"])
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_what_does_not_fit_is_done_in_pieces(weights, dtype):
    """Slabs, blocks of detector rows and batches give what one piece gives: to rounding, in single precision 1e-6."""
    scan = {"rows": 6, "bins": 7, "weights": weights, "backend": "on the fly", "bin_size": 3.0}
    A = ops.ConeBeam(turn(2, WHOLE, 0.1), (5, 7, 8), roll=0.2, pitch=2.0, **scan, **SMALL)
    memory = 56 * 2 * dtype.itemsize * {"joseph": 12, "siddon": 40}[weights]  # of two slices of one volume
    B = ops.ConeBeam(turn(2, WHOLE, 0.1), (5, 7, 8), roll=0.2, pitch=2.0, memory=memory, **scan, **SMALL)
    x, y = (Numbers(0).rand(3, *shape).to(dtype) for shape in (A.in_shape, A.out_shape))
    (whole, parts) = (Sampled(views=v.geometry, weights=weights, memory=v.memory) for v in (A, B))
    assert len(list(whole._pieces(x))) == 1 and len(list(parts._pieces(x))) == 2 * 8  # two rows, a plane across W
    tolerance = 1e-13 if dtype == F64 else 1e-6
    for one, other in ((A(x), B(x)), (A.adjoint(y), B.adjoint(y))):
        assert float((one - other).norm()) < tolerance * float(one.norm())


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_rays_meet_planes_where_they_do_without_slabs(dtype):
    """To the bit, along every main axis: rounded anew, positions would change white noise by 1e-6 and more."""
    A = ops.ConeBeam(turn(5, WHOLE, 0.1), (31, 32, 33), roll=0.2, pitch=2.0, rows=9, bins=8, bin_size=3.0, **NEAR)
    tall = ops.VectorBeam(
        direction=[[0.2, 0.1, 1.0]],
        detector_center=[[0.0, 0.0, 0.0]],
        u=[[1.3, 0.0, 0.0]],
        v=[[0.0, 1.3, 0.0]],
        rows=9,
        bins=8,
        in_shape=(31, 32, 33),
    )
    every = [found for scan in (A, tall) for found in crossings(scan.geometry, 0, scan.geometry.lines)]
    assert {found.axis for found in every} == {0, 1, 2}
    for found in every:
        whole = found.places(dtype)
        for low, high in ((0, 11), (11, 22), (22, found.planes)):
            part = found.within(low, high)
            places = whole[low:high, torch.isin(found.ray, part.ray)]
            assert torch.equal(part.places(dtype), places)
            missed = whole[low:high, ~torch.isin(found.ray, part.ray)]
            sides = torch.tensor(found.sides)
            assert not bool(((missed > -1) & (missed < sides)).all(-1).any())


@pytest.mark.parametrize("weights", ["joseph", "siddon"])
def test_white_noise_is_the_same_in_slabs(weights):
    """In single precision 1e-6, of 32 voxels a side: what the order of sums changes."""
    scan = {"rows": 32, "bins": 32, "bin_size": 3.0, "weights": weights, "backend": "on the fly", **NEAR}
    A = ops.ConeBeam(turn(8, WHOLE, 0.1), (32, 32, 32), **scan)
    values = {"joseph": 12, "siddon": 40}[weights] * 4
    B = ops.ConeBeam(turn(8, WHOLE, 0.1), (32, 32, 32), memory=values * 32 * 32 * 7, **scan)
    x, y = (Numbers(0).randn(1, *shape, dtype=torch.float32) for shape in (A.in_shape, A.out_shape))
    for one, other in ((A(x), B(x)), (A.adjoint(y), B.adjoint(y))):
        assert 0 < float((one - other).norm()) < 1e-6 * float(one.norm())


def test_the_back_end_goes_by_bytes_and_is_said():
    small, large = cone(turn(12).tolist()), ops.ConeBeam(turn(90), (64, 64, 64), rows=96, bins=96, **NEAR)
    assert "stored matrix, 0 MiB" in repr(small) and "weights on the fly" in repr(large)
    x = Numbers(0).signals(small, 1)
    small(x), large(torch.zeros(0, 64, 64, 64))
    assert isinstance(*small._made.values(), StoredRays)
    assert small.dtype is None and small.to(dtype=torch.float32).angles.dtype == F64


@pytest.mark.slow
def test_a_volume_of_64_voxels_a_side_is_projected_by_a_matched_pair():
    """Which is the same to 1e-6 of a smooth volume and its data in two slabs; from its data FDK has the volume."""
    scan = {"rows": 96, "bins": 96, "voxel_size": 2.0, "bin_size": 3.2, **NEAR}
    A = ops.ConeBeam(turn(90, WHOLE), (64, 64, 64), **scan)
    B = ops.ConeBeam(turn(90, WHOLE), (64, 64, 64), memory=2**23, **scan)
    x, y = (Numbers(0).randn(1, *shape, dtype=torch.float32) for shape in (A.in_shape, A.out_shape))
    forward = A(x)
    gap = (forward.double() * y.double()).sum() - (x.double() * A.adjoint(y).double()).sum()
    assert abs(float(gap)) < 1e-6 * float(forward.norm() * y.norm())
    smooth = blob(A, PLACE, 14.0)[None].float()
    data = A(smooth)
    back = A.adjoint(data)
    assert float((B(smooth) - data).norm()) < 1e-6 * float(data.norm())
    assert float((B.adjoint(data) - back).norm()) < 1e-6 * float(back.norm())
    assert float((iv.baselines.fdk(A, data) - smooth).abs().max()) < 0.02


# --- what is refused --------------------------------------------------------------------------------------------------
FRONT = {
    "source": [[0.0, -30.0, 0.0]],
    "detector_center": [[0.0, 20.0, 0.0]],
    "u": [[1.0, 0.0, 0.0]],
    "v": [[0.0, 0.0, 1.0]],
    "bins": 4,
}


def vectors(**changes: object) -> ops.VectorBeam:
    return ops.VectorBeam(**{"in_shape": (4, 4, 4), **FRONT, **changes})


REFUSED = {
    "no angles": (lambda: cone([]), r"`angles` must be of shape \(views,\) or \(items, views\)"),
    "angles NaN": (lambda: cone([math.nan]), "`angles` must be finite"),
    "an image": (lambda: ops.ConeBeam([0.0], (4, 4), **SMALL), r"`in_shape` must be \(D, H, W\).*FanBeam"),
    "voxels": (lambda: cone([0.0], voxel_size=(1.0, 2.0)), "`voxel_size` must be a number, or 3 of them, got 2"),
    "voxel": (lambda: cone([0.0], voxel_size=-1.0), "`voxel_size` must be positive"),
    "bin": (lambda: cone([0.0], bin_size=(1.0, 0.0)), "`bin_size` must be positive"),
    "rows": (lambda: cone([0.0], rows=0), "`rows` must be at least 1"),
    "offset": (lambda: cone([0.0], detector_offset=1.0), r"`detector_offset` must be \(u, v\), got 1.0"),
    "center": (lambda: cone([0.0], center=(1.0, 2.0)), r"`center` must be \(x, y, z\)"),
    "tilt": (lambda: cone([0.0], tilt=math.inf), "`tilt` must be finite"),
    "helix": (lambda: cone([0.0], pitch=1.0, rows=None), "`rows` must be given where there is a pitch"),
    "detector": (lambda: cone([0.0], detector="arc"), "`detector` must be one of"),
    "weights": (lambda: cone([0.0], weights="area"), "`weights` must be one of"),
    "kind": (lambda: cone([0.0], kind="both"), "`kind` must be one of"),
    "backend": (lambda: cone([0.0], backend="cuda"), "`backend` must be one of"),
    "memory": (lambda: cone([0.0], memory=0), "`memory` must be at least 1"),
    "source inside": (lambda: cone([0.0], voxel_size=20.0), "`source_to_center` must be larger than 84.8528.*in mm"),
    "source above": (
        lambda: cone([0.0], tilt=1.3, source_to_center=17.0, voxel_size=(9.0, 1.0, 1.0)),
        "`source` must be outside of the volume, all of which lies ahead.* 1.14654 mm too far, in view 0",
    ),
    "wide arc": (lambda: cone([0.0], detector="curved", bins=200), "`bins` must be less than a quarter of a turn"),
    "four axes": (lambda: vectors(in_shape=(1, 2, 3, 4)), r"`in_shape` must be \(D, H, W\) or \(H, W\)"),
    "no source": (lambda: vectors(source=None), "`source` must be given, or `direction` of parallel rays, got neither"),
    "both": (lambda: vectors(direction=[[0.0, 1.0, 0.0]]), "`source` must be given, or `direction`.*got both"),
    "no v": (lambda: vectors(v=None), "`v` must be given for a volume"),
    "v in a plane": (lambda: vectors(in_shape=(4, 4)), "`v` must be None for an image, got one"),
    "rows in a plane": (lambda: vectors(in_shape=(4, 4), v=None, rows=2), "`rows` must be 1 for an image"),
    "vectors of a plane": (lambda: vectors(source=[[0.0, -30.0]]), r"`source` must be \(views, 3\) or \(items, views, 3\)"),
    "views": (lambda: vectors(u=[[1.0, 0.0, 0.0]] * 2), r"`u` must be of shape \(1, 3\), as the other vectors"),
    "NaN": (lambda: vectors(u=[[math.nan, 0.0, 0.0]]), "`u` must be finite"),
    "in the detector": (
        lambda: vectors(source=[[7.0, 20.0, 0.0]]),
        "`source` must be outside of the plane of u and v, got one inside, in view 0",
    ),
    "along the detector": (
        lambda: vectors(source=None, direction=[[1.0, 0.0, 0.0]]), "`direction` must be outside of the plane"
    ),
    "no direction": (lambda: vectors(source=None, direction=[[0.0, 0.0, 0.0]]), "`direction` must be outside of the plane"),
    "volume behind": (lambda: vectors(detector_center=[[0.0, -50.0, 0.0]]), "got one that is 32 mm too far, in view 0"),
    "a slanted arc": (
        lambda: vectors(detector="curved", u=[[1.0, 0.1, 0.0]]), "`u` must be perpendicular to v and to the ray"
    ),
    "a parallel arc": (
        lambda: vectors(detector="curved", source=None, direction=[[0.0, 1.0, 0.0]]),
        "`detector` must be flat for parallel rays",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        make()
