"""`solve`: one call from data to posterior. What it is asked for is checked in `validation`; `solver` runs it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from invsolve.core.checkpoint import Checkpoint
from invsolve.core.counting import running, tally
from invsolve.core.fingerprint import fingerprint
from invsolve.core.stopping import OutOfTime, ended_by
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import kind_dtype
from invsolve.errors import OperatorError, SolveError, UnsupportedError, invalid, on_interrupt
from invsolve.hyperparameters.infer import infer
from invsolve.hyperparameters.request import Hierarchy, HyperparameterRequest, choose, default_number
from invsolve.hyperparameters.unknowns import Unknowns
from invsolve.noise import Gaussian
from invsolve.operators.base import Operator
from invsolve.priors.base import Prior
from invsolve.priors.compatibility import not_a_prior
from invsolve.problem import Problem
from invsolve.progress import Progress, as_progress
from invsolve.results.result import Result
from invsolve.results.status import Status
from invsolve.solving.change_of_variables import ChangeOfVariables
from invsolve.solving.closed_form import with_marginals
from invsolve.solving.decisions import Decisions
from invsolve.solving.escalation import escalate
from invsolve.solving.finished import Finished
from invsolve.solving.loop import DrawFactory
from invsolve.solving.pricing import affordable, affords_quadrature
from invsolve.solving.request import SolveRequest
from invsolve.solving.solver import StrategySolver, keyed
from invsolve.solving.spending import QUADRATURE, Budget, Spending
from invsolve.solving.validation import (
    check_budget,
    check_options,
    check_units,
    checked_checkpoint,
    checked_hierarchy,
    checked_model,
    checked_strategy,
    data_warnings,
    item_keys,
    level_warnings,
)
from invsolve.strategies.base import Strategy, itself
from invsolve.strategies.choice.candidates import Candidate, candidates
from invsolve.strategies.choice.sample_size import FEWEST
from invsolve.strategies.exact import Exact, by_quadrature


@in_defined_state
@on_interrupt(lambda: "solve: interrupted before there was anything to save.", unless_said=True)
def solve(
    A: Operator | Problem,
    y: Any = None,
    prior: Prior | None = None,
    noise: Any = None,
    *,
    strategy: Strategy | str = "auto",
    budget: Budget | float | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    item_ids: Sequence[int | str] | None = None,
    chunk: int | None = None,
    reproducible: bool = False,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: Progress | bool | None = None,
    draws: DrawFactory | None = None,
    hierarchy: Hierarchy | None = None,
    weighted: bool = False,
    throw: bool = True,
) -> Result:
    """Sample the posterior of the signal behind ``y = A(x) + noise`` under ``prior``.

    ``solve(A, y, prior, noise=...)``, or ``solve(problem, prior)`` with an `iv.Problem`. Everything is in the units of
    the data; no value range is assumed.

    Parameters
    ----------
    A : Operator or Problem
        The forward operator, `iv.operators`; or the whole measurement, and then ``y`` is the prior.
    y : Tensor, numpy array, xarray.DataArray, list or path, shape (batch, *A.out_shape) or A.out_shape
        The data. A tensor keeps its precision, which prior and ``A`` follow where it is the wider one; what is no
        tensor, such as counts in an array or a .npy file, takes the prior's, or float64 where the noise would drown in
        its rounding. Without a batch axis results have none. NaN is refused: mark missing data with an operator such
        as `iv.operators.Mask`.
    prior : Prior
        Over the signals that A takes: ``prior.shape == A.in_shape``. A prior of a family (`iv.priors.Family`) has its
        unknown scalars inferred.
    noise : float or Noise
        Required. A positive number is the std (sigma) of Gaussian noise in the units of ``y`` (per real component if
        complex); else an `iv.noise` model. ``iv.noise.Gaussian(std=iv.LogNormal(...))``: the level is inferred.
    strategy : {"auto"} or Strategy
        ``"auto"`` takes the closed form where there is one; else it runs ensembles of particles or chains (`SMC` where
        the prior is known by its denoiser, `NoiseMCMC` where it states its transport) until their own tests say that
        mean and std are right, and stops when the next try would leave ``budget``. Signals too large for that are
        guided (`MMPS`) and not tested. ``result.certificate`` says what was tried, found and not reached,
        ``result.why`` why. One of `iv.strategies` is run once.
    budget : float or Budget, optional
        Of ``"auto"``: seconds (60 unless given) or an `iv.Budget`. With one that was given ensembles are made as small
        as it takes, and chains that are still over it stop where they are; without one, a try that was begun is
        finished. Part of what is left when chains are certified goes into a look for modes that they missed.
    num_samples : int, optional
        Draws for every item. Unless given 199 of a closed form, 999 where they are picked from particles and chains
        that are run anyway (199 where 999 take a twentieth of the budget), as long as these are at most 2^18 values of
        all items together; else 19, whose smallest and largest are a 90 % interval.
        Draw k of item b depends on ``seed``, b (or ``item_ids[b]``) and k only (particles and chains: and on
        ``num_samples``; with "auto" and a budget also on the ensembles that it had room for, which shrink with
        the batch): not on the batch or on ``chunk``, up to the last bits of torch's kernels. Whatever their
        number, mean and std of a closed form are exact, and of chains and particles those of all that was drawn
        (``result.statistics``).
    seed : int
        What every random number is made from; no global generator is touched.
    item_ids : sequence of int or str, optional
        Names of the items, which their random numbers belong to, in place of their position.
    chunk : int, optional
        Rows run at once (halved by itself when memory runs out).
    reproducible : bool
        Bitwise the same rows for any batch on a CPU, with strategies whose samples do not see each other: rows run in
        tiles of 8, each at a place that its item's id (or position) and its number decide. Scalars that are inferred by
        Gibbs sweeps, and signals with them, may differ in their last bits.
    checkpoint : str, path or Checkpoint, optional
        A file to save to and resume from. Sizes that the clock of a ``budget`` decided are kept in it; a run that is
        over is read again at once, from a file ``.answer`` beside it. A run that a budget ended does not go on with a
        larger one: give that another path.
    progress : bool or Progress, optional
        True for a bar, or a meter of `iv.progress`; silence by default.
    draws : callable, optional
        ``(items, samples) -> source``, replaces the source of random numbers (for tests).
    hierarchy : Hierarchy, optional
        How unknown scalars are inferred: the noise level, scalars of the prior (`iv.priors.Family`) or of the operator
        (`iv.operators.Family`), for every item with the signal; ``result["noise.std"]`` is
        the posterior of one, ``result["noise.std"].mean`` its mean.
    weighted : bool
        With a strategy that weighs its samples (`SMC`, `MCGDiff`): True leaves the weights in ``result.log_weights``,
        and the samples alone are then no draws; False, the default, resamples them to equal weights. ``info["ess"]``
        says what they were worth.
    throw : bool
        Raise if a row failed. With False read ``result.status``: a row that becomes NaN or infinite is left as NaN,
        flagged and excluded. What a budget ended is returned either way: its samples are numbers, of a tempered
        posterior, and ``result.status`` is then ``Status.TEMPERED``.

    Returns
    -------
    Result
        Samples ``(num_samples, [batch,] *A.in_shape)``, statistics, and an account of how they were obtained;
        ``result.certified`` says whether they were seen to be the posterior's.

    Raises
    ------
    InputError, InputTypeError, UnsupportedError
        Before any work is done.
    OperatorError
        For a user's adjoint that is not one.
    CheckpointError
        For a checkpoint of another run.
    SolveError
        If a row failed, with ``throw=True``; the error's ``result`` holds the others.

    Examples
    --------
    >>> import torch
    >>> import invsolve as iv
    >>> prior = iv.priors.GaussianPrior(mean=torch.zeros(2), covariance=torch.eye(2))
    >>> A = iv.operators.Mask(mask=torch.tensor([True, False]))
    >>> iv.solve(A, torch.tensor([1.0, 0.0]), prior, noise=0.5, num_samples=8).status.name
    'SUCCESS'
    """
    change = ChangeOfVariables.of(*checked_model(A, y, prior, noise))
    problem, prior = change.problem, change.prior
    check_options(
        num_samples=num_samples,
        seed=seed,
        chunk=chunk,
        reproducible=reproducible,
        throw=throw,
        weighted=weighted,
        progress=progress,
        draws=draws,
    )
    unknowns = Unknowns.from_problem(problem, prior)
    typical = (problem, prior) if unknowns is None else unknowns.at(unknowns.medians)
    strategy = checked_strategy(strategy, *typical)
    saved = checked_checkpoint(checkpoint)
    keys = item_keys(item_ids, len(problem.data))
    meter = as_progress("solve", progress)
    limit = check_budget("solve", budget, strategy)
    if unknowns is not None:
        for name, given in (("checkpoint", saved), ("draws", draws)):
            if given is not None:
                raise UnsupportedError(f"solve: `{name}` does not work with unknown scalars ({unknowns.names[0]}).")
        how = checked_hierarchy(hierarchy)
        if isinstance(strategy, Strategy):
            chosen, why = strategy, "Chosen by the caller."
        else:
            chosen, why = choose(*typical, how, len(unknowns.names))
        spending = Spending(budget=limit) if limit is not None else None
        if spending is not None:
            chosen = affordable(chosen, *typical, how, len(unknowns.names), spending.left(), num_samples or FEWEST)
        check_units(*typical)
        chosen = chosen.settled(*typical)
        warnings = data_warnings(*typical) + level_warnings(typical[1], chosen)
        whole = StrategySolver(prior=typical[1], strategy=chosen, chunk=chunk, reproducible=reproducible)
        inference = HyperparameterRequest(
            unknowns=unknowns,
            solver=whole,
            why=why,
            hierarchy=how,
            seed=seed,
            keys=keys,
            num_samples=num_samples or default_number(*typical, chosen, how, len(unknowns.names)),
            warnings=warnings,
        )
        if spending is None:
            return _returned(change.back(infer(inference, meter)), throw)
        within = replace(
            whole, over=lambda calls, power, ahead: spending.over(0, lost=False, ahead=ahead.without_calls)
        )
        limited = replace(inference, solver=within, over_after=lambda calls: spending.over(calls, lost=False))
        return _returned(change.back(replace(infer(limited, meter), solver=whole)), throw)
    if hierarchy is not None:
        raise invalid(
            "solve",
            "hierarchy",
            "left out: no scalar is unknown",
            repr(hierarchy),
            "Give a distribution, e.g. iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=3)).",
        )
    warnings = data_warnings(problem, prior)
    request = SolveRequest(
        problem=problem,
        prior=prior,
        num_samples=num_samples or FEWEST,
        seed=seed,
        keys=keys,
        draws=draws or keyed(seed, keys, problem.data.device),
        drawn_by="" if draws is None or saved is None else fingerprint(draws),
        chunk=chunk,
        reproducible=reproducible,
        saved=saved,
        progress=meter,
        reported=itself if change.function is None else change.reported,
        weighted=weighted,
        decisions=Decisions.of(saved),
    )
    certificate = known = None
    asked = "" if saved is None else strategy.fingerprint() if isinstance(strategy, Strategy) else repr(limit)
    finished = Finished(request=request, asked=f"{num_samples}, {asked}")
    if isinstance(strategy, Strategy):
        chosen = strategy.settled(problem, prior)
        candidate = Candidate(strategy=chosen, why=f"Chosen by the caller. {strategy.note}".strip())
        request = request.sized(num_samples, [candidate])
        known = finished.read([candidate])
        if known is not None:
            output, candidate, certificate = known
        elif isinstance(strategy, Exact):
            output, candidate, certificate = escalate(request, [candidate], None)
        else:
            output = request.run(candidate)
    else:
        spent = Spending(budget=limit or Budget())
        closed = limit is None or request.decisions.truth(lambda: affords_quadrature(problem, prior, spent.left()))

        def in_order(quadrature: bool) -> list[Candidate]:
            number = num_samples or FEWEST
            return candidates(problem, prior, number, rows_alone=reproducible, quadrature=quadrature)

        @cache
        def others() -> bool:  # than quadrature
            return closed and by_quadrature(problem, prior) and not isinstance(in_order(False)[0].strategy, Exact)

        with tally() as calls:

            def over() -> bool:
                return limit is not None and others() and spent.used(running(calls), QUADRATURE)

            try:
                request = request.sized(num_samples, tries := in_order(closed))
                known = finished.read(tries)
                with ended_by(over):
                    output, candidate, certificate = known or escalate(request, tries, limit, spent)
            except (OperatorError, OutOfTime):  # entries meet where the posterior lies, and only there
                if not others():
                    raise
                spent.evaluations = calls.total()
                request.decisions.known[:1] = [False] * (limit is not None)  # that quadrature ends in time
                request = request.sized(num_samples, tries := in_order(False))
                output, candidate, certificate = escalate(request, tries, limit, spent)
    if known is None:
        finished.write(output, candidate, certificate)
    request = replace(request, num_samples=len(output.samples) // len(problem.data))  # fewer, where nobody asked
    if candidate.strategy.couples != "nothing":
        chunk = None  # rows that see each other run together, whatever the chunk is for others
    solver = StrategySolver(prior=prior, strategy=candidate.strategy, chunk=chunk, reproducible=reproducible)
    warnings += level_warnings(prior, candidate.strategy)
    output, marginals = with_marginals(request, candidate.strategy, output)
    moments = output.moments  # of x, not of u
    output = output if change.function is None else replace(output, moments=None)
    found = solver.result(request, output, candidate.why, warnings, certificate, marginals, candidate.name)
    return _returned(change.back(found, moments), throw)


@in_defined_state
def sample(
    prior: Prior,
    num_samples: int,
    *,
    strategy: Strategy | None = None,
    seed: int = 0,
    chunk: int | None = None,
    reproducible: bool = False,
    progress: Progress | bool | None = None,
    throw: bool = True,
) -> Result:
    """Draw from the prior itself by running its denoiser down the noise levels (`iv.strategies.Unconditional`).

    For priors with a closed form this is the test of a sampler; ``prior.sample(n)`` draws exactly.

    Parameters
    ----------
    prior : Prior
        Whose denoiser is run.
    num_samples : int
        How many draws.
    strategy : Strategy, optional
        In place of `Unconditional`.
    seed, chunk, reproducible, progress, throw
        As in `iv.solve`.

    Returns
    -------
    Result
        Samples ``(num_samples, *prior.shape)``.

    Raises
    ------
    InputTypeError
        For what is no prior.
    SolveError
        If a row failed, with ``throw=True``.
    """
    from invsolve.operators.mask import Subsample
    from invsolve.strategies.guidance.unconditional import Unconditional

    if not isinstance(prior, Prior):
        raise not_a_prior("sample", prior)
    nothing = torch.zeros(0, dtype=torch.int64, device=prior.device)
    data = torch.zeros(0, dtype=kind_dtype(prior.dtype, prior.kind), device=prior.device)
    problem = Problem(Subsample(index=nothing, in_shape=prior.shape, kind=prior.kind), data, noise=Gaussian(std=1.0))
    return solve(
        problem,
        prior,
        strategy=strategy or Unconditional(),
        num_samples=num_samples,
        seed=seed,
        chunk=chunk,
        reproducible=reproducible,
        progress=progress,
        throw=throw,
    )


def _returned(result: Result, throw: bool) -> Result:
    if throw and result.status in (Status.SOME_FAILED, Status.ALL_FAILED):
        count, rows = int(result.failed.sum()), result.failed.numel()
        others = " With throw=False, or in the error's `result`, are the others." if count < rows else ""
        said = "".join(f" Warning: {warning}." for warning in result.warnings)
        error = SolveError(f"solve: {count} of {rows} samples failed. {result.status.value}{others}{said}")
        error.result = result
        raise error
    return result
