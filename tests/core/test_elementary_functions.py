"""`import invsolve` makes the first call of torch's elementary functions on one thread."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# torch 2.14.1 carries these of MKL's vector functions (vms*, vmd*), and no others.
VECTOR = "acos asin atan cos erf erfc erfinv exp log log10 log2 sin sqrt tan tanh trunc".split()

SEEN = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode

class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            print(function.overloadpacket.__name__, out.dtype, out.numel(), out.device)
        return out

with Seen(), torch.device("meta"):
    import invsolve
"""


@pytest.mark.slow
def test_every_function_is_called_in_both_precisions_before_any_is_large_enough_for_threads():
    """The race itself shows on some processors only, in a few of a hundred processes: what prevents it is tested."""
    done = subprocess.run([sys.executable, "-c", SEEN], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first: dict[tuple[str, str, str], int] = {}
    for name, dtype, entries, device in (line.split() for line in done.stdout.splitlines()):
        first.setdefault((name, dtype, device), int(entries))
    for name in VECTOR:
        for dtype in ("torch.float32", "torch.float64"):
            assert 1 < first[name, dtype, "cpu"] < 2048, (name, dtype)  # whatever the default device
