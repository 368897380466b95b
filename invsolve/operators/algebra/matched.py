"""A linear map whose derivative is a given adjoint: for code that torch cannot differentiate, or only slowly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class _Matched(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, apply: Map, adjoint: Map) -> Tensor:
        return apply(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.maps = inputs[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        apply, adjoint = ctx.maps
        return matched(grad, adjoint, apply), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, apply: Map, adjoint: Map) -> tuple[Tensor, int]:
        """More rows: the maps act on each by itself."""
        x = x.movedim(in_dims[0], 0)
        out = matched(x.flatten(0, 1), apply, adjoint)
        return out.reshape(*x.shape[:2], *out.shape[1:]), 0

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Tensor:
        apply, adjoint = ctx.maps
        return matched(dx, apply, adjoint)


def matched(x: Tensor, apply: Map, adjoint: Map) -> Tensor:
    """``apply(x)``, differentiable to every order in ``x`` through the linear maps ``apply`` and ``adjoint`` only.

    Both act on any number of rows, each by itself. It works under the transforms of `torch.func`, too.
    """
    out: Tensor = _Matched.apply(x, apply, adjoint)
    return out
