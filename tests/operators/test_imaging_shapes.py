"""Imaging operators in shapes that are odd and 1 along an axis, of 1 item and of 5, in both precisions."""

from __future__ import annotations

import pytest
import torch
from operator_cases import COMPLEX, F64, Numbers

import invsolve as iv

ops = iv.operators
SHAPES = ((1, 1), (1, 4), (5, 1), (5, 7))


def cases(shape: tuple[int, int], draw: Numbers) -> dict[str, iv.operators.Operator]:
    H, W = shape
    kernel = draw.randn(2, min(3, H), min(2, W))
    probe = draw.randn(1, min(2, H), min(3, W), dtype=COMPLEX)
    last = torch.tensor([[0, 0], [H - probe.shape[-2], W - probe.shape[-1]]])
    found: dict[str, iv.operators.Operator] = {
        "soft sense": ops.SoftSense(draw.mask(*shape), (2, *shape), maps=draw.randn(2, 3, *shape, dtype=COMPLEX)),
        "frames": ops.Frames(ops.MRI(draw.mask(2, *shape), shape, maps=draw.randn(3, *shape, dtype=COMPLEX))),
        "super-resolution": ops.SuperResolution(kernel[0], (1 if H % 2 else 2, 1 if W % 2 else 2), shape),
        "mosaic": ops.Mosaic((3, *shape)),
        "ptychography": ops.Ptychography(probe[0], last, shape),
        "intensity": ops.PhaseRetrieval(ops.Ptychography(probe[0], last, shape), measure="intensity"),
        "visibilities": ops.Visibilities(30 * draw.randn(4, 2), shape, pixel_size=0.01),
        "cosine": ops.StructuredRandom.draw(shape, max(1, H * W // 2), transform="cosine", dtype=F64),
        "fourier": ops.StructuredRandom.draw(shape, max(1, H * W // 2), transform="fourier", dtype=F64),
    }
    for boundary in ("periodic", "zero", "reflect", "valid"):
        found[f"varying blur, {boundary}"] = ops.VaryingBlur(kernel, draw.randn(2, *shape), boundary=boundary)
    for items in (1, 5):
        maps = draw.randn(items, 2, 3, *shape, dtype=COMPLEX)
        found |= {
            f"soft sense, {items}": ops.SoftSense(draw.mask(items, *shape), (2, *shape), maps=maps),
            f"super-resolution, {items}": ops.SuperResolution(kernel[:1].expand(items, -1, -1), 1, shape),
            f"ptychography, {items}": ops.Ptychography(probe.expand(items, -1, -1), last, shape, in_kind="real"),
            f"visibilities, {items}": ops.Visibilities(draw.randn(items, 3, 2), shape, pixel_size=0.1),
        }
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_contract_in_every_shape(shape):
    for name, A in cases(shape, Numbers(1)).items():
        for B in (A, A.to(dtype=torch.float32)):
            report = iv.testing.check_operator(B, throw=False)
            assert report.passed, (name, str(report))
