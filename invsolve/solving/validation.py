"""What `solve` is asked for, checked once: inside it everything is what it should be."""

from __future__ import annotations

import os
from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor

from invsolve import strategies
from invsolve.core.arrays import one_variable, widened
from invsolve.core.checkpoint import Checkpoint
from invsolve.core.files import check_target
from invsolve.core.public_names import alike
from invsolve.core.random import item_key
from invsolve.core.validation import check_int, kind_dtype
from invsolve.errors import OperatorError, UnsupportedError, invalid, invalid_type
from invsolve.hyperparameters.request import Hierarchy
from invsolve.noise import Poisson, PoissonTransmission, Quantised, Saturated, SinglePhoton
from invsolve.noise.convert import NOISES
from invsolve.noise.rounding import drowned
from invsolve.operators.base import BlackBox, LinearOperator, Operator
from invsolve.operators.contract import affine, linearity_gap, normal_rows
from invsolve.operators.identity import of_shape
from invsolve.operators.inputs import not_an_operator
from invsolve.priors.base import Prior
from invsolve.priors.capabilities import Learned
from invsolve.priors.compatibility import check_pair, not_a_prior
from invsolve.priors.inferred import linear_part
from invsolve.problem import Problem, checked_problem, precise
from invsolve.progress import as_progress
from invsolve.solving.spending import Budget
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import alternatives
from invsolve.strategies.guidance.guided import Guidance, Guided

_DOT_ERROR, _DOT_WARN = 1e-3, 3e-5  # adjoint gaps of a user's operator that are refused, mentioned
_ZEROS = 5  # exact ones of continuous data, which are impossible
_DERIVATIVE_WARN = 0.1  # relative error of a non-linear operator's derivative that is mentioned


def checked_model(A: Any, y: Any, prior: Any, noise: Any) -> tuple[Problem, Prior]:
    """What the first arguments of `solve` mean, or what is wrong with them."""
    if isinstance(A, Problem):
        if prior is not None and y is not None:
            raise invalid_type("solve", "y", "left out when the first argument is a Problem: solve(problem, prior)", y)
        problem, prior = A, prior if y is None else y
        if noise is not None:
            raise invalid("solve", "noise", "left out when the first argument is a Problem", noise)
        if not isinstance(prior, Prior):
            raise not_a_prior("solve", prior)
    else:
        if isinstance(y, (Operator, Prior)) and not isinstance(A, Problem):
            kind, place = ("an operator", "first") if isinstance(y, Operator) else ("a prior", "third")
            words = f"It comes {place}: solve(A, y, prior, noise=...)."
            raise invalid_type("solve", "y", "the data", f"{kind}, {type(y).__name__}", words)
        if not isinstance(prior, Prior):
            raise not_a_prior("solve", prior)
        if not isinstance(A, Operator):
            raise not_an_operator("solve", "A", A, "an iv.operators.Operator or an iv.Problem")
        A = of_shape(A, tuple(prior.shape), prior.kind)
        if noise is None:
            want = "given: a positive number (the std of Gaussian noise) or an iv.noise model"
            raise invalid("solve", "noise", want, None, NOISES)
        check_pair("solve", A, prior)
        named = y = one_variable("solve", "y", y)
        y = widened(precise("solve", "y", y, noise, dtype=prior.dtype, device=prior.device), prior.dtype)
        problem = checked_problem("solve", A, y, noise=noise, named=named)
    check_pair("solve", problem.operator, prior)
    if widened(problem.data, prior.dtype) is not problem.data:
        problem = problem.to(dtype=prior.dtype)
    real = kind_dtype(problem.data.dtype, "real")
    if real != prior.dtype:  # the data are the more precise ones
        prior = prior.to(dtype=real)
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
    check_units(problem, prior)
    return problem, prior


def check_units(problem: Problem, prior: Prior) -> None:
    """Refuse data of other units than a learned prior's."""
    if isinstance(prior, Learned):
        from invsolve.priors.learned.adapt import check_scale

        with torch.no_grad():
            check_scale(problem, prior)


