"""Fields from a few sensors: the error of every method beside the best that can be had.

    python benchmarks/pde.py                          # writes docs/pde-posterior.md and .csv; 15 minutes on one core
    python benchmarks/pde.py --only "poisson inverse" # these rows anew, the others as they are in the file
    python benchmarks/pde.py --quick                  # 32 x 32 nodes, prints only

Losing rows are kept; nothing here is a gate.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from _pde_linear import LinearCase
from _pde_text import TEXT, published
from _tables import read, ruled, save
from torch import Tensor

import invsolve as iv

ivs = iv.strategies
ITEMS = 8
# Of the fields of the authors' data sets, whose stds are the units of FunDPS and DiffusionPDE.
STDS = {"poisson": (0.29195, 4.175e-3), "helmholtz": (0.28445, 4.280e-3)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one problem. NaN: it has no such number, or no sample without NaN was left."""

    problem: str
    noise: float  # relative to the root mean square of the clean data
    method: str
    n: int
    items: int
    samples: int
    best: float  # error of the exact posterior mean, of the same items
    mean: float  # of the mean of the samples
    single: float  # of single samples
    std_error: float  # relative error of the field of stds, of all items together
    std_ratio: float  # mean std, over the exact one
    coverage: float  # of 90 % intervals of the samples
    nfe: float
    vjps: float
    seconds: float  # of the CPU
    note: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a problem is answered, and by how many samples."""

    strategy: Callable[[LinearCase], iv.strategies.Strategy]
    samples: int
    items: int = ITEMS


def error(x: Tensor, truth: Tensor) -> float:
    """Mean relative L2 error of fields ``(items, n, n)``."""
    return float(((x - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).mean())


def stds(case: LinearCase) -> tuple[float, float]:
    field, solution = STDS[case.equation]
    return (field, solution) if case.direction == "inverse" else (field, field)


def fundps(weight: float | None = None) -> Callable[[LinearCase], iv.strategies.Strategy]:
    """As published, or with another weight."""

    def make(case: LinearCase) -> iv.strategies.Strategy:
        std, data_std = stds(case)
        task = case.name.replace(" ", "_")
        found = ivs.FunDPS.published(task, unit=2 * std, data_unit=2 * data_std)
        return found if weight is None else replace(found, weight=weight * found.weight)

    return make


def diffusion_pde(weight: float = 1.0) -> Callable[[LinearCase], iv.strategies.Strategy]:
    def make(case: LinearCase) -> iv.strategies.Strategy:
        std, data_std = stds(case)
        found = ivs.DiffusionPDE.published(case.name.replace(" ", "_"), std=std, data_std=data_std)
        return replace(found, weight=weight * found.weight)

    return make


OURS: dict[str, Method] = {
    "MMPS()": Method(strategy=lambda case: ivs.MMPS(), samples=39),
    "MultiResolution": Method(strategy=lambda case: ivs.MultiResolution((case.n // 2,) * 2), samples=39),
    "FunDPS(corrected=True, num_steps=25)": Method(
        strategy=lambda case: ivs.FunDPS(corrected=True, num_steps=25), samples=39
    ),
}
# Their weights are for priors of pairs (f, u), where the gradient goes through the denoiser; ours for this prior.
PEERS: dict[str, Method] = {
    "FunDPS of the paper": Method(strategy=fundps(), samples=1),
    "DiffusionPDE of the paper": Method(strategy=diffusion_pde(), samples=1),
}
FACTORS = (0.1, 1.0, 10.0, 100.0)


def answer(case: LinearCase, name: str, method: Method, exact: tuple[Tensor, Tensor], note: str = "") -> Row:
    if method.items != case.items:
        case = replace(case, items=method.items)
        exact = case.exact()
    mean, std = exact
    truth = case.asked(case.truth).double()
    start = time.process_time()
    r = iv.solve(
        case.operator,
        case.data,
        case.prior,
        noise=case.std,
        strategy=method.strategy(case),
        num_samples=method.samples,
        seed=0,
        throw=False,
    )
    seconds = time.process_time() - start
    base = blank(case, name) | {
        "samples": method.samples,
        "best": error(mean, truth),
        "nfe": float(r.nfe),
        "vjps": float(r.vjps),
        "seconds": seconds,
    }
    if bool(r.failed.any()):
        return Row(**base | {"note": f"{note} {int(r.failed.sum())} of {r.failed.numel()} samples diverged".strip()})  # type: ignore[arg-type]
    x = case.asked(r.samples.flatten(0, 1)).double().view(method.samples, case.items, case.n, case.n)
    base |= {
        "mean": error(x.mean(0), truth),
        "single": sum(error(one, truth) for one in x) / len(x),
        "note": note,
    }
    if len(x) >= 19:
        found = x.var(0).mean(0).sqrt()  # the exact one is the same for all items
        k = max(1, (len(x) + 1) // 20)
        ordered = x.sort(0).values
        inside = (truth >= ordered[k - 1]) & (truth <= ordered[-k])
        moves = std > 1e-6 * std.max()  # the boundary of u is known
        level = 1 - 2 * k / (len(x) + 1)
        base |= {
            "std_error": float((found - std).norm() / std.norm()),
            "std_ratio": float(found.sum() / std.sum()),
            "coverage": 0.9 / level * float(inside[:, moves].double().mean()),
        }
    return Row(**base)  # type: ignore[arg-type]


def blank(case: LinearCase, name: str) -> dict[str, object]:
    nothing = dict.fromkeys(
        ("best", "mean", "single", "std_error", "std_ratio", "coverage", "nfe", "vjps", "seconds"), math.nan
    )
    return nothing | {
        "problem": case.name,
        "noise": case.noise,
        "method": name,
        "n": case.n,
        "items": case.items,
        "samples": 0,
        "note": "",
    }


def gaussian_processes(case: LinearCase, exact: tuple[Tensor, Tensor]) -> list[Row]:
    """What is classical: a Gaussian process with this covariance or another one, which is Tikhonov's regularisation."""
    truth, rows = case.asked(case.truth).double(), []
    for name, kappa in (
        ("Gaussian process, right covariance", 3.0),
        ("Gaussian process, length a quarter", 12.0),
        ("Gaussian process, length four times", 0.75),
        ("Tikhonov, white", None),
    ):
        start = time.process_time()
        mean, std = exact if kappa == 3.0 else case.exact(kappa)
        inside = ((truth - mean).abs() <= 1.6449 * std)[:, std > 1e-6 * std.max()]
        rows.append(
            Row(
                **blank(case, name)  # type: ignore[arg-type]
                | {
                    "best": error(exact[0], truth),
                    "mean": error(mean, truth),
                    "std_error": float((std - exact[1]).norm() / exact[1].norm()),
                    "std_ratio": float(std.sum() / exact[1].sum()),
                    "coverage": float(inside.double().mean()),
                    "seconds": math.nan if kappa == 3.0 else time.process_time() - start,
                }
            )
        )
    return rows


