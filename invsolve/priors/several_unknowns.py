"""Priors of several unknowns that are solved for together: a coefficient and a solution, an image and a shift."""

from __future__ import annotations

from invsolve.core.packing import Layout
from invsolve.core.torch_state import in_defined_state
from invsolve.errors import invalid, invalid_type
from invsolve.operators.algebra.stack import NonlinearStack, Stack
from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.operators.identity import Identity
from invsolve.operators.unpack import Flatten
from invsolve.priors.base import Prior
from invsolve.priors.transformed import TransformedPrior, _real


@in_defined_state
def joint(**parts: Prior | Operator) -> TransformedPrior:
    """The prior of a and of what follows from it, ``(a, u = A(a), ...)``, as one vector with named parts.

    ``joint(a=prior, u=A)``: ``result["a"]`` and ``result["u"]`` are then the posteriors of both, on their grids, from
    data of either: ``iv.operators.Unpack(prior.layout, "u")`` is what takes u of the vector. `solve` infers a, of which
    u is a function, so that the equation holds in every sample; a linear A and a Gaussian prior have a closed form.

    Parameters
    ----------
    **parts : Prior or Operator
        By name: one prior, of a real a, and operators that take a.

    Returns
    -------
    TransformedPrior
        Over vectors; its ``layout`` has the parts, in this order.

    Raises
    ------
    InputError, InputTypeError
        Unless there is one prior, and operators on its signals.

    Examples
    --------
    >>> import torch
    >>> import invsolve as iv
    >>> source = iv.priors.GaussianFieldPrior((8,), iv.priors.Matern(1.0, 0.3))
    >>> both = joint(f=source, u=iv.operators.Matrix(torch.ones(8, 8).tril() / 8))
    >>> A = iv.operators.Subsample([3, 7], in_shape=(8,)) @ iv.operators.Unpack(both.layout, "u")
    >>> result = iv.solve(A, torch.tensor([0.5, 1.0]), both, noise=0.01)
    >>> result["f"].mean.shape, result["u"].std.shape
    (torch.Size([8]), torch.Size([8]))
    """
    priors = [name for name, part in parts.items() if isinstance(part, Prior)]
    if len(priors) != 1:
        given = ", ".join(priors) or "none"
        raise invalid("joint", "parts", "one prior, and operators of its signal", f"priors: {given}")
    base = _real("joint", parts[priors[0]])
    operators: list[Operator] = []
    for name, part in parts.items():
        if isinstance(part, Prior):
            operators.append(Identity(tuple(base.shape)))
            continue
        if not isinstance(part, Operator) or isinstance(part, BlackBox):
            raise invalid_type("joint", name, "an operator with a derivative", part)
        if part.batch is not None:
            raise invalid("joint", name, "one operator for all items", f"one of {part.batch} items")
        if tuple(part.in_shape) != tuple(base.shape) or part.in_kind != "real":
            want = f"an operator on real signals of shape {tuple(base.shape)}, those of {priors[0]}"
            raise invalid("joint", name, want, f"{part.in_kind}, {tuple(part.in_shape)}")
        operators.append(part)
    linear = [part for part in operators if isinstance(part, LinearOperator)]
    names = tuple(parts)
    stack = Stack(linear, names=names) if len(linear) == len(operators) else NonlinearStack(operators, names=names)
    return TransformedPrior(base=base, function=stack, layout=stack.layout)  # type: ignore[union-attr]


@in_defined_state
def packed(prior: Prior, layout: Layout) -> TransformedPrior:
    """A prior over arrays that hold several unknowns, with their names: channels (a, u) of a learned joint prior.

    Parameters
    ----------
    prior : Prior
        Real, over as many entries as the layout has, in its order.
    layout : Layout
        Of the entries.

    Returns
    -------
    TransformedPrior
        Over vectors; ``result["a"]`` is a part of the result.

    Raises
    ------
    InputError, InputTypeError
        For what is no real prior or no layout, or for sizes that differ.

    Examples
    --------
    >>> import invsolve as iv
    >>> prior = iv.priors.GaussianFieldPrior((2, 4, 4), iv.priors.Matern(1.0, 0.3))
    >>> packed(prior, iv.Layout([iv.Part("a", (4, 4)), iv.Part("u", (4, 4))])).shape
    (32,)
    """
    shape = tuple(_real("packed", prior).shape)
    if not isinstance(layout, Layout):
        raise invalid_type("packed", "layout", "an iv.Layout", layout)
    function = Flatten(in_shape=shape)
    if function.out_shape != (layout.size,):
        raise invalid("packed", "layout", f"of {function.out_shape[0]} numbers, as the prior", layout.size)
    return TransformedPrior(base=prior, function=function, layout=layout)
