"""A deterministic chain solved for all its levels at once: sweeps and errors of Picard's and Anderson's iterations.

    python benchmarks/parallel_in_time.py          # half a minute; writes docs/parallel-in-time.{md,csv}

The problem on which the method of Cao et al. (2311.11600) was measured before: 25 Euler steps from sigma 10 to 0.01, a
Gaussian prior in 8 dimensions, float64. Errors are those of the last state against the chain run level after level, the
largest of 20 samples, relative.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _tables import ruled, save
from torch import Tensor

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.strategies.guidance.guided import BoundGuidance, Guidance
from invsolve.strategies.integrators.deq_parallel import mixing_weights, relative_ridge, sweep
from invsolve.strategies.noise_levels import first_signals

STEPS, SAMPLES, MEMORY = 25, 20, 5
GRID = iv.samplers.log_grid(10.0, 0.01, STEPS)
AT = (3, 5, 8, 10, 12, 15)
EARLIER = {  # figures of an earlier measurement, with a matrix and a start of its own
    ("prior", "Picard"): {3: 1.5, 5: 2e-1, 8: 2e-3, 10: 2.6e-5, 15: 3.7e-12},
    ("prior", "Anderson, + 1e-3"): {5: 1.3e-3, 8: 6e-5},
    ("prior", "Anderson, + 1e-12"): {8: 3e-6},
}

Ridge = Callable[[Tensor], Tensor]  # residuals (rows, m, ...) -> (rows,)


@dataclass(frozen=True, kw_only=True)
class Row:
    problem: str
    method: str
    sweeps: int
    error: float  # of the last state
    whole: float  # of the whole trajectory
    earlier: float | None


def fixed(value: float) -> Ridge:
    return lambda residuals: torch.full((len(residuals),), value, dtype=torch.float64)


METHODS: dict[str, Ridge | None] = {
    "Picard": None,
    "Anderson, + 1e-3": fixed(1e-3),
    "Anderson, + 1e-12": fixed(1e-12),
    "Anderson, + 1e-10 trace": relative_ridge,
}


def problem() -> tuple[iv.Problem, iv.priors.Prior]:
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(8, 8, generator=rng, dtype=torch.float64)
    matrix, y = (torch.randn(*shape, generator=rng, dtype=torch.float64) for shape in ((3, 8), (1, 3)))
    prior = iv.priors.GaussianPrior(mean=torch.zeros(8, dtype=torch.float64), covariance=root @ root.mT / 8)
    return iv.Problem(iv.operators.Matrix(matrix=matrix), y, noise=0.1), prior


def iterates(denoise: BoundGuidance, start: Tensor, ridge: Ridge | None, *, carried: str) -> list[Tensor]:
    """The trajectory after each sweep over the whole trajectory, nothing frozen: the iterations as they are published.

    ``carried``: the first guess, the start at every level ("start"), or drawn in with the level ("level").
    """
    rows, levels = len(start), GRID.expand(len(start), -1)
    ratio = (GRID / GRID[0])[None, :, None] if carried == "level" else torch.ones(1, STEPS + 1, 1, dtype=start.dtype)
    trajectory = ratio * start[:, None]
    past: list[tuple[Tensor, Tensor]] = []
    found = []
    for _ in range(STEPS):
        states, _, _ = sweep(denoise, trajectory, levels, torch.zeros(rows, dtype=torch.int64), STEPS)
        past = [(states, states - trajectory[:, 1:]), *past][:MEMORY]
        if ridge is not None:
            outcomes, residuals = (torch.stack(p, dim=1) for p in zip(*past, strict=True))
            w = mixing_weights(residuals, ridge(residuals))
            states = (w[..., None, None] * outcomes).sum(1)
        trajectory = torch.cat((start[:, None], states), 1)
        found.append(trajectory)
    return found


def measured(name: str, guidance: Guidance, carried: str) -> list[Row]:
    one, prior = problem()
    euler = iv.strategies.Guided(guidance=guidance, sampler=iv.samplers.Euler(), grid=GRID)
    last = iv.solve(one, prior, strategy=euler, num_samples=SAMPLES).samples[:, 0]
    draws = Draws.for_rows(0, [0] * SAMPLES, list(range(SAMPLES)), torch.device("cpu"))
    run = iv.strategies.Run(problem=one.take(torch.zeros(SAMPLES, dtype=torch.int64)), prior=prior, draws=draws)
    start = first_signals(run, GRID[0])
    bound = guidance.bind(one, prior).take(torch.zeros(SAMPLES * STEPS, dtype=torch.int64))
    exact = iterates(bound, start, None, carried=carried)[-1]  # as many sweeps as levels: the chain itself
    rows = []
    for method, ridge in METHODS.items():
        for sweeps, x in enumerate(iterates(bound, start, ridge, carried=carried), start=1):
            known = EARLIER.get((name, method), {}).get(sweeps) if carried == "start" else None
            rows.append(Row(
                problem=f"{name}, first guess: {carried}", method=method, sweeps=sweeps, error=worst(x[:, -1], last),
                whole=worst(x.flatten(1), exact.flatten(1)), earlier=known,
            ))  # fmt: skip
    return rows


def worst(x: Tensor, exact: Tensor) -> float:
    return float(((x - exact).norm(dim=1) / exact.norm(dim=1)).max())


def strategy_rows() -> list[list[str]]:
    """What the strategy takes, which also freezes what has converged: sweeps until its rtol, and the error then."""
    one, prior = problem()
    lines = [["guidance", "options", "rtol", "sweeps", "batch of a sweep, per sample", "evaluations", "error"]]
    for name, guidance in GUIDANCES.items():
        euler = iv.strategies.Guided(guidance=guidance, sampler=iv.samplers.Euler(), grid=GRID)
        exact = iv.solve(one, prior, strategy=euler, num_samples=SAMPLES).samples
        lines.append([name, "level after level", "", f"{STEPS}", "1", f"{STEPS}", "0"])
        for options in ({}, {"window": 8}, {"acceleration": "anderson"}):
            for rtol in (1e-3, 1e-5):
                strategy = iv.strategies.DeqParallel(guidance=guidance, grid=GRID, rtol=rtol, **options)
                result = iv.solve(one, prior, strategy=strategy, num_samples=SAMPLES)
                error = ((result.samples - exact).norm(dim=-1) / exact.norm(dim=-1)).max()
                words = ", ".join(f"{k}={v}" for k, v in options.items()) or "picard"
                lines.append(
                    [
                        name,
                        words,
                        f"{rtol:g}",
                        f"{int(result.info['sweeps'].max())}",
                        f"{options.get('window', STEPS)}",
                        f"{result.nfe:g}",
                        f"{float(error):.1e}",
                    ]
                )
    return lines


GUIDANCES: dict[str, Guidance] = {"prior": iv.strategies.NoGuidance(), "MMPS": iv.strategies.MomentMatching()}


def page(rows: list[Row]) -> str:
    parts = [
        """# A chain of 25 levels, all at once