def tuned(
    case: LinearCase, name: str, make: Callable[[float], Callable[[LinearCase], iv.strategies.Strategy]]
) -> float:
    """The factor of the published weight with the smallest error on other fields of the same sensors."""
    other = replace(case, items=1, seed=case.seed + 77)
    object.__setattr__(other, "sensors", case.sensors)  # a cached property
    found = {}
    for factor in FACTORS:
        strategy = make(factor)

        def shorter(c: LinearCase, strategy: Callable[[LinearCase], iv.strategies.Strategy] = strategy):  # type: ignore[no-untyped-def]
            return strategy(c)

        row = answer(
            other, name, Method(strategy=shorter, samples=1), (other.truth.double(), torch.ones(case.n, case.n))
        )
        found[factor] = row.single if math.isfinite(row.single) else math.inf
        if found[factor] == math.inf:  # greater ones diverge, too
            break
    return min(found, key=lambda factor: found[factor])


def rows_of(case: LinearCase, wanted: Callable[[str], bool], *, peers: bool) -> list[Row]:
    exact, rows = case.exact(), []
    if wanted("Gaussian process"):
        rows += gaussian_processes(case, exact)
    for name, method in OURS.items():
        if wanted(name) and (name == "MMPS()" or (peers and case.name == "poisson inverse")):
            rows.append(answer(case, name, method, exact))
            print(rows[-1], flush=True)
    for name, method in PEERS.items() if peers else ():
        if not wanted(name):
            continue
        rows.append(answer(case, name, method, exact))
        print(rows[-1], flush=True)
        if name.startswith("DiffusionPDE") and case.name != "poisson inverse":
            continue  # eight runs of 4000 evaluations
        make = fundps if name.startswith("FunDPS") else diffusion_pde
        factor = tuned(case, name, make)
        note = f"{factor:g} times the weight of the paper"
        best = replace(method, strategy=make(factor))
        rows.append(answer(case, name.replace("of the paper", "weight tuned"), best, exact, note))
        print(rows[-1], flush=True)
    return rows


