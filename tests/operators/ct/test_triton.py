"""The kernels in Triton without a GPU: by its interpreter, and as far as its compiler goes. `tests/gpu` has the rest."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ct_phantoms import turn

import invsolve as iv
from invsolve.operators.ct import beam
from invsolve.operators.ct.backends import triton as asked

ops = iv.operators
SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def run(*command: str, **environment: str) -> str:
    paths = os.pathsep.join([str(SHARED), *filter(None, [os.environ.get("PYTHONPATH")])])
    there = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run([sys.executable, *command], env=there, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@needs_triton
@pytest.mark.slow
def test_by_the_interpreter():
    """It is chosen when Triton is imported, so in a process of its own."""
    assert run(str(SHARED / "joseph_checks.py"), TRITON_INTERPRET="1").split()[-1] == "done"


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from invsolve.operators.ct.backends import gather

def compiled(kernel, names, fixed):
    kinds = {n: "i32" for n in names.split()} | {n: "*fp32" for n in "x y lines angles".split() if n in names.split()}
    kinds |= {"steps": "*i32"} | {n: "fp32" for n in names.split() if "_" in n or n in ("height", "width", "offset")}
    kinds = {n: kinds[n] for n in names.split()} | {n: "constexpr" for n in fixed}
    made = triton.compile(ASTSource(kernel, signature=kinds, constexprs=fixed), target=GPUTarget("cuda", 90, 32))
    return len(made.asm["cubin"])

print(compiled(gather._forward, "x lines steps y rays H W images", {"RAYS": 16, "IMAGES": 32}))
names = "y lines steps angles x views bins H W images height width center_x center_y bin_size offset to_center"
for kind in range(3):
    fixed = {"BEAM": kind, "PIXELS": 16, "IMAGES": 32}
    print(compiled(gather._adjoint, names + " to_detector cos_tilt sin_tilt", fixed))
"""


@needs_triton
@pytest.mark.slow
def test_they_compile_for_an_h100(tmp_path):
    """To machine code, which needs no GPU."""
    sizes = [int(size) for size in run("-c", COMPILE, TRITON_CACHE_DIR=str(tmp_path), TRITON_INTERPRET="0").split()]
    assert len(sizes) == 4 and min(sizes) > 1000


def test_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if asked.triton_installed():
        with pytest.raises(
            iv.errors.UnsupportedError, match="needs a CUDA device, and the angles are on cpu. Use backend='auto'"
        ):
            ops.ParallelBeam(turn(3), (4, 4), backend="triton")
    with pytest.raises(iv.errors.InputError, match="'joseph' for backend='triton'"):
        ops.ParallelBeam(turn(3), (4, 4), weights="siddon", backend="triton")
    monkeypatch.setattr(asked.importlib.util, "find_spec", lambda name: None)
    assert not asked.triton_installed()
    with pytest.raises(iv.errors.UnsupportedError, match="needs the package triton, which torch for CUDA brings"):
        ops.ParallelBeam(turn(3), (4, 4), backend="triton")


def test_what_is_chosen_where(monkeypatch):
    """A matrix where it fits, on a CPU and on a GPU; else the kernels on a GPU that has Triton; else torch."""

    class On:
        def __init__(self, kind: str) -> None:
            self.device = type("Device", (), {"type": kind})

    A = ops.ParallelBeam(turn(3), (4, 4))
    for kind, largest, triton, expected in (
        ("cpu", 2**30, True, "matrix"), ("cpu", 0, True, "on the fly"), ("cuda", 2**30, True, "matrix"),
        ("cuda", 0, True, "triton"), ("cuda", 0, False, "on the fly"), ("xpu", 2**30, True, "on the fly"),
    ):  # fmt: skip
        B = ops.ParallelBeam(turn(3), (4, 4))
        assert B._bytes == A._bytes > 0
        monkeypatch.setattr(beam, "LARGEST", largest)
        monkeypatch.setattr(beam, "triton_installed", lambda triton=triton: triton)
        object.__setattr__(B, "angles", On(kind))
        assert B._way == expected


def test_torch_alone_imports_no_triton():
    """The kernels are imported where they are asked for."""
    code = (
        "import sys, torch, invsolve as iv; A = iv.operators.ParallelBeam([0.0, 1.0], (4, 4)); A(torch.ones(1, 4, 4)); "
        "print('invsolve.operators.ct.backends.gather' in sys.modules)"
    )
    assert run("-c", code).strip() == str(torch.cuda.is_available())
