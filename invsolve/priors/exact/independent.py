"""Named parameters, each with a distribution of its own: the prior of a simulator's arguments."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from invsolve.core.distributions import Distribution, check_distribution
from invsolve.core.packing import Layout, Part
from invsolve.core.torch_state import in_defined_state
from invsolve.errors import invalid, invalid_type
from invsolve.priors.base import Prior
from invsolve.priors.entry_maps import ByDistribution
from invsolve.priors.exact.gaussian import GaussianPrior
from invsolve.priors.transformed import TransformedPrior

_OWNER = "independent"


@in_defined_state
def independent(
    *, units: Mapping[str, str] | None = None, dtype: torch.dtype = torch.float64, **parameters: Distribution
) -> TransformedPrior:
    """The prior of named numbers that know nothing of each other, as a vector in the order that they are named.

    ``result["alpha"]`` is the posterior of one of them, and ``result.summary()`` a table of all. The simulator is made
    an operator by `iv.operators.from_simulator`, with ``prior.layout``.

    Parameters
    ----------
    units : mapping of str to str, optional
        Of the parameters, for labels.
    dtype : torch.dtype
        float64 or float32.
    **parameters : Distribution
        ``alpha=iv.LogNormal(median=1.0, factor=1.5)``: one or more of `iv.Normal`, `iv.LogNormal`, `iv.Uniform`,
        `iv.LogUniform`.

    Returns
    -------
    TransformedPrior
        Of shape ``(number of parameters,)``: every parameter is its distribution's function of a standard normal
        number, and these are what is inferred. Its density is the product of those of the distributions.

    Raises
    ------
    InputError, InputTypeError
        If there is none, one is no distribution, or ``units`` name another.

    Examples
    --------
    >>> import invsolve as iv
    >>> prior = iv.priors.independent(rate=iv.LogNormal(2.0, 1.5), offset=iv.Normal(0.0, 1.0))
    >>> prior.layout.split(prior.sample(3))["rate"].shape
    torch.Size([3])
    """
    if not parameters:
        raise invalid(_OWNER, "parameters", "given by name, e.g. alpha=iv.LogNormal(median=1.0, factor=1.5)", "none")
    for name, law in parameters.items():
        if isinstance(law, Prior):
            repair = (
                "One prior holds scalars, or a signal. Scalars of the forward model beside a signal: solve with "
                f"prior={name} and A=iv.operators.Family(make, alpha=iv.LogNormal(...)), where make(alpha) is the "
                "operator; scalars of the prior itself: iv.priors.Family."
            )
            raise invalid_type(_OWNER, name, "a distribution of one number", f"a prior, {type(law).__name__}", repair)
        check_distribution(
            _OWNER, name, law, f"Leave what is known to the simulator: functools.partial(f, {name}=...)."
        )
    if units is not None and not isinstance(units, Mapping):
        raise invalid_type(_OWNER, "units", "a mapping of names to units", units)
    if others := sorted(set(units or {}) - set(parameters)):
        raise invalid(_OWNER, "units", f"of parameters: {', '.join(parameters)}", repr(others[0]))
    if dtype not in (torch.float32, torch.float64):
        raise invalid_type(_OWNER, "dtype", "torch.float32 or torch.float64", str(dtype))
    n = len(parameters)
    white = GaussianPrior(
        mean=torch.zeros(n, dtype=dtype, device="cpu"), covariance=torch.eye(n, dtype=dtype, device="cpu")
    )
    layout = Layout(tuple(Part(name, (), unit=(units or {}).get(name, "")) for name in parameters))
    return TransformedPrior(base=white, function=ByDistribution(laws=tuple(parameters.values())), layout=layout)
