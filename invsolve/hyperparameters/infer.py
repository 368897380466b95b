"""`solve` with unknown scalars: a noise level, a correlation length. Two ways, by what the strategy can give.

*Lattice*: where the strategy gives the evidence p(y | theta), the posterior of the scalars theta is its product with
their prior, put on a lattice (`invsolve.hyperparameters.lattice`) in standard normal coordinates; every sample draws
its theta from it and then its signal from ``p(x | theta, y)`` by the strategy. What is approximate: theta takes the
values of lattice nodes (moments and evidence are those of the continuum; quantiles are right to half a spacing).
Of linear Gaussian problems the evidence comes for nothing (`invsolve.hyperparameters.closed_form`).

*Gibbs*: with every other strategy each row is a chain of its own that alternates ``theta | x, y`` and ``x | theta, y``.
What is approximate: the strategy, and the finite number of sweeps, which go on until R-hat says that they are enough.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from invsolve.core.counting import tally
from invsolve.errors import UnsupportedError, on_interrupt
from invsolve.hyperparameters.gibbs import draw_by_gibbs
from invsolve.hyperparameters.lattice import MAX_DIMS, NotResolved
from invsolve.hyperparameters.on_lattice import draw_by_lattice
from invsolve.hyperparameters.request import HyperparameterDraws, HyperparameterRequest
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
        request = replace(request, over=lambda: limit(calls.total()), calls=calls.total)
        lacking = _no_lattice(request)
        if request.hierarchy.method == "lattice" and lacking:
            repair = "Leave `method` of iv.Hierarchy out: scalars are then drawn in turns."
            raise UnsupportedError(f"solve: no lattice over the unknown scalars, because {lacking}. {repair}")
        drawn = _drawn(request, progress, gibbs=bool(lacking) or request.hierarchy.method == "gibbs")
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
        certificate=drawn.verdict.certificate(
            request.strategy,
            batched=unknowns.problem.batched,
            seconds=output.seconds,
            evaluations=output.evaluations,
            how=drawn.how,
        ),
        parameter_marginals=drawn.marginals,
        parameters={name: drawn.theta[:, i] for i, name in enumerate(unknowns.names)},
    )


def _drawn(request: HyperparameterRequest, progress: Progress, *, gibbs: bool) -> HyperparameterDraws:
    """On a lattice; what none resolves is left to Gibbs sweeps, unless a lattice was asked for."""
    if gibbs:
        return draw_by_gibbs(request, progress)
    try:
        return draw_by_lattice(request, progress)
    except NotResolved:
        if request.hierarchy.method == "lattice" or request.strategy.weighs:
            raise
    drawn = draw_by_gibbs(request, progress)
    return replace(drawn, how=f"No lattice of a tolerable size resolves the scalars. {drawn.how}")


def _no_lattice(request: HyperparameterRequest) -> str:
    """Why the scalars cannot be put on a lattice, as a clause; '' if they can."""
    if len(request.unknowns.names) > MAX_DIMS:
        return f"there are {len(request.unknowns.names)} of them, more than {MAX_DIMS}"
    if isinstance(request.strategy, Exact):
        if request.closed_form.there:
            return ""
        evidence = request.strategy.bind(*request.unknowns.at(request.unknowns.medians)).evidence
        return "" if evidence is not None else "the closed form is too large, or another for every item, to factorise"
    return "" if request.strategy.gives_evidence else f"{request.strategy.name} gives no evidence"
