"""`calibrate`: is a strategy's posterior right on *this* problem? Prior draws, simulated data, solves, comparison."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invsolve.calibration.ranking import OWN, Functional, Measured, Plan, measure
from invsolve.calibration.report import Calibration
from invsolve.calibration.tests import assess
from invsolve.core.checkpoint import check_fingerprint, load_state, save_state
from invsolve.core.files import check_target, write_or_warn
from invsolve.core.fingerprint import fingerprint
from invsolve.core.random import Draws
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, kind_dtype
from invsolve.errors import FileError, SolveError, invalid, invalid_type, on_interrupt
from invsolve.noise import Noise
from invsolve.noise.convert import noise_for_data
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.identity import of_shape
from invsolve.operators.inputs import not_an_operator
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import HasPosterior
from invsolve.priors.compatibility import check_pair, not_a_prior
from invsolve.problem import checked_problem, in_precision
from invsolve.progress import Progress, as_progress, metered
from invsolve.solving.solve import solve
from invsolve.solving.spending import Budget
from invsolve.solving.validation import check_budget
from invsolve.strategies.base import Strategy

_NUMBERS = 2**22  # of the samples of one batch of runs
_NUMBERS_COUPLED = 2**24  # the same times the numbers of a signal (to 128): strategies with a covariance for each row
_BATCH = 64  # runs: several batches, so that there is progress to show and to save
_PILOT = 64  # prior draws that references and units of TARP come from, fewer of signals of above 2^18 numbers


@in_defined_state
@torch.no_grad()
def calibrate(
    A: Operator,
    prior: Prior,
    noise: Any,
    *,
    strategy: Strategy | str = "auto",
    budget: Budget | float | None = None,
    runs: int = 200,
    num_samples: int = 255,
    functionals: Mapping[str, Functional] | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    batch: int | None = None,
    progress: Progress | bool | None = None,
) -> Calibration:
    """Test ``strategy`` on data of this operator, noise and prior: simulation-based calibration, TARP, scores.

    Each run draws a truth from the prior and data ``y = A(truth) + noise``, and solves for posterior samples; if they
    are right, truth and samples are exchangeable [1]_, and ranks of the truth are uniform. Ranked are the components
    (real values of the signal; all up to 64, else 32 of them at random), random projections, and of the whole signal
    the energy ``|x|^2``, the largest entry (of ``|x|`` if complex), ``log p(y|x)``, the distance to a random point
    (TARP [2]_), the spread ``sum (x - m)^2 / s^2`` in units of the posterior, and ``functionals``.

    ``report.passed`` is False for a right posterior in at most 2 % of reports, all tests together: rank ECDFs in exact
    simultaneous bands [3]_, and sums of rank scores of all components for bias and spread, whose null distribution
    takes their dependence from the samples. ``str(report)`` says what is wrong and by how much, or what would have been
    detected; a passed test says no more than that. Failed samples are left out, counted, and fail the report.

    Parameters
    ----------
    A : Operator
        With per-item operators run r uses item ``r mod A.batch``.
    prior : Prior
        That truths are drawn from, and that is solved with.
    noise : float or Noise
        As in `iv.solve`.
    strategy, budget
        As in `iv.solve`; the budget is that of the solve of one batch of runs, not of all, of which there are
        ``runs / batch``: four unless given otherwise, and more where a signal is large.
        ``report.certified`` counts the runs that "auto" certified.
    runs : int
        At least 2. Run r is item r of a solve with this ``seed``, which truths and noise share no random numbers with.
    num_samples : int
        Posterior samples of a run, at least 3.
    functionals : mapping of str to callable, optional
        ``{name: f}``, f taking rows ``(rows, *shape)`` to ``(rows,)``.
    seed : int
        What every random number is made from.
    checkpoint : str or path, optional
        A file that is written after each batch; the same call goes on from it, also with more ``runs``.
    batch : int, optional
        Runs that are solved in one call (default: up to 64, and 2^22 values of samples).
    progress : bool or Progress, optional
        True for a bar, or a meter of `iv.progress`; silence by default.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError, InputTypeError
        Before any work is done.
    UnsupportedError
        For a strategy that cannot take this problem.
    CheckpointError
        For a checkpoint of another calibration.
    SolveError
        If prior draws or data are not finite.

    Notes
    -----
    Weighted samples (SMC) are ranked by their weighted CDF, with the truth as one sample of average weight. Samples
    that depend on each other, as particles do, are exchangeable with the truth only as their number grows: what is then
    tested is that many particles.

    References
    ----------
    .. [1] Talts et al. 2018, arXiv:1804.06788
    .. [2] Lemos et al. 2023, arXiv:2302.03026
    .. [3] Saeilynoja, Buerkner & Vehtari 2022, Stat. Comput. 32:32

    Examples
    --------
    >>> import torch
    >>> import invsolve as iv
    >>> prior = iv.priors.GaussianPrior(mean=torch.zeros(4), covariance=torch.eye(4))
    >>> A = iv.operators.Mask(mask=torch.tensor([True, True, False, True]))
    >>> report = iv.calibrate(A, prior, noise=0.5, runs=50, num_samples=63)
    >>> report.passed, report.runs
    (True, 50)
    """
    A, model = _checked(A, prior, noise)
    runs = check_int("calibrate", "runs", runs, minimum=2)
    num_samples = check_int("calibrate", "num_samples", num_samples, minimum=3)
    seed = check_int("calibrate", "seed", seed)
    own = _functionals(functionals)
    limit = check_budget("calibrate", budget, strategy)
    meter = as_progress("calibrate", progress)
    size = max(prod(A.in_shape) * (2 if prior.kind == "complex" else 1), prod(A.out_shape), 1)
    known = isinstance(prior, HasPosterior) and isinstance(A, LinearOperator)
    batch = _batch(batch, runs, num_samples, size, strategy, known)
    pilot = _prior_draws(prior, seed, list(range(min(_PILOT, max(4, 2**24 // size)))), "calibrate, pilot")
    plan = Plan.make(pilot, num_samples, seed, own)
    saved = _path(checkpoint)
    identity = (
        {}
        if saved is None
        else {
            "operator": A.fingerprint(),
            "noise": fingerprint(model),
            "prior": prior.fingerprint(),
            "strategy": strategy.fingerprint() if isinstance(strategy, Strategy) else str(strategy),
            "seed": str(seed),
            "num_samples": str(num_samples),
            "dtype": str(prior.dtype),
            "functionals": fingerprint(own),
            "budget": repr(limit),
        }
    )
    rows, sums, account = _load(saved, identity, runs)
    done = len(rows["good"]) if rows else 0

    def interrupted() -> str:
        if saved is None:
            return f"calibrate: interrupted, and nothing was saved of {done} runs. With checkpoint= it would go on."
        if not done:
            return f"calibrate: interrupted, and nothing was saved yet: {str(saved)!r} is written after {batch} runs."
        return f"calibrate: interrupted. {str(saved)!r} holds {done} of {runs} runs: the same call goes on from there."

    with on_interrupt(interrupted), metered(meter, runs) as step:
        while done < runs:
            started = time.perf_counter()
            numbers = list(range(done, min(done + batch, runs)))
            found, account = _run(plan, A, model, prior, strategy, limit, numbers, account)
            rows = {k: torch.cat([rows[k], v]) if rows else v for k, v in found.rows.items()}
            sums = {k: sums[k] + v if sums else v for k, v in found.sums.items()}
            done = numbers[-1] + 1
            account["seconds"] += time.perf_counter() - started
            if saved is not None:
                tensors = {f"rows.{k}": v for k, v in rows.items()} | {f"sums.{k}": v for k, v in sums.items()}
                meta = {"identity": identity, "account": account}
                failed = write_or_warn(partial(save_state, saved, tensors, meta), "The calibration goes on without it.")
                if failed is not None:
                    account["warnings"] = [*account["warnings"], failed.removesuffix(".")]
            step(done, runs)
    del account["solved"]
    return assess(plan, rows, sums, {**account, "warnings": tuple(dict.fromkeys(account["warnings"]))})


def _run(
    plan: Plan,
    A: Operator,
    noise: Noise,
    prior: Prior,
    strategy: Strategy | str,
    budget: Budget | None,
    numbers: list[int],
    account: dict[str, Any],
) -> tuple[Measured, dict[str, Any]]:
    """One batch: draw, simulate, solve, measure."""
    truth = _prior_draws(prior, plan.seed, numbers, "calibrate, truth")
    index = torch.tensor([r % (A.batch or 1) for r in numbers], device=prior.device)
    A, noise = A.take(index) if A.batch is not None else A, noise.take(index)
    source = Draws.for_rows(plan.seed, numbers, [0] * len(numbers), prior.device, purpose="calibrate, noise")
    y = noise.sample(A(truth), source)
    if A.observed is not None:
        y = torch.where(A.observed, y, 0)
    if not bool(torch.isfinite(y).all()):
        raise SolveError("calibrate: data simulated from prior draws are not finite. Look at A(prior.sample(n)).")
    problem = checked_problem("calibrate", A, y, noise=noise)
    result = solve(
        problem,
        prior,
        strategy=strategy,
        budget=budget,
        num_samples=plan.num_samples,
        weighted=True,
        seed=plan.seed,
        item_ids=numbers,
        throw=False,
    )
    made = result.certificate if strategy == "auto" else None
    certified = None if made is None else int(made.passed.sum())
    found = measure(plan, problem, truth, result.samples, result.weights, numbers)
    found.rows["failed"] = result.failed.sum(0).cpu()
    before = account.get("solved", 0)
    used = account["strategy"].split(" and ") if before else []  # "auto" may take another one for other data
    total = before + len(numbers)
    return found, {
        "strategy": " and ".join(dict.fromkeys([*used, result.strategy])),
        "why": result.why,
        "nfe": (account.get("nfe", 0.0) * before + result.nfe * len(numbers)) / total,
        "seconds": account.get("seconds", 0.0),
        "settings": result.settings,
        "solved": total,
        "certified": None if certified is None else (account.get("certified") or 0) + certified,
        "warnings": [
            *account.get("warnings", []),
            *(w for w in result.warnings if w != result.certified),
        ],  # runs are counted
    }


def _prior_draws(prior: Prior, seed: int, numbers: list[int], purpose: str) -> Tensor:
    """Draw r of the prior for each r of ``numbers``, by streams that no solve shares."""
    draws = Draws.for_rows(seed, numbers, [0] * len(numbers), prior.device, purpose=purpose)
    x = prior._sample(len(numbers), draws)
    if not bool(torch.isfinite(x).all()):
        raise SolveError("calibrate: draws of the prior are not finite. Look at prior.sample(n).")
    return x


# --- the border -----------------------------------------------------------------------------------------------------
def _checked(A: object, prior: object, noise: object) -> tuple[Operator, Noise]:
    if not isinstance(prior, Prior):
        raise not_a_prior("calibrate", prior)
    if not isinstance(A, Operator):
        raise not_an_operator("calibrate", "A", A)
    A = of_shape(A, tuple(prior.shape), prior.kind)
    check_pair("calibrate", A, prior)
    A = in_precision(A, prior.dtype)
    dtype = kind_dtype(prior.dtype, A.out_kind)
    shape, batch = tuple(A.out_shape), A.batch or 1
    return A, noise_for_data("calibrate", noise, out_shape=shape, batch=batch, dtype=dtype, device=prior.device)


def _functionals(functionals: object) -> dict[str, Functional]:
    if functionals is None:
        return {}
    if not isinstance(functionals, Mapping):
        raise invalid_type("calibrate", "functionals", "a mapping of names to functions", functionals)
    for name, function in functionals.items():
        if not isinstance(name, str) or not callable(function):
            raise invalid_type("calibrate", "functionals", "a mapping of names to functions", function)
        if not name or name in (*OWN, "bias", "components", "projections", "rows", "spread of components"):
            raise invalid("calibrate", "functionals", "under names that are not taken", repr(name))
    return dict(functionals)


def _batch(batch: object, runs: int, num_samples: int, size: int, strategy: object, closed: bool) -> int:
    if batch is not None:
        return check_int("calibrate", "batch", batch, minimum=1)
    numbers = _NUMBERS // (num_samples * size)
    if strategy.couples != "nothing" if isinstance(strategy, Strategy) else not closed:
        numbers = _NUMBERS_COUPLED // (num_samples * size * min(size, 128))
    return max(1, min(runs, _BATCH, numbers))


def _path(checkpoint: str | os.PathLike[str] | None) -> Path | None:
    if checkpoint is None:
        return None
    check_target("calibrate", "checkpoint", checkpoint, regular=True)
    return Path(checkpoint)


def _load(
    path: Path | None, identity: dict[str, str], runs: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    if path is None or not path.exists():
        return {}, {}, {}
    tensors, meta = load_state(path)
    check_fingerprint(meta.get("identity", {}), identity)
    parts: dict[str, dict[str, Tensor]] = {"rows": {}, "sums": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        parts.setdefault(kind, {})[rest] = value
    if "good" not in parts["rows"] or not isinstance(meta.get("account"), dict):
        raise FileError(f"calibrate: {str(path)!r} is not a checkpoint of a calibration.")
    if (found := len(parts["rows"]["good"])) > runs:
        raise invalid("calibrate", "runs", f"at least {found}, as many as are in the checkpoint", runs)
    return parts["rows"], parts["sums"], meta["account"]
