"""`solve`: one call from data to posterior. What is checked at the border is here, what runs is in `loop`."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import torch

from invsolve import strategies
from invsolve.core.arrays import as_tensor
from invsolve.core.checkpoint import Checkpoint
from invsolve.core.random import DrawLike, Draws, item_key
from invsolve.core.validation import check_int, kind_dtype
from invsolve.errors import OperatorError, SolveError, UnsupportedError, invalid, invalid_type
from invsolve.hyperparameters.hierarchical import Hierarchy, Job, choose, solve_unknowns
from invsolve.hyperparameters.unknowns import Unknowns
from invsolve.noise import Gaussian
from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.priors.base import Prior
from invsolve.problem import Problem, signal_dims
from invsolve.progress import NoProgress, Progress
from invsolve.results.model_comparison import data_fingerprint
from invsolve.results.result import Result, Status, blanked
from invsolve.results.warnings import fit_warnings, thinned
from invsolve.solving.escalation import Budget, climb
from invsolve.solving.loop import DrawFactory
from invsolve.solving.request import Call
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate, alternatives, candidates
from invsolve.strategies.guidance.guided import Guidance, Guided

_DOT_ERROR, _DOT_WARN = 1e-3, 3e-5  # adjoint gaps of a user's operator that are refused, mentioned
_DERIVATIVE_WARN = 0.1  # relative error of a non-linear operator's derivative that is mentioned
_RUNAWAY = 1e6  # scales of the prior from its mean


def solve(
    A: Operator | Problem,
    y: Any = None,
    prior: Prior | None = None,
    *,
    noise: Any = None,
    strategy: Strategy | str = "auto",
    budget: Budget | float | None = None,
    num_samples: int = 16,
    seed: int = 0,
    item_ids: Sequence[int | str] | None = None,
    chunk: int | None = None,
    reproducible: bool = False,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    progress: Progress | None = None,
    draws: DrawFactory | None = None,
    hierarchy: Hierarchy | None = None,
    throw: bool = True,
) -> Result:
    """Sample the posterior of the signal behind ``y = A(x) + noise`` under ``prior``.

    ``A`` is an `iv.operators.Operator`; ``y`` is ``(batch, *A.out_shape)`` or one unbatched ``A.out_shape`` (results
    then have no batch axis), torch, numpy or xarray; ``prior.shape == A.in_shape``. ``noise`` is required: a positive
    number, the std of Gaussian noise in the units of ``y`` (per real component if complex), or an `iv.noise` model.
    Also ``solve(problem, prior)`` with an `iv.Problem`. Everything is in the units of the data; no value range is
    assumed.

    ``strategy="auto"`` takes the closed form where there is one; else it runs populations (`SMC` where the prior is
    known by its denoiser, `NoiseMCMC` where it states its transport) until their own tests say that mean and std are
    right, and stops when the next try would leave ``budget``: seconds (60 unless given) or an `iv.Budget`. Chains that
    are over a ``budget`` that was given stop where they are; without one, a try that was begun is finished. Signals too
    large for that are guided (`MMPS`) and not tested.
    ``result.certificate`` says what was tried, found and not reached, ``result.why`` why. ``strategy=`` one of
    `iv.strategies` runs that one, once.

    ``num_samples`` draws are made for every item. Draw k of item b depends on ``seed``, b (or ``item_ids[b]``) and k
    only (populations: and on ``num_samples``, and with "auto" on which tries the budget had room for): not on the batch
    or on ``chunk``, up to the last bits of torch's kernels; ``reproducible=True`` makes that bitwise on a CPU, by
    running constant tiles of 8 rows, with strategies whose samples do not see each other. ``chunk`` is the number of
    rows run at once (halved by itself when memory runs out). ``checkpoint`` is a file to save to and resume from.

    Scalars that are not known may be given as distributions: the noise level (``noise=iv.noise.Gaussian(
    std=iv.LogNormal(...))``), scalars of the prior (`iv.priors.Family`) or of the operator (`iv.operators.Family`).
    They are inferred for every item with the signal, see ``result.parameters`` and ``hierarchy`` (`iv.Hierarchy`).

    A row that becomes NaN or infinite is left as NaN, flagged and excluded. ``throw=True`` raises SolveError if any
    did; with ``throw=False`` read ``result.status``. ``draws`` replaces the source of random numbers (for tests).

    Raises InputError, InputTypeError, UnsupportedError, OperatorError (a user's adjoint that is not one) before any
    work is done, CheckpointError for a checkpoint of another run, SolveError as said.
    """
    problem, prior = _checked(A, y, prior, noise)
    num_samples = check_int("solve", "num_samples", num_samples, minimum=1)
    seed = check_int("solve", "seed", seed)
    unknowns = Unknowns.of(problem, prior)
    typical = (problem, prior) if unknowns is None else unknowns.at(unknowns.medians)
    strategy = _strategy(strategy, *typical)
    chunk = None if chunk is None else check_int("solve", "chunk", chunk, minimum=1)
    saved = _checkpoint(checkpoint)
    for name, value, kind in (("reproducible", reproducible, bool), ("throw", throw, bool)):
        if not isinstance(value, kind):
            raise invalid_type("solve", name, "True or False", value)
    if progress is not None and not isinstance(progress, Progress):
        raise invalid_type(
            "solve", "progress", "an iv.progress meter", progress, "For example iv.progress.TqdmProgress()."
        )
    if draws is not None and not callable(draws):
        raise invalid_type("solve", "draws", "a function of (items, samples) that gives a source of numbers", draws)
    batch = len(problem.data)
    keys = _item_keys(item_ids, batch)
    if unknowns is not None:
        for name, given in (("checkpoint", saved), ("draws", draws), ("budget", budget)):
            if given is not None:
                raise UnsupportedError(f"solve: `{name}` does not work with unknown scalars ({unknowns.names[0]}).")
        how = _hierarchy(hierarchy)
        if isinstance(strategy, Strategy):
            chosen, why = strategy, "Chosen by the caller."
        else:
            chosen, why = choose(*typical, how, len(unknowns.names))
        job = Job(
            unknowns=unknowns,
            strategy=chosen,
            why=why,
            hierarchy=how,
            seed=seed,
            keys=keys,
            num_samples=num_samples,
            chunk=chunk,
            reproducible=reproducible,
        )
        return _returned(solve_unknowns(job, progress or NoProgress()), throw)
    if hierarchy is not None:
        raise invalid(
            "solve",
            "hierarchy",
            "left out: no scalar is unknown",
            repr(hierarchy),
            "Give a distribution, e.g. iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=3)).",
        )
    with torch.no_grad():
        warnings = _derivative_warning(problem, prior)
    if draws is None:
        device = problem.data.device

        def draws(items: Sequence[int], samples: Sequence[int]) -> DrawLike:
            return Draws.for_rows(seed, [keys[b] for b in items], samples, device)

    limit = check_budget("solve", budget, strategy)
    call = Call(
        problem=problem,
        prior=prior,
        num_samples=num_samples,
        seed=seed,
        keys=keys,
        draws=draws,
        chunk=chunk,
        reproducible=reproducible,
        saved=saved,
        progress=progress or NoProgress(),
    )
    certificate = None
    if isinstance(strategy, Strategy):
        rung = Candidate(strategy=strategy, why=f"Chosen by the caller. {strategy.note}".strip())
        found = call.run(rung)
    else:
        found, rung, certificate = climb(call, candidates(problem, prior, num_samples, rows_alone=reproducible), limit)
    lead = (num_samples, batch) if problem.batched else (num_samples,)
    samples, chi2, weights = found.samples, found.chi2, found.log_weights
    failed = ~torch.isfinite(samples).flatten(1).all(1)
    if weights is not None:  # NaN and +inf are no weights; -inf is a weight of zero
        failed |= weights.isnan() | (weights == torch.inf)
    # A walk that ran away is a failed row before it overflows: nothing the prior allows is a million scales from its
    # mean.
    unit = prior.noise(torch.ones(1, *problem.shape, dtype=samples.dtype, device=samples.device)).abs()
    failed |= ((samples - prior.mean).abs() > _RUNAWAY * prior.scale * unit.amax()).flatten(1).any(1)
    samples = blanked(samples, failed)
    status = Status.of(failed)
    warnings += _level_warnings(prior, rung.strategy)
    warnings += fit_warnings(torch.where(failed, torch.nan, chi2), found.info)
    if weights is not None:
        warnings += thinned(weights.view(num_samples, batch), failed.view(num_samples, batch))
    result = Result(
        samples=samples.view(*lead, *problem.shape),
        status=status,
        failed=failed.view(lead),
        batched=problem.batched,
        shape=problem.shape,
        chi2=torch.where(failed, torch.nan, chi2).view(lead),
        log_weights=None if weights is None else weights.view(lead),
        strategy=rung.strategy.name,
        why=rung.why,
        nfe=found.calls["denoise"] / found.processed,
        vjps=found.calls["vjp"] / found.processed,
        operator_calls={k: v for k, v in found.calls.items() if k not in ("denoise", "vjp")},
        seconds=found.seconds,
        seed=seed,
        settings={
            "strategy": repr(rung.strategy),
            "num_samples": num_samples,
            "chunk": found.chunk,
            "reproducible": reproducible,
            "operator": repr(problem.operator),
            "noise": repr(problem.noise),
            "prior": repr(prior),
            "dtype": str(problem.data.dtype),
            "units": problem.units,
            **({"prior notes": list(prior.notes)} if prior.notes else {}),
            # What `compare` tells the same data by.
            **({"data": data_fingerprint(problem)} if "log_evidence" in found.info else {}),
        },
        versions={"invsolve": _version(), "torch": torch.__version__, "python": platform.python_version()},
        info={k: v.view(lead) for k, v in found.info.items()},
        layout=None,
        problem=problem,
        prior=prior,
        warnings=(*warnings, *found.warnings),
        certificate=certificate,
        strategy_object=rung.strategy,
    )
    return _returned(result, throw)


def sample(
    prior: Prior,
    *,
    num_samples: int,
    strategy: Strategy | None = None,
    seed: int = 0,
    chunk: int | None = None,
    reproducible: bool = False,
    progress: Progress | None = None,
    throw: bool = True,
) -> Result:
    """Draw from the prior itself by running its denoiser down the noise levels (`iv.strategies.Unconditional`).

    Samples are ``(num_samples, *prior.shape)``. For priors with an exact law this is the test of a sampler;
    ``prior.sample(n)`` draws exactly.
    """
    from invsolve.operators.mask import Subsample
    from invsolve.strategies.guidance.unconditional import Unconditional

    if not isinstance(prior, Prior):
        raise invalid_type("sample", "prior", "an iv.priors.Prior", prior)
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
    if throw and result.status is not Status.SUCCESS:
        count, rows = int(result.failed.sum()), result.failed.numel()
        others = " With throw=False, or in the error's `result`, are the others." if count < rows else ""
        error = SolveError(f"solve: {count} of {rows} samples failed. {result.status.value}{others}")
        error.result = result
        raise error
    return result


# --- the border ------------------------------------------------------------------------------------------------------
def _checked(A: Any, y: Any, prior: Any, noise: Any) -> tuple[Problem, Prior]:
    if isinstance(A, Problem):
        if prior is not None and y is not None:
            raise invalid_type("solve", "y", "left out when the first argument is a Problem: solve(problem, prior)", y)
        problem, prior = A, prior if y is None else y
        if noise is not None:
            raise invalid("solve", "noise", "left out when the first argument is a Problem", noise)
        if not isinstance(prior, Prior):
            raise not_a_prior(prior)
    else:
        if not isinstance(prior, Prior):
            raise not_a_prior(prior)
        if not isinstance(A, Operator):
            raise invalid_type(
                "solve",
                "A",
                "an iv.operators.Operator or an iv.Problem",
                A,
                "Wrap a function: iv.operators.from_callable(f, in_shape, out_shape).",
            )
        if noise is None:
            raise invalid(
                "solve", "noise", "given: a positive number (the std of Gaussian noise) or an iv.noise model", None
            )
        check_pair(A, prior)
        dims = signal_dims(A, y)
        y = as_tensor("solve", "y", y, dtype=A.dtype or prior.dtype, device=prior.device)
        problem = Problem(A, y, noise=noise, dims=dims)
    check_pair(problem.operator, prior)
    real = kind_dtype(problem.data.dtype, "real")
    if real != prior.dtype:
        raise invalid_type(
            "solve",
            "y",
            f"of the prior's precision, {prior.dtype}",
            str(problem.data.dtype),
            f"Convert one of them: y.to(...), or prior.to(dtype={real}).",
        )
    if problem.data.device != prior.device:
        raise invalid(
            "solve", "y", f"on the prior's device, {prior.device}", problem.data.device, "Move one: prior.to(device)."
        )
    if prior.learned:
        from invsolve.priors.learned.adapt import check_scale

        with torch.no_grad():
            check_scale(problem, prior)
    return problem, prior


def check_pair(A: Operator, prior: Prior, owner: str = "solve") -> None:
    """Raise unless the prior is over the signals that the operator takes: shape, kind, precision."""
    if tuple(prior.shape) != tuple(A.in_shape):
        raise invalid(
            owner, "prior", f"of the shape that {type(A).__name__} takes, {tuple(A.in_shape)}", tuple(prior.shape)
        )
    if prior.kind != A.in_kind:
        raise invalid(
            owner,
            "prior",
            f"{A.in_kind}, as {type(A).__name__} takes",
            prior.kind,
            "Build the operator or the prior for that kind: most take kind=, GaussianPrior takes it from its mean.",
        )
    if A.dtype is not None and A.dtype != prior.dtype:
        raise invalid_type(
            owner, "A", f"of the prior's precision, {prior.dtype}", str(A.dtype), "Convert one: A.to(dtype=...)."
        )


def not_a_prior(prior: object, owner: str = "solve") -> Exception:
    return invalid_type(
        owner,
        "prior",
        "an iv.priors.Prior",
        prior,
        "Wrap a denoiser D(x, sigma): iv.priors.from_denoiser(f, shape=..., mean=..., scale=...).",
    )


def check_budget(owner: str, budget: Any, strategy: Strategy | str) -> Budget | None:
    """A budget, or seconds, as a Budget; None stays None. Only ``"auto"`` has one."""
    if budget is not None and isinstance(strategy, Strategy):
        raise invalid(owner, "budget", "left out with a strategy of your own choice, which runs once", repr(budget))
    if budget is None or isinstance(budget, Budget):
        return budget
    if isinstance(budget, (int, float)) and not isinstance(budget, bool):
        return Budget(seconds=budget)
    raise invalid_type(owner, "budget", "a number of seconds or an iv.Budget", budget)


def _strategy(strategy: Any, problem: Problem, prior: Prior) -> Strategy | str:
    if isinstance(strategy, str):
        if strategy != "auto":
            known = strategy if strategy in strategies.__all__ else "MMPS"
            hint = f"For example iv.strategies.{known}()."
            raise invalid("solve", "strategy", "'auto' or an iv.strategies object", repr(strategy), hint)
        return "auto"
    if not isinstance(strategy, Strategy):
        name = getattr(strategy, "__name__", "")
        hint = f"Call it: strategy={name}()." if callable(strategy) and name else ""
        if isinstance(strategy, Guidance):
            hint = "A guidance needs a sampler: iv.strategies.Guided(guidance=..., sampler=iv.samplers.DPMSolver2M())."
        raise invalid_type("solve", "strategy", "'auto' or an iv.strategies object", name or strategy, hint)
    if not isinstance(getattr(strategy, "num_steps", None), int):
        raise invalid_type(
            strategy.name, "num_steps", "an integer, how often `step` is called", getattr(strategy, "num_steps", None)
        )
    if lacking := strategy.missing(problem, prior):
        raise UnsupportedError(
            f"solve: strategy {strategy.name} needs what is not there: {lacking}. "
            f"What would do here: {alternatives(problem, prior)}; all of them: iv.strategies.advise(A, prior, noise)."
        )
    return strategy


def _hierarchy(hierarchy: Any) -> Hierarchy:
    if hierarchy is not None and not isinstance(hierarchy, Hierarchy):
        raise invalid_type("solve", "hierarchy", "an iv.Hierarchy", hierarchy)
    return hierarchy or Hierarchy()


def _checkpoint(checkpoint: Any) -> Checkpoint | None:
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        saved = checkpoint
    elif isinstance(checkpoint, (str, os.PathLike)):
        saved = Checkpoint(path=checkpoint)
    else:
        raise invalid_type("solve", "checkpoint", "a path or an iv.Checkpoint", checkpoint)
    if saved is not None and not (folder := Path(saved.path).resolve().parent).is_dir():
        raise invalid("solve", "checkpoint", "in a folder that exists", str(folder), "Make it first.")
    return saved


def _level_warnings(prior: Prior, strategy: Strategy) -> tuple[str, ...]:
    """Levels of the caller's own grid that a network was not trained on; the solver's own grid has none.

    Here, once a solve, and not in the denoiser, which would have to look at a level on its device at every call.
    """
    grid = strategy.grid if isinstance(strategy, Guided) else None
    if grid is None:
        return ()
    levels, (floor, ceiling) = grid[grid > 0].double(), prior.sigma_range
    low, high = float(levels.min()), float(levels.max())
    if low >= floor * (1 - 1e-6) and high <= ceiling * (1 + 1e-6):
        return ()
    return (
        f"the grid goes from {high:.3g} to {low:.3g}, the prior was made for {ceiling:.3g} to {floor:.3g}: outside "
        "of that its network is told the nearest level",
    )


def _derivative_warning(problem: Problem, prior: Prior) -> tuple[str, ...]:
    """One cheap test of every operator: wrong derivatives give finite, plausible, wrong posteriors."""
    from invsolve.testing import derivative_gap, dot_test

    A = problem.operator
    if prod(A.out_shape) == 0 or isinstance(A, BlackBox):
        return ()
    if not isinstance(A, LinearOperator):
        gap = derivative_gap(A, prior.mean, prior.scale)
        words = f"the derivative of {type(A).__name__} disagrees with finite differences by {gap:.2g} of its size"
        return (f"{words}: see iv.testing.check_operator",) if not gap <= _DERIVATIVE_WARN else ()
    gap = dot_test(A, like=problem.data)
    if not gap <= _DOT_ERROR:
        raise OperatorError(
            f"solve: `A` ({type(A).__name__}) must have the adjoint it states: <Au, v> and <u, A^H v> differ by "
            f"{gap:.2g} of their size (rounding is about 1e-7). Run iv.testing.check_operator(A)."
        )
    return (
        (f"the adjoint of {type(A).__name__} is off by {gap:.1g}: see iv.testing.check_operator",)
        if gap > _DOT_WARN
        else ()
    )


def _item_keys(item_ids: Any, batch: int) -> list[int]:
    if item_ids is None:
        return list(range(batch))
    if isinstance(item_ids, (str, bytes)) or not isinstance(item_ids, Iterable):
        raise invalid_type("solve", "item_ids", "a sequence of integers or strings", item_ids)
    keys = [item_key(item) for item in item_ids]
    if len(keys) != batch:
        raise invalid("solve", "item_ids", f"{batch} ids, one for each row of y", len(keys))
    if len(set(keys)) != batch:
        raise invalid("solve", "item_ids", "all different", list(item_ids))
    return keys


@cache  # read from a file each time: 4 ms, in every one of the many solves of a hierarchical one
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("invsolve")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
