"""The pair of kernels in Triton against the stored matrix: on a GPU, or run as a script by Triton's interpreter.

TRITON_INTERPRET=1 python tests/shared/joseph_checks.py
"""

from __future__ import annotations

from dataclasses import replace

import torch
from ct_phantoms import turn
from operator_cases import Numbers
from torch import Tensor

import invsolve as iv

ops = iv.operators
NEAR = {"source_to_center": 14.0, "source_to_detector": 20.0}
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-12}


def scans(size: int, views: int, device: str) -> dict[str, ops.LinearOperator]:
    """Every beam; bins far smaller and far larger than pixels, offsets, borders, rays that miss, one pixel."""

    def of(angles: Tensor) -> Tensor:
        return angles.to(device)

    grid, far = (size, size), {k: v * size / 9 for k, v in NEAR.items()}
    return {
        "parallel": ops.ParallelBeam(of(turn(views)), grid, backend="triton"),
        "parallel, small bins": ops.ParallelBeam(
            of(turn(3, first=0.1)),
            (size // 2, size - 3),
            bin_size=0.3,
            bins=50,
            pixel_size=(1.3, 0.7),
            backend="triton",
        ),
        "parallel, large bins": ops.ParallelBeam(
            of(turn(views, first=0.1)), grid, bin_size=2.6, detector_offset=0.3, center=(0.5, -0.2), backend="triton"
        ),
        "one pixel": ops.ParallelBeam(of(turn(3)), (1, 1), bins=5, bin_size=0.4, backend="triton"),
        "fan": ops.FanBeam(of(turn(views, 6.2)), grid, backend="triton", detector_tilt=0.15, **far),
        "fan, wide": ops.FanBeam(of(turn(3, 6.2)), (size, 3), bin_size=0.4, backend="triton", **far),
        "fan, curved": ops.FanBeam(of(turn(views, 6.2)), grid, detector="curved", backend="triton", **far),
    }


def agrees(A: ops.LinearOperator, rows: int, dtype: torch.dtype) -> None:
    """Both ways, with the matrix on the CPU."""
    B = replace(A.to("cpu") if A.device.type == "cpu" else replace(A, backend="auto").to("cpu"), backend="matrix")
    x, y = Numbers(0).randn(rows, *A.in_shape, dtype=dtype), Numbers(1).randn(rows, *A.out_shape, dtype=dtype)
    for found, expected in ((A(x.to(A.device)), B(x)), (A.adjoint(y.to(A.device)), B.adjoint(y))):
        assert found.dtype == dtype and found.device == A.device
        assert float((found.cpu() - expected).norm()) <= BOUNDS[dtype] * float(expected.norm())


def differentiable(device: str) -> None:
    """The custom operators: first and second derivatives of the pair, shapes without values, more axes by vmap."""
    from invsolve.operators.ct.backends.gather import Gather, joseph_adjoint, joseph_forward

    A = ops.FanBeam(turn(3, 6.2).to(device), (4, 3), backend="triton", detector_tilt=0.1, **NEAR)
    scan = Gather.of(A.geometry, torch.float64)._scan
    x, y = Numbers(0).randn(12, 2).to(device), Numbers(1).randn(3 * A.bins, 2).to(device)
    for operator, value in ((joseph_forward, x), (joseph_adjoint, y)):
        leaf = value.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda v, f=operator: f(v, *scan), leaf, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda v, f=operator: f(v, *scan), leaf, fast_mode=True)
        torch.library.opcheck(operator, (leaf, *scan), test_utils=("test_schema", "test_faketensor"))
        more = torch.stack([value, 2 * value, value - 1])
        together = torch.vmap(lambda v, f=operator: f(v, *scan))(more)
        assert torch.allclose(together, torch.stack([operator(v, *scan) for v in more]), atol=1e-13)
    # Matched: <A x, y> = <x, A^T y>, and through the operator, to the second derivative.
    image = A(x.mT.reshape(2, 4, 3).contiguous())
    gap = (image * y.mT.reshape(image.shape)).sum() - (x * joseph_adjoint(y, *scan)).sum()
    assert abs(float(gap)) < 1e-12 * float(image.norm() * y.norm())
    leaf = x.mT.reshape(2, 4, 3).clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: A(v).square(), leaf, fast_mode=True)


def main() -> None:
    made = scans(16, 8, "cpu")
    agrees(made["parallel"], 2, torch.float32)
    agrees(made["fan"], 2, torch.float32)
    for name, A in scans(7, 3, "cpu").items():
        agrees(A, 1 if "wide" in name else 33 if name == "one pixel" else 3, torch.float64)
    differentiable("cpu")
    A = ops.ParallelBeam(torch.stack([turn(2), turn(2, first=0.2)]), (3, 4), bins=5, kind="complex", backend="triton")
    assert iv.testing.check_operator(A).passed
    assert repr(A).endswith("weights on the fly by Triton)")
    print("done")


if __name__ == "__main__":
    main()
