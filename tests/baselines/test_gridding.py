"""Gridding: the scale of a smooth phantom, coils, items, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.operators.mri import kooshball, pipe_menon, radial, radial_density, spiral

ops = iv.operators
COMPLEX = torch.complex128


def blob(shape: tuple[int, ...]) -> Tensor:
    """A Gaussian beside the middle, well inside of the image and of k-space."""
    out = torch.ones((), dtype=COMPLEX)
    for i, n in enumerate(shape):
        at = torch.arange(n, dtype=torch.float64) - n // 2 - (1 if i else -2)
        out = out[..., None] * torch.exp(-(at.square()) / (2 * (n / 9) ** 2))
    return out[None]


CASES = {
    "ramp": (lambda: radial(60, 64), lambda t: radial_density(t, 60), (32, 32)),
    "golden angle": (lambda: radial(75, 65, angles="golden"), lambda t: radial_density(t, 75), (32, 31)),
    "in space": (lambda: kooshball(500, 24), lambda t: radial_density(t, 500), (12, 12, 12)),
    "fixed point": (lambda: radial(60, 64), lambda t: None, (32, 32)),
    "a spiral": (lambda: spiral(12, 900, turns=2), lambda t: None, (32, 32)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_smooth_phantom_comes_back_at_its_scale(name):
    """The projection onto the phantom is 1 within 1 %, and nothing is moved: data are those of the exact sum."""
    make, density, shape = CASES[name]
    A = ops.NonCartesianMRI(make(), shape, tol=1e-7)
    x = blob(shape)
    found = iv.baselines.gridding(A, A(x), density=density(A.omega))
    scale = torch.linalg.vecdot(x.flatten(), found.flatten()) / x.norm() ** 2
    assert abs(complex(scale) - 1) < 0.01 and float((found - x).norm() / x.norm()) < 0.03


def test_coils_are_combined_and_items_kept_apart():
    paths = torch.stack([radial(60, 64), radial(60, 64, first=0.02)])
    maps = torch.randn(3, 1, 1, dtype=COMPLEX, generator=torch.Generator().manual_seed(0)).expand(3, 32, 32).clone()
    maps[:, :2] = 0
    A = ops.NonCartesianMRI(paths, (32, 32), maps=maps)
    x = blob((32, 32)).repeat(2, 1, 1)
    x[:, :2] = 0
    for density in (None, pipe_menon(A), pipe_menon(A)[0]):
        found = iv.baselines.gridding(A, A(x), density=density)
        assert float((found - x).norm() / x.norm()) < 0.03 and bool((found[:, :2] == 0).all())


A = ops.NonCartesianMRI(radial(3, 8), (4, 4))
Y = torch.ones(1, 24, dtype=torch.complex64)
REFUSED = {
    "operator": (lambda: iv.baselines.gridding(ops.Identity((4,)), Y), "must be an iv.operators.NonCartesianMRI"),
    "data": (lambda: iv.baselines.gridding(A, Y[:, :5]), r"`y` must be of shape \(batch, 24\)"),
    "shape": (lambda: iv.baselines.gridding(A, Y, density=torch.ones(5)), r"`density` must be of shape \(24,\)"),
    "negative": (lambda: iv.baselines.gridding(A, Y, density=-torch.ones(24)), "`density` must be non-negative"),
    "NaN": (lambda: iv.baselines.gridding(A, Y, density=torch.full((24,), math.nan)), "`density` must be finite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        make()