def table(rows: list[Row]) -> str:
    lines = [
        [
            "method",
            "samples",
            "error of the mean, %",
            "over the best",
            "single samples, over the best",
            "std error",
            "std ratio",
            "coverage of 90 %",
            "evaluations",
            "vjps",
            "CPU seconds",
            "note",
        ]
    ]

    def number(value: float, form: str = ".3f") -> str:
        return f"{value:{form}}" if math.isfinite(value) else "-"

    for r in rows:
        lines.append(
            [
                r.method,
                f"{r.items} x {r.samples}" if r.samples else "-",
                number(100 * r.mean, ".2f"),
                number(r.mean / r.best),
                number(r.single / r.best),
                number(r.std_error),
                number(r.std_ratio),
                number(r.coverage),
                number(r.nfe, ".0f"),
                number(r.vjps, ".0f"),
                number(r.seconds, ".1f"),
                r.note or "-",
            ]
        )
    return ruled(lines)


def text_of(rows: list[Row]) -> str:
    parts = []
    for problem, noise in dict.fromkeys((r.problem, r.noise) for r in rows):
        group = [r for r in rows if (r.problem, r.noise) == (problem, noise)]
        parts.append(
            f"## {problem.capitalize()}, noise {noise:g}\n\nBest possible: {100 * group[0].best:.2f} % "
            f"({group[0].n} x {group[0].n} nodes, {group[0].items} fields).{published(problem, noise)}\n\n{table(group)}"
        )
    return TEXT.format(tables="\n\n".join(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="of the rows whose problem, noise and method contain this text")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs")
    options = parser.parse_args()
    kept: list[Row] = [] if options.quick else read(options.out / "pde-posterior.csv", Row)
    order: list[tuple[str, float]] = []
    for equation in ("poisson", "helmholtz"):
        for direction in ("inverse", "forward"):
            for noise in (1e-4, 1e-2):
                n = 32 if options.quick else 128
                case = LinearCase(equation=equation, direction=direction, noise=noise, n=n, items=ITEMS)
                order.append((case.name, noise))
                where = f"{case.name} {noise:g} "

                def wanted(method: str, where: str = where) -> bool:
                    return not options.only or options.only in where + method

                names = ["Gaussian process", *OURS, *PEERS]
                if not any(wanted(name) for name in names):
                    continue
                new = rows_of(case, wanted, peers=noise == 1e-4 and not options.quick)
                keys = {(r.problem, r.noise, r.method) for r in new}
                kept = [r for r in kept if (r.problem, r.noise, r.method) not in keys] + new
                if not options.quick:
                    names = list(dict.fromkeys(r.method for r in kept))
                    kept.sort(key=lambda r: order.index((r.problem, r.noise)) if (r.problem, r.noise) in order else 99)
                    save(options.out, "pde-posterior", text_of(kept), kept)
    print(text_of(kept))


if __name__ == "__main__":
    main()
