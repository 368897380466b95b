"""The derivative of a function that torch differentiates: in one place, so that none is ever zero by accident."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invsolve.core.arrays import normal

Map = Callable[[Tensor], Tensor]

WHY = (
    "got an output that does not depend on its input for torch. Remove torch.no_grad, inference_mode, detach or numpy "
    "from it; if it truly is constant, say so: add 0 * x."
)


def pullback(function: Map, x: Tensor, refusal: Callable[[], Exception]) -> tuple[Tensor, Map]:
    """``function(x)`` and ``v -> J(x)^H v``, which may be called often; neither belongs to a graph.

    Where the output is not connected to ``x`` there is no derivative, and ``refusal()`` is raised: zeros in its place
    would turn a posterior into the prior without a word.
    """

    def graph() -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = normal(x).detach().requires_grad_()
            y = function(leaf)
        if not y.requires_grad:
            raise refusal()
        return leaf, y

    leaf, y = graph()
    value, again = y.detach(), False

    def pull(v: Tensor) -> Tensor:
        nonlocal leaf, y, again
        if again:
            leaf, y = graph()
        try:
            (grad,) = torch.autograd.grad(y, leaf, v, retain_graph=not again, allow_unused=True)
        except RuntimeError as error:
            # What `torch.compile` makes reuses the memory of its graph, which then serves once: another is made for
            # every product. It refuses before anything is overwritten.
            if again or "donated" not in str(error):
                raise
            (grad,) = torch.autograd.grad(y, leaf, v, allow_unused=True)
            again = True
        if grad is None:
            raise refusal()
        return grad

    return value, pull


__all__ = ["WHY", "pullback"]
