"""Every script of examples/ runs in a process of its own, with warnings as errors, and passes its own asserts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(path: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # One thread: where other programs run, a second one waits more than it works.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(path), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_examples_are_there():
    assert {"deblur_photo", "inpaint_field_xarray", "mri_slice", "darcy", "heat", "permeability", "spectrum"} <= {
        path.stem for path in EXAMPLES
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    """It writes what ``--out`` asks for and nothing else."""
    out = tmp_path / ("out.nc" if "xarray" in path.stem else "out.png")
    done = run(path, "--out", out.name, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Result(" in done.stdout
    assert list(tmp_path.iterdir()) == [out]
    start = out.read_bytes()[:8]
    assert start == (b"\x89HDF\r\n\x1a\n" if out.suffix == ".nc" else b"\x89PNG\r\n\x1a\n")


def test_an_example_whose_claim_is_wrong_fails(tmp_path):
    """The test of the test: an assert that does not hold is an exit code."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("assert 1 + 1 == 3, 'arithmetic'\n")
    assert run(wrong, folder=tmp_path).returncode == 1
