"""The scores of benchmarks/learned_mri.py against simulations."""

from __future__ import annotations

import math
from dataclasses import fields
from types import SimpleNamespace

import torch
from _tables import read
from learned_mri import Row, psnrs, psnrs_of_many

SCANS, SIDE, STD = 50, 32, 0.03


def normal(*shape: int, seed: int) -> torch.Tensor:
    return STD * torch.randn(*shape, SIDE, SIDE, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def scans(truth: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(truth=truth, peak=torch.ones(len(truth)))


def test_psnr_of_the_mean_of_many_is_known_from_few():
    turned = torch.polar(torch.ones(SCANS, SIDE, SIDE), torch.linspace(0, 6, SIDE).expand(SCANS, SIDE, SIDE))
    truth = scans(turned + normal(SCANS, seed=1))
    samples = turned + normal(4, SCANS, seed=2)
    gap = psnrs_of_many(truth, samples) - psnrs(truth, turned)
    # Second order in std over magnitude: 10 / ln 10 * std^2 / 2 at most a few thousandths of a dB.
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(SCANS) + 0.005
    few = psnrs(truth, samples.mean(0)) - psnrs(truth, turned)
    assert float(few.mean()) < -0.8  # what it puts right: 10 log10(1 + 1/4)


def test_of_air_half_of_the_variance_stays_in():
    """The magnitude of a complex mean of variance 2 s^2/n in all: E|m|^2 is that, what lies along its phase is half."""
    truth = scans(torch.zeros(SCANS, SIDE, SIDE, dtype=torch.complex64))
    found = psnrs_of_many(truth, normal(64, SCANS, seed=3))
    expected = -10 * math.log10(STD**2 / 2 / 64)  # torch's complex normal: STD^2 in both parts together
    assert abs(float(found.mean()) - expected) < 5 * float(found.std()) / math.sqrt(SCANS) + 0.1


def test_nothing_left_is_no_figure():
    truth = scans(torch.ones(1, SIDE, SIDE, dtype=torch.complex64))
    assert bool(psnrs_of_many(truth, torch.stack([truth.truth + 0.1, truth.truth - 0.1])).isnan().all())
    assert bool(psnrs_of_many(truth, truth.truth[None]).isnan().all())


def test_tables_of_fewer_columns_are_read(tmp_path):
    names = [f.name for f in fields(Row) if not f.name.startswith("limit")]
    values = {"objects": "phantoms", "method": "TV", "scans": "2", "samples": "0"}
    table = [",".join(names), ",".join(values.get(name, "1.5") for name in names)]
    (tmp_path / "t.csv").write_text("\n".join(table))
    (row,) = read(tmp_path / "t.csv", Row)
    assert math.isnan(row.limit) and (row.scans, row.psnr, row.method) == (2, 1.5, "TV")
    assert read(tmp_path / "none.csv", Row) == []