Written by `python benchmarks/parallel_in_time.py`: Euler (DDIM) from sigma 10 to 0.01, a Gaussian prior in 8
dimensions, float64. The error is that of the last state against the chain run level after level, relative, the largest
of 20 samples. "+ 1e-3" is what is added to the diagonal of the Gram matrix of Anderson's mixing (5 sweeps remembered);
"+ 1e-10 trace" is relative to its trace. "First guess: start" is the first state at every level, "level" draws it in
with the level; `iv.strategies.DeqParallel` uses "level" and "+ 1e-10 trace".

Every sweep evaluates the denoiser at all 25 levels in one call: 10 sweeps are 250 evaluations instead of 25, and 10
calls instead of 25. That is a gain only where a device has room for the larger batch, and none on a CPU.
"""
    ]
    for name in dict.fromkeys(r.problem for r in rows):
        parts += [f"## {name}", "", table([r for r in rows if r.problem == name], "error"), ""]
    known = [r for r in rows if r.problem == "prior, first guess: start"]
    parts += [
        "## Beside an earlier measurement",
        "",
        "Errors of the whole trajectory, and in brackets those of an earlier measurement,\n"
        "which were measured with another matrix: compare how the rows fall, not the figures.",
        "",
        table(known, "whole"),
        "",
    ]
    parts += [
        "## The strategy",
        "",
        "Rows stop by themselves; states that have converged are frozen.",
        "",
        ruled(strategy_rows()),
    ]
    return "\n".join(parts)


def table(rows: list[Row], which: str) -> str:
    lines = [["method", *(f"{k} sweeps" for k in AT)]]
    for method in METHODS:
        cells = {r.sweeps: r for r in rows if r.method == method}
        earlier = {
            k: f" ({cells[k].earlier:.1e})" if which == "whole" and cells[k].earlier is not None else "" for k in AT
        }
        lines.append([method, *(f"{getattr(cells[k], which):.1e}{earlier[k]}" for k in AT)])
    return ruled(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs")
    out = parser.parse_args().out
    rows = [r for name, g in GUIDANCES.items() for carried in ("start", "level") for r in measured(name, g, carried)]
    save(out, "parallel-in-time", page(rows), rows)
    print(page(rows))


if __name__ == "__main__":
    main()
