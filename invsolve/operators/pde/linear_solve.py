"""The solution of a linear system as a function of its coefficients: one more solve for a product with a derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.errors import OperatorError

Solve = Callable[[Tensor, Tensor], Tensor]
Product = Callable[[Tensor, Tensor], Tensor]


@in_defined_state
def solve_linear(
    parameters: Tensor, source: Tensor, solve: Solve, product: Product, *, solve_adjoint: Solve | None = None
) -> Tensor:
    """``u`` with ``A(parameters) u = source``, differentiable in both, as often as one likes.

    Derivatives come from the equation, not from the steps of the solver: a pullback takes one solve of the adjoint
    system, a pushforward one more solve, and nothing is kept of the iterations. Forward mode and `torch.func` work too.

    Parameters
    ----------
    parameters : Tensor, shape (rows, ...)
        What the matrix A is made of, for every row its own.
    source : Tensor, shape (rows, *shape)
        The right sides, real or complex.
    solve : callable
        ``(parameters, source) -> u``, each row by itself; torch need not differentiate it. A zero row gives zero.
    product : callable
        ``(parameters, u) -> A(parameters) u``, each row by itself, which torch differentiates.
    solve_adjoint : callable, optional
        ``(parameters, g) -> w`` with ``A^H w = g``. By default ``solve``: A is symmetric (complex: Hermitian).

    Returns
    -------
    Tensor, shape (rows, *shape)
        The solutions.

    Raises
    ------
    OperatorError
        If a function returns another shape; ``product`` is called for derivatives only.

    Examples
    --------
    >>> import torch
    >>> def solve(p, f):
    ...     return f / p
    >>> p = torch.tensor([[2.0, 4.0]], requires_grad=True)
    >>> u = solve_linear(p, torch.ones(1, 2), solve, lambda p, u: p * u)
    >>> torch.autograd.grad(u.sum(), p)[0]  # of 1 / p
    tensor([[-0.2500, -0.0625]])
    """
    u: Tensor = _Solve.apply(parameters, source, solve, solve_adjoint or solve, product, False)
    return u


@final
class _Solve(torch.autograd.Function):
    """``A^-1 f``, or ``A^-H f`` where ``adjoint``; its derivatives are this function again."""

    @staticmethod
    def forward(
        parameters: Tensor, source: Tensor, solve: Solve, solve_adjoint: Solve, product: Product, adjoint: bool
    ) -> Tensor:
        u = (solve_adjoint if adjoint else solve)(parameters.detach(), source.detach())
        _check_shape("solve_adjoint" if adjoint and solve_adjoint is not solve else "solve", u, source)
        return u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)
        ctx.maps, ctx.adjoint = inputs[2:5], inputs[5]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        parameters, u = ctx.saved_tensors
        w: Tensor = _Solve.apply(parameters, cotangents[0], *ctx.maps, not ctx.adjoint)
        if not ctx.needs_input_grad[0]:
            return None, w, None, None, None, None
        left, right = (u, w) if ctx.adjoint else (w, u)  # <left, A right> is what depends on the parameters
        slope = _pulled(lambda p: ctx.maps[2](p, right), parameters, left)
        return -slope, w, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (parameters, u), product = ctx.saved_tensors, ctx.maps[2]
        change, right = tangents[0], tangents[1]
        total = torch.zeros_like(u) if right is None else right
        if change is not None:
            total = total - _changed(product, parameters, change, u, ctx.adjoint)
        du: Tensor = _Solve.apply(parameters, total, *ctx.maps, ctx.adjoint)
        return du

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        """More rows: each is solved by itself."""
        wide = [
            value.expand(info.batch_size, *value.shape) if axis is None else value.movedim(axis, 0)
            for value, axis in zip(inputs[:2], in_dims[:2], strict=True)
        ]
        out = _Solve.apply(*(value.flatten(0, 1) for value in wide), *inputs[2:])
        return out.unflatten(0, (info.batch_size, wide[0].shape[1])), 0


def _check_shape(name: str, found: object, like: Tensor) -> None:
    if not isinstance(found, Tensor) or found.shape != like.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise OperatorError(f"solve_linear: {name} must return a tensor of shape {tuple(like.shape)}, got {got}.")


def _pulled(f: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """``J(x)^H v`` of f, which torch can differentiate again."""
    y, pull = torch.func.vjp(f, x)  # type: ignore[misc]  # a pair without has_aux
    _check_shape("product", y, v)
    slope: Tensor = pull(v)[0]
    return slope


def _changed(product: Product, parameters: Tensor, change: Tensor, u: Tensor, adjoint: bool) -> Tensor:
    """The derivative of ``A(parameters) u``, or of ``A^H u``, along a change of the parameters."""

    def rate(v: Tensor) -> Tensor:
        """``dA v``: the pullback to the parameters is linear in its cotangent, and has dA v as its own pullback."""
        zero = torch.zeros_like(u)
        return _pulled(lambda w: _pulled(lambda p: product(p, v), parameters, w), zero, change)

    return _pulled(rate, torch.zeros_like(u), u) if adjoint else rate(u)


__all__ = ["solve_linear"]
