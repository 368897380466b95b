"""What the U-Nets of EDM and of ADM have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LONGEST = 10_000.0  # period of the slowest wave of an embedding, over 2 pi (Vaswani et al. 2017, arXiv 1706.03762)


def waves(time: Tensor, width: int, *, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``(batch, width // 2)`` of a time ``(batch,)`` at frequencies from 1 down to 1 / 10000.

    ``shift``: 1 if the lowest frequency is 1 / 10000 itself, 0 if it is one step above. Angles are taken in the time's
    precision: the times of 1000 steps then have five digits after the point in float32.
    """
    half = width // 2
    index = torch.arange(half, dtype=torch.float64, device=time.device)
    frequencies = (-math.log(LONGEST) / (half - shift) * index).exp().to(time.dtype)
    angle = time[:, None] * frequencies
    return angle.cos(), angle.sin()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of ``(batch, heads, channels, pixels)``, to the same."""
    out = functional.scaled_dot_product_attention(q.mT.contiguous(), k.mT.contiguous(), v.mT.contiguous())
    return out.mT
