"""Gibbs sampling of unknown scalars with a strategy that gives no evidence: every row of the result is a chain.

A chain starts at scalars drawn from their prior, a noise level from its upper half (from above a chain finds its place
in a few sweeps; from below, where signals fit the noise, it moves by a factor of 1 + (2 m)^-1/2 a sweep for m data),
and alternates ``x | theta, y`` (the strategy) with the scalars given
the signal, in blocks, each from its exact conditional density:

- the noise level from ``p(sigma) p(y | x, sigma)``, by inversion on a lattice that is refined around the mass;
- the scalars of the operator from ``p(theta) p(y | x, theta)`` and
- those of the prior from ``p(theta) p(x | theta)``, on a lattice as in `invsolve.hyperparameters.lattice`.

A guided sampler leaves the finest structure of a signal a little too smooth, which p(x | theta) would take for a
smoother prior. The signal is therefore looked at under noise of twice the lowest level of the walk (a tenth of the
smallest posterior std): the data cannot tell the two apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from invsolve.core.arrays import numbers, to_real
from invsolve.core.random import Draws
from invsolve.errors import UnsupportedError
from invsolve.hyperparameters.lattice import MAX_DIMS, explore, run
from invsolve.hyperparameters.mixing import memory, mixed
from invsolve.hyperparameters.mode_search import Node
from invsolve.hyperparameters.request import HyperparameterDraws, HyperparameterRequest
from invsolve.hyperparameters.verdict import of_chains
from invsolve.noise import Gaussian
from invsolve.operators.base import BlackBox
from invsolve.priors.capabilities import HasDensity, Learned
from invsolve.progress import Progress, metered
from invsolve.results.result import Result
from invsolve.strategies.noise_levels import noise_levels

_SPACING = {1: 0.25, 2: 0.5, 3: 0.8}  # of the lattice of a block, in standard deviations of its conditional
_SCAN = (
    2.0  # prior stds: every row has a lattice of its own at every sweep, of densities that are smooth and have one peak
)
_POINTS = 257  # of a lattice over the noise level
_ZOOMS = 4
_TAIL = 30.0  # nats below the peak where the lattice of the noise level ends
_NUGGET = 2.0  # of the lowest noise level of the walk
_FEWEST = 10  # sweeps after which chains are looked at for the first time, unless their number was given
_GROWTH = 1.5  # of their number, until they have mixed
_MOST = 5_000
# Without a budget, about a minute's work of one core: an evaluation takes as long as _EACH numbers and its own, and of
# networks and simulators so many times as long.
_MOST_WORK, _EACH, _SLOW = 1.5e9, 512, 100.0


def draw_by_gibbs(request: HyperparameterRequest, progress: Progress) -> HyperparameterDraws:
    """The last state of ``num_samples`` chains for every item."""
    unknowns = request.unknowns
    _refuse(request)
    draws = request.draws(range(request.rows), "scalars")
    z = draws.normal((len(unknowns.names),), torch.float64, step=0).cpu()
    for column in unknowns.columns("noise"):
        z[:, column] = 1 + z[:, column].abs()
    nugget = _nugget(request) if unknowns.columns("prior") else None
    trace = list[Tensor]()
    sweeps = request.hierarchy.num_sweeps or _FEWEST
    with metered(progress, (sweeps + 1) * request.rows) as step:

        def report(sweep: int, rows: int) -> None:  # the last step is told when no more sweeps are needed
            total = (sweeps + 1) * request.rows
            step(min(sweep * request.rows + rows, total - 1), total)

        x, chi2, result = _signals(request, z, None, 0, report)
        while len(trace) < sweeps and not (trace and request.over()):
            z = _scalars(request, z, x, nugget, draws, len(trace) + 1, lambda: report(len(trace) + 1, 0))
            x, chi2, result = _signals(request, z, (x, result), len(trace) + 1, report)
            trace.append(z)
            if len(trace) == sweeps and request.hierarchy.num_sweeps is None and _goes_on(request, trace):
                sweeps = math.ceil(_GROWTH * sweeps)
        step((len(trace) + 1) * request.rows, (len(trace) + 1) * request.rows)
    slow = memory(unknowns.names, trace)
    how = f"{' and '.join(unknowns.names)}: by {len(trace)} Gibbs sweeps of a chain for every sample."
    warnings = (*result.warnings, *slow)
    if len(trace) < sweeps:
        many = f" of {sweeps}" if request.hierarchy.num_sweeps else ""
        warnings += (f"the budget was spent after {len(trace)}{many} Gibbs sweeps: give a larger one",)
    return HyperparameterDraws(
        samples=x,
        theta=unknowns.transport(z),
        chi2=chi2,
        info={},
        how=how,
        chunk=result.settings["chunk"],
        warnings=warnings,
        verdict=of_chains(trace, request.batch, slow, request.strategy),
    )


def _goes_on(request: HyperparameterRequest, trace: list[Tensor]) -> bool:
    """Whether sweeps that nobody counted go on: until the chains have mixed, within the budget.

    Without one the work is counted, and no clock is looked at: the answer does not depend on the speed of the machine.
    """
    if mixed(trace, request.batch, request.unknowns.names) or len(trace) >= _MOST:
        return False
    return request.limited or _GROWTH * _work(request) <= _MOST_WORK


def _work(request: HyperparameterRequest) -> float:
    """What was evaluated so far, in numbers that went through operator or denoiser."""
    problem, prior = request.unknowns.at(request.unknowns.medians)
    size = max(prod(problem.shape), prod(problem.operator.out_shape))
    slow = isinstance(prior, Learned) or isinstance(problem.operator, BlackBox)
    return request.calls() * (size + _EACH) * (_SLOW if slow else 1.0)


def _refuse(request: HyperparameterRequest) -> None:
    unknowns = request.unknowns
    if request.strategy.weighs:
        raise UnsupportedError(
            f"solve: Gibbs sweeps draw one signal at a time, and {request.strategy.name} weighs many against each "
            "other. Take a strategy without weights, such as iv.strategies.MMPS()."
        )
    for part in ("prior", "operator", "noise"):
        if len(unknowns.columns(part)) > MAX_DIMS:
            raise UnsupportedError(
                f"solve: at most {MAX_DIMS} scalars of the {part} can be inferred with a signal, and it has "
                f"{len(unknowns.columns(part))}. Fix some of them; many scalars without a signal are named parameters, "
                "iv.priors.independent."
            )
    if unknowns.columns("prior"):
        member = unknowns.prior_at(unknowns.medians)
        if not isinstance(member, HasDensity):
            raise UnsupportedError(
                f"solve: scalars of the prior need a prior that states its density, log_prob(x, sigma), or a strategy "
                f"that gives the evidence; {type(member).__name__} with {request.strategy.name} has neither. "
                "strategy=iv.strategies.SMC() estimates the evidence."
            )


def _signals(
    request: HyperparameterRequest,
    z: Tensor,
    before: tuple[Tensor, Result] | None,
    sweep: int,
    report: Callable[[int, int], None],
) -> tuple[Tensor, Tensor, Result]:
    """A signal for every row given its scalars: rows that share those of prior and operator run together.

    Where the budget ends, the rows that are left keep the signals of ``before``, which their scalars were drawn for.
    """
    unknowns, theta = request.unknowns, request.unknowns.transport(z)
    groups = _groups(theta[:, unknowns.columns("prior") + unknowns.model], range(request.rows))
    x = unknowns.problem.data.new_empty(request.rows, *unknowns.problem.shape, dtype=unknowns.problem.signal_dtype)
    chi2, done, result = x.real.new_empty(request.rows), 0, None if before is None else before[1]
    for rows in groups:
        report(sweep, done)
        index = torch.tensor(rows, device="cpu")
        problem = unknowns.problem_at(theta[index], (index % request.batch).to(x.device))
        if before is not None and request.over():
            x[index] = before[0][index]
            chi2[index] = problem.chi2(x[index]).to(chi2.dtype)
        else:
            result = request.sample_rows(problem, unknowns.prior_at(theta[rows[0]]), rows, f"solve, sweep {sweep}")
            x[index], chi2[index] = result.samples[0], result.chi2[0].to(chi2.dtype)
        done += len(rows)
    report(sweep, done)
    assert result is not None
    return x, chi2, result


def _scalars(
    request: HyperparameterRequest,
    z: Tensor,
    x: Tensor,
    nugget: Tensor | None,
    draws: Draws,
    sweep: int,
    tick: Callable[[], None],
) -> Tensor:
    """All scalars once, given the signals ``x`` ``(rows, *shape)``; chains that became NaN keep theirs."""
    z, unknowns = z.clone(), request.unknowns
    uniform = torch.special.ndtr(draws.normal((3,), torch.float64, step=sweep, index=1)).cpu()
    good = torch.isfinite(x).flatten(1).all(1).nonzero()[:, 0].cpu()
    if not len(good):
        return z
    if columns := unknowns.columns("operator"):
        z[good] = _block(z[good], columns, uniform[good, 0], _of_operator(request, z[good], x[good], good), tick)
    if unknowns.level is None and (columns := unknowns.columns("noise")):
        z[good] = _block(z[good], columns, uniform[good, 1], _of_noise(request, z[good], x[good], good), tick)
    elif (column := unknowns.level) is not None:
        z[good, column] = _noise_level(request, unknowns.transport(z[good]), x[good], good, uniform[good, 1])
    if columns := unknowns.columns("prior"):
        assert nugget is not None
        level = nugget[good % len(nugget)]
        white = draws.take(good).normal(unknowns.problem.shape, x.dtype, step=sweep, index=2)
        z[good] = _block(z[good], columns, uniform[good, 2], _of_prior(request, z[good], x[good], level, white), tick)
    return z


_Density = Callable[[Tensor, list[int]], Tensor]  # (z of one row with a node in it, rows) -> log densities (rows,)


def _block(
    z: Tensor, columns: list[int], uniform: Tensor, density: _Density, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """Draw the coordinates ``columns`` of every row ``(rows, p)`` on a lattice of its own; ``tick`` at every node."""

    def evaluate(node: Node, rows: list[int]) -> list[float]:
        tick()
        at = torch.tensor(node, dtype=torch.float64, device="cpu")
        return (density(at, rows).double().cpu() - 0.5 * at.square().sum()).tolist()

    dims, out = len(columns), z.clone()
    lattices = run([explore(dims, _SPACING[dims], widest=_SCAN) for _ in range(len(z))], evaluate)
    for r, lattice in enumerate(lattices):
        out[r, columns] = lattice.points[int(lattice.choose(uniform[r]))]
    return out


def _of_operator(request: HyperparameterRequest, z: Tensor, x: Tensor, rows: Tensor) -> _Density:
    unknowns, columns = request.unknowns, request.unknowns.columns("operator")

    def density(at: Tensor, which: list[int]) -> Tensor:
        some, out = z[which].clone(), torch.empty(len(which), dtype=torch.float64, device="cpu")
        some[:, columns] = at
        theta = unknowns.transport(some)
        for group in _groups(theta[:, unknowns.model], range(len(which))):
            own = torch.tensor(which, device="cpu")[group]
            problem = unknowns.problem_at(theta[group], (rows[own] % request.batch).to(x.device))
            out[group] = problem.log_likelihood(x[own]).double().cpu()
        return out

    return density


def _of_noise(request: HyperparameterRequest, z: Tensor, x: Tensor, rows: Tensor) -> _Density:
    """Scalars of a covariance, given what is left of the data: one factor serves all rows at a node."""
    unknowns, columns = request.unknowns, request.unknowns.columns("noise")
    theta, left = unknowns.transport(z), list[tuple[int, Tensor, Tensor | None]]()
    for group in _groups(theta[:, unknowns.model], range(len(x))):
        problem = unknowns.problem_at(theta[group], (rows[group] % request.batch).to(x.device))
        seen = problem.operator.observed
        each = [None] * len(group) if seen is None else seen.expand(problem.data.shape)
        left += zip(group, problem.data - problem.operator(x[group]), each, strict=True)
    left.sort(key=lambda row: row[0])
    residual = torch.stack([row for _, row, _ in left])
    observed = torch.stack([row for _, _, row in left if row is not None]) if left[0][2] is not None else None
    model = unknowns.problem.noise
    members: dict[tuple[float, ...], Gaussian] = {}

    def density(at: Tensor, which: list[int]) -> Tensor:
        key = tuple(at.tolist())
        if key not in members:
            full = torch.zeros(len(unknowns.names), dtype=torch.float64, device="cpu")
            full[columns] = at
            assert isinstance(model, Gaussian)
            members[key] = model.known(unknowns.named("noise", unknowns.transport(full)))
        own = residual[which]
        return members[key].log_prob(own, torch.zeros_like(own), None if observed is None else observed[which])

    return density


def _of_prior(request: HyperparameterRequest, z: Tensor, x: Tensor, level: Tensor, white: Tensor) -> _Density:
    unknowns, columns = request.unknowns, request.unknowns.columns("prior")
    members: dict[tuple[float, ...], Any] = {}

    def density(at: Tensor, which: list[int]) -> Tensor:
        key = tuple(at.tolist())
        if key not in members:
            full = torch.zeros(len(unknowns.names), dtype=torch.float64, device="cpu")
            full[columns] = at
            members[key] = unknowns.prior_at(unknowns.transport(full))
        prior, out = members[key], torch.empty(len(which), dtype=torch.float64, device="cpu")
        for group in _groups(level[which][:, None], range(len(which))):
            index = torch.tensor(which, device="cpu")[group]
            sigma = float(level[index[0]])
            out[group] = prior.log_prob(x[index] + sigma * prior.noise(white[index]), sigma).double().cpu()
        return out

    return density


def _noise_level(request: HyperparameterRequest, theta: Tensor, x: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """Coordinates of the noise level ``(rows,)`` given the signals: ``-m log sigma - S / (2 sigma^2) - z^2 / 2``."""
    unknowns = request.unknowns
    assert unknowns.level is not None
    law = unknowns.distributions[unknowns.level]
    sizes, counts = (
        torch.empty(len(x), dtype=torch.float64, device="cpu"),
        torch.empty(len(x), dtype=torch.float64, device="cpu"),
    )
    for group in _groups(theta[:, unknowns.columns("operator")], range(len(x))):
        problem = unknowns.problem_at(theta[group], (rows[group] % request.batch).to(x.device))
        one = problem.replaced(operator=problem.operator, noise=Gaussian(std=1.0))
        white = to_real(one.whiten(one.data - one.operator(x[group]))).double()
        sizes[group], counts[group] = white.square().sum(1).cpu(), one.num_data.double().cpu()

    def density(z: Tensor) -> Tensor:  # (rows, points)
        log_sigma = law.transport(z).clamp_min(torch.finfo(torch.float64).tiny).log()
        return -counts[:, None] * log_sigma - 0.5 * sizes[:, None] * torch.exp(-2 * log_sigma) - 0.5 * z.square()

    return invert(density, uniform)


def invert(density: Callable[[Tensor], Tensor], uniform: Tensor) -> Tensor:
    """Draws ``(rows,)`` from one-dimensional log densities over z, ``(rows, points) -> (rows, points)``.

    The lattice starts on [-8, 8] and zooms four times on what lies within 30 nats of the peak; the last one has its
    density linear between points, 0.06 std apart or less for a unimodal density.
    """
    low, high = torch.full_like(uniform, -8.0), torch.full_like(uniform, 8.0)
    for zoom in range(_ZOOMS + 1):
        z = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, _POINTS, dtype=torch.float64, device="cpu")
        logs = density(z).nan_to_num(nan=-math.inf)
        inside = logs >= logs.amax(1, keepdim=True) - _TAIL
        if zoom < _ZOOMS:
            first = (inside.int().argmax(1) - 1).clamp_min(0)
            last = (_POINTS - inside.flip(1).int().argmax(1)).clamp_max(_POINTS - 1)
            low, high = z.gather(1, first[:, None])[:, 0], z.gather(1, last[:, None])[:, 0]
    value = torch.exp(logs - logs.amax(1, keepdim=True))
    cell = 0.5 * (value[:, 1:] + value[:, :-1])
    edges = cell.cumsum(1)
    target = uniform[:, None] * edges[:, -1:]
    k = torch.searchsorted(edges, target).clamp_max(_POINTS - 2)
    left, right = value.gather(1, k), value.gather(1, k + 1)
    rest = (target - edges.gather(1, k) + cell.gather(1, k)).clamp_min(0)
    # left s + (right - left) s^2 / 2 = rest, for s in [0, 1]
    root = (left.square() + 2 * (right - left) * rest).clamp_min(0).sqrt()
    s = (2 * rest / (left + root).clamp_min(1e-300)).clamp(0, 1)
    width = (high - low)[:, None] / (_POINTS - 1)
    return (z.gather(1, k) + s * width)[:, 0]


def _nugget(request: HyperparameterRequest) -> Tensor:
    """The noise under which signals are looked at, ``(batch or 1,)`` float64."""
    low = noise_levels(*request.unknowns.at(request.unknowns.medians))[1]
    return _NUGGET * numbers(low, dtype=torch.float64).reshape(-1).cpu()


def _groups(values: Tensor, rows: Sequence[int]) -> list[list[int]]:
    """The rows that share all values ``(rows, k)``, in the order of their first."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for row, key in zip(rows, values.tolist(), strict=True):
        groups.setdefault(tuple(key), []).append(row)
    return list(groups.values())
