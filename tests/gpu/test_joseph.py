"""The kernels of CT on a GPU: the weights of the stored matrix, the transpose, derivatives, what is chosen.

How many images a second they do, beside the roofline, is in the page that `benchmarks/gpu.py` writes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ct_phantoms import turn
from joseph_checks import agrees, differentiable, scans

import invsolve as iv
from invsolve.operators.ct import beam

ops = iv.operators
pytestmark = pytest.mark.gpu
NAMES = [
    "parallel", "parallel, small bins", "parallel, large bins", "one pixel", "fan", "fan, wide", "fan, curved"
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_agreement_with_the_cpu(name, dtype):
    agrees(scans(48, 30, "cuda")[name], 37, dtype)


def test_adjoint_and_double_backward():
    differentiable("cuda")
    A = ops.ParallelBeam(turn(40).cuda(), (64, 64), backend="triton")
    x, y = (torch.randn(5, *s, device="cuda", dtype=torch.float32) for s in (A.in_shape, A.out_shape))
    gap = float((A(x).double() * y.double()).sum() - (x.double() * A.adjoint(y).double()).sum())
    assert abs(gap) < 1e-5 * float(A(x).norm() * y.norm())
    assert torch.equal(A.adjoint(y), A.adjoint(y))  # sums have an order


def test_what_is_chosen_on_a_gpu(monkeypatch):
    A = ops.ParallelBeam(turn(12).cuda(), (20, 20))
    assert "stored matrix" in repr(A)
    monkeypatch.setattr(beam, "LARGEST", 0)
    B = replace(A)
    assert "by Triton" in repr(B)
    x = torch.randn(3, 20, 20, device="cuda", dtype=torch.float32)
    assert torch.allclose(A(x), B(x), atol=1e-4) and torch.allclose(
        A(x), replace(A, backend="on the fly")(x), atol=1e-4
    )
