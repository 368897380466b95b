"""The exact denoiser of a Gaussian prior, as peers see a network: float32, differentiable, with its calls counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from _problems import Case
from torch import Tensor


@dataclass
class Calls:
    """Rows that went through the network forwards, and through its vector-Jacobian product."""

    forward: int = 0
    vjp: int = 0


class _Counted(torch.autograd.Function):
    """``x - mean``; its backward pass is counted, so every pass of the network's vjp is."""

    @staticmethod
    def forward(x: Tensor, mean: Tensor, calls: Calls) -> Tensor:
        return x - mean

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.calls = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        ctx.calls.vjp += len(grad)
        return grad, None, None


class Network(torch.nn.Module):
    """``D(x, sigma) = m + Q l / (l + sigma^2) Q^T (x - m)`` on ``x`` ``(rows, size)``, ``sigma`` 0-d or ``(rows,)``."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        values, vectors = torch.linalg.eigh(case.covariance)
        self.parts, self.calls = case.parts, Calls()
        self.register_buffer("mean", case.prior_mean.float())
        self.register_buffer("values", values.clamp_min(0).float())
        self.register_buffer("vectors", vectors.float())

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls.forward += len(x)
        centred = _Counted.apply(x, self.mean, self.calls).view(len(x), self.parts, -1)
        variance = sigma.to(x.dtype).square()
        gain = self.values / (self.values + (variance.view(-1, 1, 1) if variance.ndim else variance))
        return self.mean + ((centred @ self.vectors * gain) @ self.vectors.mT).flatten(1)