def check_options(
    *, num_samples: Any, seed: Any, chunk: Any, reproducible: Any, throw: Any, weighted: Any, progress: Any, draws: Any
) -> None:
    """Raise unless the options of `solve` that need no problem are what they must be."""
    if num_samples is not None:
        check_int("solve", "num_samples", num_samples, minimum=1)
    check_int("solve", "seed", seed)
    if chunk is not None:
        check_int("solve", "chunk", chunk, minimum=1)
    for name, value in (("reproducible", reproducible), ("throw", throw), ("weighted", weighted)):
        if not isinstance(value, bool):
            raise invalid_type("solve", name, "True or False", value)
    as_progress("solve", progress)
    if draws is not None and not callable(draws):
        raise invalid_type("solve", "draws", "a function of (items, samples) that gives a source of numbers", draws)


def check_budget(owner: str, budget: Any, strategy: Strategy | str) -> Budget | None:
    """A budget, or seconds, as a Budget; None stays None. Only ``"auto"`` has one."""
    if budget is not None and isinstance(strategy, Strategy):
        raise invalid(owner, "budget", "left out with a strategy of your own choice, which runs once", repr(budget))
    if budget is None or isinstance(budget, Budget):
        return budget
    if isinstance(budget, (int, float)) and not isinstance(budget, bool):
        return Budget(seconds=budget)
    raise invalid_type(owner, "budget", "a number of seconds or an iv.Budget", budget)


def checked_strategy(strategy: Any, problem: Problem, prior: Prior) -> Strategy | str:
    """A strategy that can take the problem, or "auto"."""
    if isinstance(strategy, str):
        if strategy != "auto":
            meant = [name.rpartition(".")[2] for name in alike("invsolve.strategies", strategy)]
            known = next((name for name in (strategy, *meant) if name in strategies.__all__), "MMPS")
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


def checked_hierarchy(hierarchy: Any) -> Hierarchy:
    """How unknown scalars are inferred, the default one for None."""
    if hierarchy is not None and not isinstance(hierarchy, Hierarchy):
        raise invalid_type("solve", "hierarchy", "an iv.Hierarchy", hierarchy)
    return hierarchy or Hierarchy()


def checked_checkpoint(checkpoint: Any) -> Checkpoint | None:
    """A file to save to, of a path or as it was given; None for none."""
    if checkpoint is None or isinstance(checkpoint, Checkpoint):
        saved = checkpoint
    elif isinstance(checkpoint, (str, os.PathLike)):
        saved = Checkpoint(path=checkpoint)
    else:
        raise invalid_type("solve", "checkpoint", "a path or an iv.Checkpoint", checkpoint)
    if saved is not None:
        check_target("solve", "checkpoint", saved.path, regular=True)
    return saved


def level_warnings(prior: Prior, strategy: Strategy) -> tuple[str, ...]:
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
        "of that its network is told the nearest level, for which it was not trained. Leave grid out, or end it there",
    )


def data_warnings(problem: Problem, prior: Prior) -> tuple[str, ...]:
    """What is suspicious about operator and data, before anything is run."""
    return derivative_warning(problem, prior) + filler_warning(problem, prior) + rounding_warning(problem)


def derivative_warning(problem: Problem, prior: Prior) -> tuple[str, ...]:
    """One cheap test of every operator: wrong derivatives give finite, plausible, wrong posteriors."""
    with torch.no_grad():
        return _derivative_warning(problem, prior)


def _derivative_warning(problem: Problem, prior: Prior) -> tuple[str, ...]:
    from invsolve.testing import derivative_gap, dot_test

    A = linear_part(problem.operator)
    if prod(A.out_shape) == 0 or isinstance(A, BlackBox):
        return ()
    if not isinstance(A, LinearOperator):
        gap = derivative_gap(A, prior.mean, prior.scale)
        words = f"the derivative of {type(A).__name__} disagrees with finite differences by {gap:.2g} of its size"
        said = f"{words}, and guidance and chains follow it: iv.testing.check_operator(A) says where it is wrong"
        return (said,) if not gap <= _DERIVATIVE_WARN else ()
    gap = dot_test(A, like=problem.data)
    if not gap <= _DOT_WARN:
        _refuse_what_is_not_linear(A, problem)
    if not gap <= _DOT_ERROR:
        raise OperatorError(
            f"solve: `A` ({type(A).__name__}) must have the adjoint it states: <Au, v> and <u, A^H v> differ by "
            f"{gap:.2g} of their size (rounding is about 1e-7). Run iv.testing.check_operator(A)."
        )
    return (
        (
            f"the adjoint of {type(A).__name__} is off by {gap:.1g} of its size, where rounding explains 1e-7: samples "
            "may be off by as much. iv.testing.check_operator(A) says where",
        )
        if gap > _DOT_WARN
        else ()
    )


