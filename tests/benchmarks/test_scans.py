"""The simulated data of benchmarks/scans.py against a second formula."""

from __future__ import annotations

import math

import _heads_scans
import _scans_cases
import _scans_center
import pytest
import torch

import invsolve as iv

FINE, GRID = 32, 16


def test_spokes_are_the_integral_that_cartesian_scans_take(monkeypatch):
    """On the points of the grid, to the 1e-9 of the transform and the rounding of data and noise."""
    k = 2 * math.pi / GRID * (torch.arange(GRID, dtype=torch.float64) - GRID // 2)
    omega = torch.cartesian_prod(k, k)
    quiet = {"snr": 1e12, "seed": 3, "grid": (GRID, GRID)}
    monkeypatch.setattr(_heads_scans, "FINE", FINE)
    monkeypatch.setattr(_heads_scans, "GRID", GRID)
    monkeypatch.setattr(_heads_scans, "radial", lambda *_, **__: omega)
    monkeypatch.setattr(_heads_scans, "simulate_mri", lambda image, **_: iv.datasets.simulate_mri(image, **quiet))
    images = iv.datasets.heads.slices(1, (FINE, FINE), seed=3)
    data = _heads_scans.spokes(images, 1, seed=3).problem.data[0].view(-1, GRID, GRID)
    expected = iv.datasets.simulate_mri(images[0], acceleration=1.0, **quiet).kspace
    assert float((data - expected).norm()) < 1e-6 * float(expected.norm())


def test_the_noise_of_spokes_is_what_is_said():
    images = iv.datasets.heads.slices(1, (256, 256), seed=3)
    scans = _heads_scans.spokes(images, 24, seed=3)
    residual = torch.view_as_real(scans.problem.data - scans.problem.operator(scans.truth))
    far = residual.unflatten(-2, (24, 256))[..., [0, 1, 2, 253, 254, 255], :]  # where the object has next to nothing
    std = float(scans.problem.noise.std)
    assert float(far.std()) == pytest.approx(std, rel=4 / math.sqrt(2 * far.numel()) + 0.05)


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_a_detector_that_is_off_moves_the_data(offset):
    """Of a disk: the middle of every view is where the axis is seen, off by the detector's offset."""
    axis = torch.arange(_scans_cases.FINE, dtype=torch.float64) - (_scans_cases.FINE - 1) / 2
    disk = (axis[:, None] ** 2 + axis**2 < 60**2).float()[None]
    case = _scans_cases.ct(1000 * disk - 1000, _scans_cases.views(4), seed=0, offset=offset, assumed=0.0)
    bins = _scans_cases.EXTENT / _scans_cases.GRID * (torch.arange(_scans_cases.BINS) - (_scans_cases.BINS - 1) / 2)
    middle = (case.lines * bins).sum(-1) / case.lines.sum(-1)
    noise = _scans_cases.LINE * float(bins.norm()) / float(case.lines.sum(-1).mean())
    assert float((middle + offset).abs().max()) < 5 * noise
    assert _scans_center.offsets(20).abs().max() <= _scans_center.LARGEST
