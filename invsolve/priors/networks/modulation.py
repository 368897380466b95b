"""``silu(gain * x / rms(x) + shift)``: what stands before every convolution of a `UNet`, in few passes over memory.

On a CPU half of the time of a small network goes into reading and writing what lies between its convolutions. Written
in one expression the modulation makes six tensors and saves most of them for its derivative. Here it works in place,
and keeps besides its input one tensor, with which a product with its Jacobian takes three passes.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

FLOOR = 1e-2  # added to the mean square: channels that are all zero stay so


def inverse_rms(x: Tensor) -> Tensor:
    """``(mean over channels of x^2 + 0.01)^(-1/2)`` ``(batch, 1, H, W)`` of ``x`` ``(batch, channels, H, W)``."""
    return (x.square().mean(1, keepdim=True) + FLOOR).rsqrt()


def modulated(x: Tensor, gain: Tensor, shift: Tensor, *, spare: bool = False) -> Tensor:
    """``silu(gain * x * inverse_rms(x) + shift)``, channels of every pixel by themselves.

    ``x`` is (batch, channels, H, W), ``gain`` and ``shift`` (channels, 1, 1) or (batch, channels, 1, 1). ``spare``: the
    caller needs ``x`` no more, and its memory may hold the answer.
    """
    graph = torch.is_grad_enabled()
    trained = graph and (gain.requires_grad or shift.requires_grad)
    if trained or traced() or not x.dtype == gain.dtype == shift.dtype:
        return _plain(x, gain, shift)
    if graph and x.requires_grad:
        out: Tensor = _Modulated.apply(x, gain, shift)
        return out
    size = _inverse_rms(x)
    u = _affine(x.mul_(size) if spare else x * size, gain, shift)
    return u.mul_(torch.sigmoid(u))  # not `silu`, whose last bit differs: with a derivative the value is the same


def traced() -> bool:
    """Whether torch compiles, or transforms what it runs (`torch.func`, forward mode): for that, plain expressions."""
    transformed = torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0
    return torch.compiler.is_compiling() or transformed


def _plain(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return functional.silu(x * inverse_rms(x) * gain + shift)


def _inverse_rms(x: Tensor) -> Tensor:
    """`inverse_rms` in one pass, without a graph."""
    square: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_()
    return square.div_(x.shape[1]).add_(FLOOR).rsqrt_()


def _affine(h: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, h, gain, out=h)


@final
class _Modulated(torch.autograd.Function):
    """`modulated` with its derivative.

    With s the inverse rms, u = gain s x + shift and k = silu'(u) gain s, a cotangent g becomes ``t - s^2 x mean(t x)``,
    t = k g.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        size = _inverse_rms(x)
        u = _affine(x * size, gain, shift)
        slope = torch.sigmoid(u)
        out = u.mul_(slope)
        # silu' = sigmoid + u sigmoid (1 - sigmoid)
        torch.lerp(out, out.new_ones(()), slope, out=slope).mul_(size).mul_(gain)
        ctx.save_for_backward(x, gain, shift, size, slope)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        x, gain, shift, size, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # the product is differentiated once more
            (grad,) = torch.autograd.grad(_plain(x, gain, shift), x, g, create_graph=True)
            return grad, None, None
        t = g * slope
        along = (t * x).mean(1, keepdim=True).mul_(size).mul_(size)
        return t.addcmul_(x, along, value=-1.0), None, None


__all__ = ["FLOOR", "inverse_rms", "modulated", "traced"]
