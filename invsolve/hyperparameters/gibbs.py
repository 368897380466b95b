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
from typing import Any

import torch
from torch import Tensor

from invsolve.core.arrays import numbers, to_real
from invsolve.core.random import Draws
from invsolve.errors import UnsupportedError
from invsolve.hyperparameters.lattice import MAX_DIMS, explore, run
from invsolve.hyperparameters.mode_search import Node
from invsolve.hyperparameters.request import HyperparameterDraws, HyperparameterRequest
from invsolve.hyperparameters.unknowns import NOISE
from invsolve.noise import Gaussian
from invsolve.priors.capabilities import HasDensity
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
_FORGOTTEN = 0.3  # correlation of a scalar with itself half of the sweeps before, over chains, that is mentioned


def draw_by_gibbs(request: HyperparameterRequest, progress: Progress) -> HyperparameterDraws:
    """The last state of ``num_samples`` chains for every item."""
    unknowns = request.unknowns
    _refuse(request)
    draws = request.draws(range(request.rows), "scalars")
    z = draws.normal((len(unknowns.names),), torch.float64, step=0).cpu()
    if NOISE in unknowns.names:
        column = unknowns.names.index(NOISE)
        z[:, column] = 1 + z[:, column].abs()
    nugget = _nugget(request) if unknowns.columns("prior") else None
    sweeps, trace = request.hierarchy.num_sweeps, list[Tensor]()
    with metered(progress, sweeps + 1) as step:
        x, chi2, result = _signals(request, unknowns.transport(z), 0)
        step(1, sweeps + 1)
        for sweep in range(1, sweeps + 1):
            if trace and request.over():
                break
            z = _scalars(request, z, x, nugget, draws, sweep)
            x, chi2, result = _signals(request, unknowns.transport(z), sweep)
            trace.append(z)
            step(sweep + 1, sweeps + 1)
    how = f"{' and '.join(unknowns.names)}: by {len(trace)} Gibbs sweeps of a chain for every sample."
    warnings = (*result.warnings, *_memory(unknowns.names, trace))
    if len(trace) < sweeps:
        warnings += (f"the budget was spent after {len(trace)} of {sweeps} Gibbs sweeps: give a larger one",)
    return HyperparameterDraws(
        samples=x,
        theta=unknowns.transport(z),
        chi2=chi2,
        info={},
        how=how,
        chunk=result.settings["chunk"],
        warnings=warnings,
    )


def _refuse(request: HyperparameterRequest) -> None:
    unknowns = request.unknowns
    if request.strategy.weighs:
        raise UnsupportedError(
            f"solve: Gibbs sweeps draw one signal at a time, and {request.strategy.name} weighs many against each "
            "other. Take a strategy without weights, such as iv.strategies.MMPS()."
        )
    for part in ("prior", "operator"):
        if len(unknowns.columns(part)) > MAX_DIMS:
            raise UnsupportedError(f"solve: at most {MAX_DIMS} scalars of the {part} can be inferred together.")
    if unknowns.columns("prior"):
        member = unknowns.prior_at(unknowns.medians)
        if not isinstance(member, HasDensity):
            raise UnsupportedError(
                f"solve: scalars of the prior need a prior that states its density, log_prob(x, sigma), or a strategy "
                f"that gives the evidence; {type(member).__name__} with {request.strategy.name} has neither. "
                "strategy=iv.strategies.SMC() estimates the evidence."
            )


def _signals(request: HyperparameterRequest, theta: Tensor, sweep: int) -> tuple[Tensor, Tensor, Result]:
    """A signal for every row given its scalars: rows that share those of prior and operator run together."""
    unknowns = request.unknowns
    groups = _groups(theta[:, unknowns.columns("prior") + unknowns.columns("operator")], range(request.rows))
    x = unknowns.problem.data.new_empty(request.rows, *unknowns.problem.shape, dtype=unknowns.problem.signal_dtype)
    chi2 = x.real.new_empty(request.rows)
    for rows in groups:
        index = torch.tensor(rows, device="cpu")
        problem = unknowns.problem_at(theta[index], (index % request.batch).to(x.device))
        result = request.sample_rows(problem, unknowns.prior_at(theta[rows[0]]), rows, f"solve, sweep {sweep}")
        x[index], chi2[index] = result.samples[0], result.chi2[0].to(chi2.dtype)
    return x, chi2, result


def _scalars(
    request: HyperparameterRequest, z: Tensor, x: Tensor, nugget: Tensor | None, draws: Draws, sweep: int
) -> Tensor:
    """All scalars once, given the signals ``x`` ``(rows, *shape)``; chains that became NaN keep theirs."""
    z, unknowns = z.clone(), request.unknowns
    uniform = torch.special.ndtr(draws.normal((3,), torch.float64, step=sweep, index=1)).cpu()
    good = torch.isfinite(x).flatten(1).all(1).nonzero()[:, 0].cpu()
    if not len(good):
        return z
    if columns := unknowns.columns("operator"):
        z[good] = _block(z[good], columns, uniform[good, 0], _of_operator(request, z[good], x[good], good))
    if NOISE in unknowns.names:
        column = unknowns.names.index(NOISE)
        z[good, column] = _noise_level(request, unknowns.transport(z[good]), x[good], good, uniform[good, 1])
    if columns := unknowns.columns("prior"):
        assert nugget is not None
        level = nugget[good % len(nugget)]
        white = draws.take(good).normal(unknowns.problem.shape, x.dtype, step=sweep, index=2)
        z[good] = _block(z[good], columns, uniform[good, 2], _of_prior(request, z[good], x[good], level, white))
    return z


_Density = Callable[[Tensor, list[int]], Tensor]  # (z of one row with a node in it, rows) -> log densities (rows,)


def _block(z: Tensor, columns: list[int], uniform: Tensor, density: _Density) -> Tensor:
    """Draw the coordinates ``columns`` of every row ``(rows, p)`` on a lattice of its own."""

    def evaluate(node: Node, rows: list[int]) -> list[float]:
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
        some = z[which].clone()
        some[:, columns] = at
        problem = unknowns.problem_at(unknowns.transport(some), (rows[which] % request.batch).to(x.device))
        return problem.log_likelihood(x[which])

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
    law = unknowns.distributions[unknowns.names.index(NOISE)]
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


def _memory(names: Sequence[str], trace: list[Tensor]) -> tuple[str, ...]:
    """Warnings of scalars that have not forgotten where they were half of the sweeps ago.

    The last states of the chains are then not draws from the posterior. For chains that mix the correlation is 0 +- 1 /
    sqrt(chains).
    """
    last, before = trace[-1], trace[max(len(trace) // 2 - 1, 0)]
    if len(trace) < 2 or len(last) < 4:
        return ()
    apart = [v - v.mean(0) for v in (last, before)]
    size = (apart[0].square().sum(0) * apart[1].square().sum(0)).sqrt().clamp_min(1e-300)
    correlation = ((apart[0] * apart[1]).sum(0) / size).tolist()
    drift = ((last.mean(0) - before.mean(0)).abs() / last.std(0).clamp_min(1e-300)).tolist()
    limit = max(_FORGOTTEN, 2.5 / math.sqrt(len(last)))
    return tuple(
        f"{name} moves slowly: over the chains its values correlate by {value:.2f} with those {len(trace) // 2} sweeps "
        f"before, and their mean moved by {moved:.2g} std, so that its posterior may be off. Raise num_sweeps of "
        "iv.Hierarchy"
        for name, value, moved in zip(names, correlation, drift, strict=True)
        if value > limit or moved > math.sqrt(2) * limit
    )
