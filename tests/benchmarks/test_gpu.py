"""`make gpu` in order: the script on a CPU with toy sizes, and what it does without a GPU or without time."""

from __future__ import annotations

import csv
import math

import gpu
import pytest
import torch


@pytest.mark.slow
def test_the_script_runs_to_the_end_on_a_cpu(tmp_path):
    assert gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "gpu.csv").read_text().splitlines()))
    assert {r["what"] for r in rows} == {
        "MRI normal", "CT normal, matrix", "blur", "mask", "network, value", "network, value and vjp", "demo, samples",
        "peak: copy, GB/s", "peak: product, TFLOP/s",
    }  # fmt: skip
    assert all(float(r["rate"]) > 0 for r in rows)
    assert {int(r["batch"]) for r in rows} == set(gpu.QUICK.batches)
    page = (tmp_path / "gpu.md").read_text()
    assert f"torch {torch.__version__}" in page and page.count("\n| ") >= len(rows)


def test_without_a_gpu_it_says_so_and_leaves_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "gpu.md").write_text("before")
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "no CUDA device" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["gpu.md"] and (tmp_path / "gpu.md").read_text() == "before"


def test_what_there_was_no_time_for_is_in_the_table(monkeypatch):
    cpu, clock = torch.device("cpu"), gpu.Clock(0.0, now=iter([0.0, *[1.0] * 1000]).__next__)
    rows = gpu.measured(cpu, "a device", gpu.QUICK, (1,), clock)
    assert all(math.isnan(r.rate) for r in rows if not r.what.startswith("peak"))
    assert gpu.table(rows).count(gpu.NOT_RUN) == 7


def test_the_roofline_is_the_slower_of_both():
    peaks = gpu.Peaks(bandwidth=100.0, flops=1000.0)
    assert peaks.rate(50.0, 100.0) == pytest.approx(2.0)  # half a second of traffic
    assert peaks.rate(5.0, 2000.0) == pytest.approx(0.5)  # two seconds of arithmetic
