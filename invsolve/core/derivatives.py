"""The derivative of a function that torch differentiates: in one place, so that none is ever zero by accident.

A `pullback` needs a backward pass, which every function that torch differentiates has. A `pushforward` comes from
forward mode; where a function has none (a `torch.autograd.Function` without ``setup_context`` or ``jvp``) from a
backward pass that is differentiated once more; and where that has no derivative either, from central differences.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import finalize

import torch
from torch import Tensor

from invsolve.core.arrays import normal
from invsolve.core.torch_workarounds import load_forward_mode

Map = Callable[[Tensor], Tensor]
Product = Callable[[Tensor, Tensor], Tensor]

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
            try:
                y = function(leaf)
            except RuntimeError as error:  # torch's, of x.numpy(): its advice, to detach, would make it wrong
                if "numpy() on Tensor that requires grad" not in str(error):
                    raise
                raise refusal() from error
        if not y.requires_grad and len(y):  # no rows at all need no graph
            raise refusal()
        return leaf, y

    leaf, y = graph()
    value, again = y.detach(), False

    def pull(v: Tensor) -> Tensor:
        nonlocal leaf, y, again
        if not y.requires_grad:
            return torch.zeros_like(leaf)
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


# How the pushforward of a function, or of the object whose method it is, was found to work, by its id while it lives.
_found: dict[int, Callable[[Map, Tensor, Tensor], tuple[Tensor, Tensor]]] = {}
_told: set[str] = set()  # whose derivatives were said to be differences
_differences = 0
_AGREE = 1e-3  # what the two sides of <J dx, w> = <dx, J^H w> may differ by: rounding, and solvers that stop early


def pushforward(function: Map, x: Tensor, dx: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """``function(x)`` and ``J(x) dx``, row by row; ``name`` says whose, for a warning where it is a difference."""
    whose = getattr(function, "__self__", function)
    if (way := _found.get(id(whose))) is not None:
        return difference(function, x, dx, name) if way is _difference else way(function, x, dx)
    try:
        load_forward_mode()
        y, dy = torch.func.jvp(function, (x,), (dx,))  # type: ignore[misc]  # a pair without has_aux
        return y, dy
    except (RuntimeError, TypeError) as error:  # NotImplementedError is the first
        if "memory" in str(error):
            raise
    try:
        y, dy = _twice_backward(function, x, dx)
        if _agrees(function, x, dx, dy):
            _remember(whose, _twice_backward)
            return y, dy
    except (RuntimeError, TypeError) as error:
        if "memory" in str(error):
            raise
    _remember(whose, _difference)
    return difference(function, x, dx, name)


def difference(function: Map, x: Tensor, dx: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """`pushforward` by a central difference, of which the caller is told once."""
    global _differences
    found = _difference(function, x, dx)  # first: what the function raises is its own
    _differences += 1
    if name not in _told:
        _told.add(name)
        warnings.warn(
            f"{name}: has no forward derivative in torch, and no backward pass that can be differentiated. Where "
            "J(x) dx is needed it is a central difference: two evaluations more, and a relative error of about "
            f"{torch.finfo(x.dtype).eps ** (2 / 3):.0e}. To have it exact and faster, give the product: "
            "from_callable(..., jvp=), or the method `_jvp` in a class of your own.",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def differences() -> int:
    """How many products were central differences so far."""
    return _differences


def _remember(whose: object, way: Callable[[Map, Tensor, Tensor], tuple[Tensor, Tensor]]) -> None:
    try:
        finalize(whose, _found.pop, id(whose), None).atexit = False
    except TypeError:  # with slots it has no weak references: looked for again at every call
        return
    _found[id(whose)] = way


def _twice_backward(function: Map, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """``J^H v`` is linear in v, and the pullback of that map is J."""
    with torch.enable_grad():
        leaf = normal(x).detach().requires_grad_()
        y = function(leaf)
        v = torch.zeros_like(y, requires_grad=True)
        (back,) = torch.autograd.grad(y, leaf, v, create_graph=True)
        (dy,) = torch.autograd.grad(back, v, dx)
    return y.detach(), dy


def _agrees(function: Map, x: Tensor, dx: Tensor, dy: Tensor) -> bool:
    """Whether ``<dy, w> = <dx, J^H w>``: what left torch in a backward pass is missing in the derivative of it."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(dy.shape, generator=generator, dtype=dy.dtype, device="cpu").to(dy.device)
    with torch.enable_grad():
        leaf = normal(x).detach().requires_grad_()
        (back,) = torch.autograd.grad(function(leaf), leaf, w)
    stated, found = ((a.conj() * b).real.flatten(1).sum(1) for a, b in ((dx, back), (dy, w)))
    size = torch.maximum(dy.flatten(1).norm(dim=1), stated.abs())  # of either side, for a random w
    return bool(((stated - found).abs() <= _AGREE * size).all())


def _difference(function: Map, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:
    """A central difference for every row: the step balances rounding, eps / h, with the third derivative, h^2."""
    with torch.no_grad():
        axes = tuple(range(1, x.ndim))
        length = torch.linalg.vector_norm(dx, dim=axes, keepdim=True)
        size = torch.linalg.vector_norm(x, dim=axes, keepdim=True)
        step = torch.finfo(x.dtype).eps ** (1 / 3) * torch.where(size > 0, size, length)
        unit = dx * (step / torch.where(length > 0, length, 1.0))
        change = function(x + unit) - function(x - unit)
        rate = torch.where(length > 0, length / (2 * step), 0.0)  # 0 along no direction, where no step is taken
        return function(x), change * rate.view(-1, *[1] * (change.ndim - 1))


class _Given(torch.autograd.Function):
    """A function whose pullback was given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Map, vjp: Product) -> Tensor:
        ctx.save_for_backward(x)
        ctx.vjp = vjp
        return function(x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.vjp(ctx.saved_tensors[0], grad), None, None


def with_pullback(function: Map, x: Tensor, vjp: Product) -> Tensor:
    """``function(x)``, differentiable once by torch through ``vjp(x, v)`` only."""
    y: Tensor = _Given.apply(x, function, vjp)
    return y


__all__ = ["WHY", "difference", "differences", "pullback", "pushforward", "with_pullback"]
