"""Matrices of scans that are kept on the disk: the same numbers, found by the geometry, never trusted."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import FAN, turn
from operator_cases import Numbers

import invsolve as iv
from invsolve.core import cache
from invsolve.core.cache import Kept
from invsolve.operators.ct.backends import matrix

ops = iv.operators


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The scans whose weights were made, not read."""
    monkeypatch.setenv("INVSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(Kept, "written", 0)
    monkeypatch.setattr(matrix, "_KEPT", 1)
    count: list[int] = []
    original = matrix._made

    def counted(lines, *others):
        count.append(len(lines.start))
        return original(lines, *others)

    monkeypatch.setattr(matrix, "_made", counted)
    return count


def scan(angle: float = 0.0, **more: object) -> ops.ParallelBeam:
    return ops.ParallelBeam(2.399 * torch.arange(12) + angle, (9, 8), bins=13, **more)


def test_what_is_read_is_what_was_made(made, tmp_path):
    for make in (
        scan,
        lambda: ops.FanBeam(turn(8, 2 * math.pi), (8, 8), **FAN),
        lambda: ops.ParallelBeam(turn(12), (8, 8)),
    ):
        A, B = make(), make()
        x, y = Numbers(0).signals(A, 2), Numbers(1).data(A, 2)
        before = len(made)
        first = A(x), A.adjoint(y)
        assert len(made) == before + 1
        assert torch.equal(B(x), first[0]) and torch.equal(B.adjoint(y), first[1])  # to the bit
        assert len(made) == before + 1
    assert len(list(tmp_path.iterdir())) == 3


def test_another_geometry_is_another_file(made):
    y = torch.ones(1, 12, 13, dtype=torch.float64)
    others = [
        scan(), scan(1e-9), scan(pixel_size=1.1), scan(bin_size=1.1), scan(detector_offset=0.1), scan(center=(0.1, 0.0)),
    ]  # fmt: skip
    for A in others:
        A.adjoint(y)
    assert len(made) == len(others)
    scan().adjoint(y.float())  # other weights
    assert len(made) == len(others) + 1
    scan().to("cpu").adjoint(y)
    assert len(made) == len(others) + 1


@pytest.mark.parametrize("what", ["column", "values", "back_row", "back_column", "back_values"])
@pytest.mark.parametrize("how", ["beyond", "below", "other"])
def test_a_file_with_a_right_check_sum_and_wrong_contents(made, what, how):
    """Indices that lead out of memory, weights of another scan, a transpose of another matrix: made anew."""
    x = Numbers(0).randn(1, 9, 8)
    y = Numbers(1).randn(1, 12, 13)
    expected = scan()(x), scan().adjoint(y)
    (path,) = cache.folder().iterdir()
    found = _contents(path)
    value = found[what]
    if how == "other":
        value[:] = value.roll(1)
    else:
        value[len(value) // 2] = {"beyond": 10**6, "below": -(10**6)}[how]
    Kept(kind="ct", key=path.stem.removeprefix("ct-")).write(found)
    before = len(made)
    A = scan()
    assert torch.equal(A(x), expected[0]) and torch.equal(A.adjoint(y), expected[1])
    assert len(made) == before + 1


def _contents(path):
    from safetensors.torch import load_file

    found = load_file(path)
    del found["check"]
    return found


def test_small_matrices_and_switched_off(made, tmp_path, monkeypatch):
    x = Numbers(0).randn(1, 9, 8)
    monkeypatch.setenv("INVSOLVE_CACHE", "off")
    scan()(x), scan()(x)
    assert len(made) == 2 and not list(tmp_path.iterdir())
    monkeypatch.setenv("INVSOLVE_CACHE", str(tmp_path))
    monkeypatch.setattr(matrix, "_KEPT", 10**6)
    scan()(x)
    assert len(made) == 3 and not list(tmp_path.iterdir())