def _refuse_what_is_not_linear(A: LinearOperator, problem: Problem) -> None:
    """Of an operator whose adjoint does not belong to it: because there is none."""
    dtype, device = problem.data.real.dtype, problem.data.device
    x, z = (normal_rows(A.batch or 1, A.in_shape, A.in_kind, dtype, device, seed) for seed in (2, 3))
    if linearity_gap(A, x, z) <= _DOT_ERROR:
        return
    repair = affine(A, x) or (
        "A(x + z) is not A(x) + A(z): from_callable(f, in_shape, out_shape) without kind='linear', or a subclass of "
        "iv.operators.Operator."
    )
    raise OperatorError(f"solve: `A` ({type(A).__name__}) must be linear, as it says. {repair}")


def filler_warning(problem: Problem, prior: Prior) -> tuple[str, ...]:
    """Zeros in place of data that were never measured, which the likelihood would take for data.

    Under noise with a density no datum is exactly 0. Where all are whose clean value the signal has no part in (their
    rows of the operator are 0), or many others, in data that are not rounded, they are said to be suspicious; looked
    for only where there are zeros.
    """
    A, zero = linear_part(problem.operator), problem.data == 0
    observed = torch.ones_like(zero) if A.observed is None else A.observed.expand(zero.shape)
    atoms = (Poisson, PoissonTransmission, Quantised, Saturated, SinglePhoton)  # 0 is a datum like others
    if isinstance(A, BlackBox) or isinstance(problem.noise, atoms) or not bool((zero & observed).any()):
        return ()
    rows, like = A.batch or 1, problem.data
    rng = torch.Generator().manual_seed(0)
    signals = torch.randn(2, *A.in_shape, generator=rng, dtype=problem.signal_dtype, device="cpu").to(like.device)
    with torch.no_grad():
        one, other = (A((prior.mean + prior.scale * z).expand(rows, *A.in_shape)) for z in signals)
    silent = ((one == other) & torch.isfinite(one)).expand(zero.shape) & observed
    filled = silent.flatten(1).any(1) & (zero | ~silent).flatten(1).all(1)
    say = "If they are fillers, say what was measured: iv.operators.Mask(measured) @ A"
    count = "they look never measured, and count as data, in the evidence and in a noise level that is inferred"
    if bool(filled.any()):
        row = int(filled.int().argmax())
        return (
            f"{int(silent[row].sum())} of the {int(observed[row].sum())} data are exactly 0 where no signal has a part "
            f"in them: {count}. {say}",
        )
    return _zeros(zero & observed, observed, like, count, say)


def _zeros(zero: Tensor, observed: Tensor, data: Tensor, count: str, say: str) -> tuple[str, ...]:
    """The same of zeros anywhere, ``zero`` (items, *out_shape), if the other data of their item are all different."""
    for row in range(len(zero)):
        number, others = int(zero[row].sum()), data[row][observed[row] & ~zero[row]]
        if number < _ZEROS or len(torch.unique(others)) < 0.9 * len(others):  # data that were rounded have zeros
            continue
        lines = []
        for axis in range(zero[row].ndim if zero[row].ndim > 1 else 0):
            empty, there = (v[row].movedim(axis, 0).flatten(1).sum(1) for v in (zero, observed))
            whole = int(((empty == there) & (there > 0)).sum())
            if 0 < whole < int((there > 0).sum()):
                lines.append(f"all at {whole} position{'s' if whole > 1 else ''} along axis {axis}")
        hint = ": is a mask along the wrong axis?" if len(lines) == 1 else ""
        where = f" ({' and '.join(lines)}{hint})" if lines else ""
        return (f"{number} of the {int(observed[row].sum())} data are exactly 0{where}: {count}. {say}",)
    return ()


def rounding_warning(problem: Problem) -> tuple[str, ...]:
    """Data whose numbers are so far apart that they cannot show the noise."""
    share = drowned(problem.noise, problem.data, problem.data.real.dtype)
    if share is None:
        return ()
    name = str(problem.data.real.dtype).removeprefix("torch.")
    return (
        f"the noise is as small as {16 / float(share):.2g} spacings of {name} numbers as large as the data, whose "
        "rounding is taken for signal: give the data in float64 or, where they are, without their offset",
    )


def item_keys(item_ids: Any, batch: int) -> list[int]:
    """The keys of the random streams of every item."""
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
