"""Does this prior belong to this operator: one wording for everything that takes the two of them."""

from __future__ import annotations

from invsolve.core.packing import Layout
from invsolve.core.validation import quoted
from invsolve.errors import InvsolveError, invalid, invalid_type
from invsolve.operators.base import Operator
from invsolve.operators.inputs import with_axes
from invsolve.priors.base import Prior


def check_pair(owner: str, A: Operator, prior: Prior) -> None:
    """Raise unless the prior is over the signals that the operator takes: shape and kind."""
    if tuple(prior.shape) != tuple(A.in_shape):
        want = f"of the shape that {type(A).__name__} takes, {tuple(A.in_shape)}"
        raise invalid(owner, "prior", want, tuple(prior.shape), with_axes(A, "in_shape", tuple(prior.shape)))
    if prior.kind != A.in_kind:
        option = "kind" if hasattr(A, "kind") else "in_kind"
        repair = (
            f"A prior of {A.in_kind} signals has kind={A.in_kind!r}, a GaussianPrior a {A.in_kind} mean; if the signal "
            f"is {prior.kind}, build the operator with {option}={prior.kind!r}."
        )
        raise invalid(owner, "prior", f"{A.in_kind}, as {type(A).__name__} takes", prior.kind, repair)
    ours, theirs = getattr(prior, "layout", None), getattr(A, "parameters", None)
    if isinstance(ours, Layout) and isinstance(theirs, Layout) and ours.names != theirs.names:
        raise invalid(
            owner,
            "prior",
            f"of the parameters of A, in their order: {', '.join(theirs.names)}",
            ", ".join(ours.names),
            "Give the simulator the prior's: iv.operators.from_simulator(f, prior.layout, out_shape).",
        )


def not_a_prior(owner: str, prior: object) -> InvsolveError:
    """The error of something else in the place of a prior, with the line that makes one."""
    repair = "Wrap a denoiser D(x, sigma): iv.priors.from_denoiser(f, shape=..., mean=..., scale=...)."
    if isinstance(prior, type):
        repair = f"Call it, with its parameters: {prior.__name__}(...)."
        prior = f"the class {prior.__name__}"
    elif prior is None or isinstance(prior, str):
        prior = quoted(prior)
        repair = (
            "To begin with, say how large and how smooth the signal is: iv.priors.GaussianFieldPrior(shape, "
            "iv.priors.Matern(std=..., length=...)); for one that ships or was saved, iv.priors.load(name)."
        )
    return invalid_type(owner, "prior", "an iv.priors.Prior", prior, repair)
