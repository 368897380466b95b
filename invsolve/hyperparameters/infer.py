"""`solve` with unknown scalars: a noise level, a correlation length. Two ways, by what the strategy can give.

*Lattice*: where the strategy gives the evidence p(y | theta), the posterior of the scalars theta is its product with
their prior, put on a lattice (`invsolve.hyperparameters.lattice`) in standard normal coordinates; every sample draws
its theta from it and then its signal from ``p(x | theta, y)`` by the strategy. What is approximate: theta takes the
values of lattice nodes (moments and evidence are those of the continuum; quantiles are right to half a spacing).

*Gibbs*: with every other strategy each row is a chain of its own that alternates ``theta | x, y`` and ``x | theta, y``.
What is approximate: the strategy, and the finite number of sweeps.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from invsolve.core.counting import tally
from invsolve.errors import UnsupportedError, on_interrupt
from invsolve.hyperparameters.gibbs import draw_by_gibbs
from invsolve.hyperparameters.lattice import MAX_DIMS
from invsolve.hyperparameters.on_lattice import draw_by_lattice
from invsolve.hyperparameters.request import HyperparameterRequest
from invsolve.progress import Progress
from invsolve.results.assembly import assemble
from invsolve.results.result import Result
from invsolve.results.strategy_output import StrategyOutput
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.exact import Exact


@on_interrupt(lambda: "solve: interrupted, and nothing was saved: unknown scalars are inferred in one go.")
def infer(request: HyperparameterRequest, progress: Progress) -> Result:
    """The joint posterior of signal and unknown scalars; `solve` calls it and raises what must be raised."""
    started = time.perf_counter()
    unknowns = request.unknowns
    with torch.no_grad(), tally() as calls:
        limit = request.over_after
        request = replace(request, over=lambda: limit(calls.total()))
        lacking = _no_lattice(request)
        if request.hierarchy.method == "lattice" and lacking:
            raise UnsupportedError(f"solve: no lattice over the unknown scalars, because {lacking}.")
        by_gibbs = lacking or request.hierarchy.method == "gibbs"
        drawn = (draw_by_gibbs if by_gibbs else draw_by_lattice)(request, progress)
    typical = unknowns.prior_at(unknowns.medians)
    output = StrategyOutput(
        samples=drawn.samples,
        chi2=drawn.chi2,
        info=Diagnostics.from_mapping(drawn.info),
        calls=calls,
        processed=request.rows,
        seconds=time.perf_counter() - started,
        chunk=drawn.chunk,
        warnings=drawn.warnings,
    )
    return assemble(
        output,
        # Every row is one of a solve with everything known, which has judged it.
        failed=~torch.isfinite(drawn.samples).flatten(1).all(1),
        problem=unknowns.problem,
        prior=unknowns.prior,
        num_samples=request.num_samples,
        seed=request.seed,
        why=f"{request.why} {drawn.how}",
        solver=request.solver,
        settings={
            "hierarchy": repr(request.hierarchy),
            "reproducible": request.solver.reproducible,
            **({"prior notes": list(typical.notes)} if typical.notes else {}),
        },
        warnings=request.warnings,
        parameters={name: drawn.theta[:, i] for i, name in enumerate(unknowns.names)},
    )


def _no_lattice(request: HyperparameterRequest) -> str:
    """Why the scalars cannot be put on a lattice, as a clause; '' if they can."""
    if len(request.unknowns.names) > MAX_DIMS:
        return f"there are {len(request.unknowns.names)} of them, more than {MAX_DIMS}"
    if isinstance(request.strategy, Exact):
        evidence = request.strategy.bind(*request.unknowns.at(request.unknowns.medians)).evidence
        return "" if evidence is not None else "the closed form is too large, or another for every item, to factorise"
    return "" if request.strategy.gives_evidence else f"{request.strategy.name} gives no evidence"
