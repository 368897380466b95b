"""Siddon's weights: the lengths of rays in pixels and voxels, against sorted crossings, astra, boxes and edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ct_phantoms import F64, FAN, turn
from ct_space import box_data, rays, space_scans
from operator_cases import Numbers

import invsolve as iv

ops = iv.operators
WHOLE = 2 * math.pi


def lengths(point: np.ndarray, direction: np.ndarray, shape: tuple[int, ...], size: tuple[float, ...]) -> np.ndarray:
    """Of one line in every cell of a grid about 0, ``(*shape)``: all crossings of planes between cells, sorted."""
    point, direction = point + np.array(shape) * size / 2, direction / np.linalg.norm(direction)
    found = [(np.arange(n + 1) * s - p) / d for n, s, p, d in zip(shape, size, point, direction, strict=True) if d]
    at = np.sort(np.concatenate(found))
    middle = point + (at[1:] + at[:-1])[:, None] / 2 * direction
    cell = np.floor(middle / size).astype(int)
    inside = ((cell >= 0) & (cell < shape)).all(1)
    out = np.zeros(shape)
    np.add.at(out, tuple(cell[inside].T), np.diff(at)[inside])
    return out


@pytest.mark.parametrize("name", list(space_scans(3)))
@pytest.mark.parametrize("backend", ["matrix", "on the fly"])
def test_lengths_in_voxels(name, backend):
    A = space_scans(6, "siddon")[name]
    object.__setattr__(A, "backend", backend)
    g, x = A.geometry, Numbers(0).signals(A, 1)
    point, direction = (v.flatten(0, 1) for v in rays(A))
    flipped = torch.tensor([1.0, -1.0, 1.0], dtype=F64)  # rows run against y
    point, direction = ((v * flipped).flip(-1).numpy() for v in (point, direction))
    y, image = A(x).flatten(), x[0].numpy()
    for ray in range(0, len(point), 41):
        expected = (lengths(point[ray], direction[ray], g.in_shape, g.voxel_size) * image).sum()
        assert float(y[ray]) == pytest.approx(expected, abs=1e-10)
    # Of all rays the lengths add up to those in the box.
    assert torch.allclose(A(torch.ones_like(x))[0], box_data(A), rtol=0, atol=1e-9)


PLANES = {
    "parallel": lambda b: ops.ParallelBeam(turn(7, first=0.05), (9, 8), bins=12, bin_size=0.83, pixel_size=(1.2, 0.9), weights="siddon", backend=b),
    "fan": lambda b: ops.FanBeam(turn(7, WHOLE, 0.05), (9, 8), bin_size=1.1, weights="siddon", backend=b, source_to_center=20.0, source_to_detector=30.0),
    "curved": lambda b: ops.FanBeam(turn(7, WHOLE, 0.05), (9, 9), detector="curved", weights="siddon", backend=b, source_to_center=20.0, source_to_detector=30.0),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("backend", ["matrix", "on the fly"])
def test_lengths_in_pixels(name, backend):
    A = PLANES[name](backend)
    assert iv.testing.check_operator(A).passed
    point, direction = A.geometry.rays(0, len(A.angles))
    point, direction = ((v.flatten(0, 1) * torch.tensor([1.0, -1.0])).flip(-1).numpy() for v in (point, direction))
    expected = np.stack([lengths(p, d, A.in_shape, A.pixel_size) for p, d in zip(point, direction, strict=True)])
    matrix = A(torch.eye(A.in_shape[0] * A.in_shape[1], dtype=F64).view(-1, *A.in_shape)).flatten(1).mT
    assert torch.allclose(matrix, torch.from_numpy(expected).flatten(1), rtol=0, atol=1e-12)


def test_a_ray_along_an_edge_counts_half_for_both():
    """Also where symmetry shares weights between rays on both sides."""
    for backend, size in (("matrix", 1.0), ("on the fly", 1.0), ("matrix", 0.3), ("on the fly", 0.3)):  # 0.3: rounded
        A = ops.ParallelBeam(turn(4, WHOLE), (4, 4), bins=5, pixel_size=size, weights="siddon", backend=backend)
        x = Numbers(0).randn(1, 4, 4)
        columns, rows = x[0].sum(0), x[0].sum(1).flip(0)
        for view, sums in enumerate((columns, rows, columns.flip(0), rows.flip(0))):
            middle = (sums[1:] + sums[:-1]) / 2
            expected = torch.cat([sums[:1] / 2, middle, sums[-1:] / 2])
            assert torch.allclose(A(x)[0, view], size * expected, rtol=0, atol=1e-12)
        diagonal = ops.ParallelBeam([math.pi / 4], (4, 4), bins=1, weights="siddon", backend=backend)
        assert float(diagonal(x)) == pytest.approx(math.sqrt(2) * float(x[0].trace()), abs=1e-12)
    up = torch.tensor([[0.0, 0.0, 1.0]])
    A = ops.VectorBeam(direction=[[0.0, 1.0, 0.0]], detector_center=0 * up, u=[[1.0, 0.0, 0.0]], v=up, in_shape=(2, 3, 2), bins=1, weights="siddon")  # fmt: skip
    x = Numbers(0).randn(1, 2, 3, 2)
    assert float(A(x)) == pytest.approx(float(x.sum()) / 4, abs=1e-12)  # along an edge of four


@pytest.mark.parametrize("beam", ["parallel", "fanflat", "parallel_vec", "fanflat_vec"])
def test_agrees_with_astra(beam):
    """Which has single precision: 1e-5 on positive random images; of white noise its drift, as of its `linear`."""
    astra = pytest.importorskip("astra")
    size, views, rng = 32, 24, np.random.default_rng(0)
    angles, grid = turn(views, WHOLE, 0.05), {"in_shape": (size, size), "weights": "siddon"}
    if beam == "parallel":
        A = ops.ParallelBeam(angles, bins=47, bin_size=0.8, **grid)
        scan = astra.create_proj_geom("parallel", 0.8, 47, angles.numpy())
    elif beam == "fanflat":
        A = ops.FanBeam(angles, bins=48, bin_size=1.7, **grid, **FAN)
        scan = astra.create_proj_geom("fanflat", 1.7, 48, angles.numpy(), 300.0, 200.0)
    else:
        a, small = angles.numpy(), rng.normal(size=(3, views, 2))
        ahead, along = np.stack([-np.sin(a), np.cos(a)], -1), np.stack([np.cos(a), np.sin(a)], -1)
        start = ahead + 0.1 * small[0] if beam == "parallel_vec" else -60 * ahead + 5 * small[0]
        center, u = 40 * ahead + small[1], 1.3 * along + 0.1 * small[2]
        name = "direction" if beam == "parallel_vec" else "source"
        A = ops.VectorBeam(**{name: start}, detector_center=center, u=u, bins=48, **grid)
        scan = astra.create_proj_geom(beam, 48, np.concatenate([start, center, u], 1))
    line = "line" if beam.startswith("parallel") else "line_fanflat"
    found = astra.projector.matrix(astra.create_projector(line, scan, astra.create_vol_geom(size, size)))
    matrix = astra.matrix.get(found)
    drift = size * size * torch.finfo(torch.float32).eps / 2
    for x, tolerance in ((Numbers(0).rand(1, size, size), 1e-5), (Numbers(0).randn(1, size, size), drift)):
        theirs = torch.from_numpy(matrix @ x.flatten().numpy()).view(A.out_shape)
        assert float((A(x)[0] - theirs).norm() / theirs.norm()) < tolerance


def test_other_weights_are_refused():
    with pytest.raises(iv.errors.InputError, match="`weights` must be one of"):
        ops.ParallelBeam([0.0], (4, 4), weights="area")
