"""How right is the posterior, on problems where it is known: invsolve beside deepinv and azula, in one run.

python benchmarks/posterior.py                    # everything, 15 minutes on one core; writes docs/posterior.*
python benchmarks/posterior.py --quick            # few samples, prints only
python benchmarks/posterior.py --only A1 azula    # these problems, methods with these words; prints only
python benchmarks/posterior.py --only DPS --out docs    # replaces these rows, keeps the others
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from _network import Network
from _problems import PROBLEMS, Case, components
from _scores import Scores, score
from torch import Tensor

from invsolve.diagnostics.residuals import unweighted
from invsolve.errors import UnsupportedError
from invsolve.results.result import Result

PACKAGES = ("invsolve", "torch", "deepinv", "azula")


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """What a method gave: ``samples`` ``(n, items, size)``, and its cost per sample and in all."""

    samples: Tensor
    forwards: float
    vjps: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Method:
    package: str
    name: str
    run: Callable[[Case, int, int], Draws]  # case, samples per item, seed
    samples: Callable[[Case], int]

    @property
    def label(self) -> str:
        return f"{self.package}: {self.name}"


@dataclass(frozen=True, kw_only=True)
class Row:
    problem: str
    package: str
    method: str
    scores: Scores
    forwards: float
    vjps: float
    seconds: float


def exact(case: Case, n: int, seed: int) -> Draws:
    start = time.perf_counter()
    return Draws(samples=case.exact_draws(n, seed), forwards=0, vjps=0, seconds=time.perf_counter() - start)


def ours(solve: Callable[[Case, int, int], Result]) -> Callable[[Case, int, int], Draws]:
    def run(case: Case, n: int, seed: int) -> Draws:
        start = time.perf_counter()
        result = solve(case, n, seed)
        seconds = time.perf_counter() - start
        samples = result.samples
        if result.log_weights is not None:  # particles
            samples = unweighted(samples, result.weights, n)
        return Draws(samples=components(samples, 2), forwards=result.nfe, vjps=result.vjps, seconds=seconds)

    return run


def peer(draw: Callable[[Case, int, int, Network], Tensor]) -> Callable[[Case, int, int], Draws]:
    """A peer's sampler, item by item; its network counts the calls. Peers draw from torch's global generator."""

    def run(case: Case, n: int, seed: int) -> Draws:
        network, out = Network(case), []
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            start = time.perf_counter()
            for item in range(case.items):
                out.append(draw(case, item, n, network))
            seconds = time.perf_counter() - start
        rows = n * case.items
        return Draws(
            samples=torch.stack(out, dim=1),
            forwards=network.calls.forward / rows,
            vjps=network.calls.vjp / rows,
            seconds=seconds,
        )

    return run


def many(case: Case) -> int:
    return case.samples


def some(case: Case) -> int:
    return case.peer_samples


def few(case: Case) -> int:
    return case.slow_samples


def methods() -> list[Method]:
    import _ours
    import _peers_azula
    import _peers_deepinv

    found = [Method(package="exact", name="independent draws", run=exact, samples=many)]
    counts = dict.fromkeys(_ours.COSTLY, some) | dict.fromkeys(_ours.PUBLISHED, few)
    found += [
        Method(package="invsolve", name=name, run=ours(solve), samples=counts.get(name, many))
        for name, solve in _ours.METHODS.items()
    ]
    found += [
        Method(package="deepinv", name=name, run=peer(draw), samples=few if name in _peers_deepinv.SLOW else some)
        for name, draw in _peers_deepinv.METHODS.items()
    ]
    found += [
        Method(package="azula", name=name, run=peer(draw), samples=some) for name, draw in _peers_azula.METHODS.items()
    ]
    return found


def measure(case: Case, method: Method, *, quick: bool) -> Row:
    n = min(method.samples(case), 64 if quick else 10**9)
    draws = method.run(case, n, 0)
    mean, _ = case.posterior
    scores = score(draws.samples, mean, case.posterior_std, case.prior_mean)
    return Row(
        problem=case.name,
        package=method.package,
        method=method.name,
        scores=scores,
        forwards=draws.forwards,
        vjps=draws.vjps,
        seconds=draws.seconds,
    )


# --- what is written --------------------------------------------------------------------------------------------------
LEGEND = """\
Linear-Gaussian problems, whose posterior is a known Gaussian. Every method is given the exact denoiser of the prior, so
that what is left is the error of the method. This page and `posterior.csv` are written by
`python benchmarks/posterior.py`.

- **n**: samples for each data item of the problem. Scores are averaged over the items; complex signals are scored on
  real and imaginary parts. ± is a standard error (jackknife over 16 groups of samples).
- **e_mean**: root mean square over the components of (sample mean - exact mean) / exact posterior sd. **floor**:
  1/sqrt(n), its root mean square for n exact draws; the row "independent draws" is one measurement of it.
- **std**: mean sample std / mean exact std; beside it the smallest and the largest ratio of a single component (these
  hold Monte Carlo error too: about 3/sqrt(2n) either way for exact draws).
- **cov90**: the exact posterior mass of the central 90 % interval of the samples (ranks at (n+1) plotting positions),
  averaged over the components. 0.90 is right; a wrong posterior can meet it, so read it with the others.
- **forwards**, **vjps**: passes through the denoiser and through its vector-Jacobian product, per sample; none where a
  method uses a closed form. **seconds**: wall time for all samples and items, {threads} CPU thread(s).
- Samples with NaN or infinite entries are left out of the scores; the share of such samples is given.
- The CSV also has **mean_relative**, ||sample mean - exact mean|| / ||exact mean - prior mean||.

What each method was told:

- invsolve: defaults, float32, data in the units of the problem. "auto" and "MMPS()" are given the prior as what it is,
  a `GaussianPrior`: "auto" then takes the closed form, MMPS() the stated covariance. "A denoiser only" hides all that
  but the mean and the scale, as peers have it. Published methods run with their defaults, which know the noise level
  and the units, and in the forms of their papers or of InverseBench, whose levels are given in stds of an entry.
- deepinv assumes images in [0, 1]. `PosteriorDiffusion` can be told otherwise (`minus_one_one=False`, and noise levels
  in the units of the data) and is: the rows with VE have sigma from 0.005 to 20 (on A250 in its units) at 100 times.
  "DPS, annealed" and "DPS, weight sqrt(m)/noise" (m data; the scaling that deepinv's documentation states) are told
  the same, and their clip of the denoised image to [-1, 1], which no option lifts, is taken out by hand.
  "DPS, default", DiffPIR and DDRM have no such option and run as they are constructed. Zeta 1 is tuned on problem A.
- azula: `VPSchedule()` (made for data of about unit variance) and 64 steps unless the row says otherwise, started with
  the mean and variance of the prior. VE: sigma 0.001 to 100 times the prior std. Its DPS takes one norm over the whole
  batch, so its default depends on n; zeta = sqrt(batch) undoes that.
"""

COLUMNS = ("method", "n", "e_mean", "floor", "std", "(min to max)", "cov90", "forwards", "vjps", "seconds")


def number(value: float, digits: int) -> str:
    """Fixed digits; powers of ten beyond 1000; a word for what is no number."""
    if not math.isfinite(value):
        return "none finite" if math.isnan(value) else "inf"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.1e}"


def cells(row: Row) -> list[str]:
    s = row.scores
    name = row.method if row.package == "exact" else f"{row.package}: {row.method}"
    if s.finite < 1:
        name += f" ({100 * (1 - s.finite):.3g} % not finite)"
    return [
        name,
        str(s.samples),
        f"{number(s.e_mean, 4)} ± {number(s.e_mean_se, 4)}",
        number(s.floor, 4),
        f"{number(s.std_ratio, 3)} ± {number(s.std_ratio_se, 3)}",
        f"{number(s.std_min, 2)} to {number(s.std_max, 2)}",
        f"{number(s.cov90, 3)} ± {number(s.cov90_se, 3)}",
        f"{row.forwards:.4g}",
        f"{row.vjps:.4g}",
        f"{row.seconds:.1f}",
    ]


def markdown(rows: list[Row], cases: dict[str, Case]) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES if installed(name))
    lines = [
        "# Posterior accuracy where the posterior is known",
        "",
        LEGEND.format(threads=torch.get_num_threads()),
        f"Versions: {versions}.",
    ]
    for name, case in cases.items():
        chosen = [row for row in rows if row.problem == name]
        if chosen:
            lines += [
                "",
                f"## {name}",
                "",
                f"{case.text[0].upper()}{case.text[1:]}.",
                "",
                "| " + " | ".join(COLUMNS) + " |",
                "|" + "|".join(["---", *["---:"] * (len(COLUMNS) - 1)]) + "|",
            ]
            lines += ["| " + " | ".join(cells(row)) + " |" for row in chosen]
    return "\n".join(lines) + "\n"


def installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer: csv.DictWriter[str] | None = None
        for row in rows:
            flat = {
                "problem": row.problem,
                "package": row.package,
                "method": row.method,
                **asdict(row.scores),
                "forwards": row.forwards,
                "vjps": row.vjps,
                "seconds": row.seconds,
            }
            if writer is None:
                writer = csv.DictWriter(file, list(flat), lineterminator="\n")
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in flat.items()})


def read_csv(path: Path) -> dict[tuple[str, str, str], Row]:
    """The rows of an earlier run, which this one replaces or completes."""
    if not path.exists():
        return {}
    rows = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            scores = Scores(
                **{f.name: int(line[f.name]) if f.name == "samples" else float(line[f.name]) for f in fields(Scores)}
            )
            row = Row(
                problem=line["problem"],
                package=line["package"],
                method=line["method"],
                scores=scores,
                forwards=float(line["forwards"]),
                vjps=float(line["vjps"]),
                seconds=float(line["seconds"]),
            )
            rows[row.problem, row.package, row.method] = row
    return rows


def written(out: Path, found: dict[tuple[str, str, str], Row]) -> None:
    """Page and table, in the order of problems and methods."""
    order = [(m.package, m.name) for m in methods()]
    rows = [found[p, *m] for p in PROBLEMS for m in order if (p, *m) in found]
    out.mkdir(parents=True, exist_ok=True)
    (out / "posterior.md").write_text(markdown(rows, {name: make() for name, make in PROBLEMS.items()}), "utf-8")
    write_csv(rows, out / "posterior.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 samples; prints unless --out is given")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        help="problems by name, methods by a part of theirs; prints unless --out is given",
    )
    parser.add_argument("--out", type=Path, help="folder of posterior.md and posterior.csv; of a full run: docs/")
    options = parser.parse_args()
    names = [name for name in PROBLEMS if name in options.only] or list(PROBLEMS)
    words = [word for word in options.only if word not in PROBLEMS]
    chosen = [m for m in methods() if not words or any(word.lower() in m.label.lower() for word in words)]
    if not chosen:
        parser.error(f"no method or problem has a name with {words}")
    out = options.out or (None if options.quick or options.only else Path(__file__).parents[1] / "docs")

    start = time.perf_counter()
    found = {} if out is None else read_csv(out / "posterior.csv")
    for case in (PROBLEMS[name]() for name in names):
        print(f"{case.name}: {case.text}", flush=True)
        for method in chosen:
            try:
                row = measure(case, method, quick=options.quick)
            except UnsupportedError as error:
                print(f"   {method.label}: refused, {error}", flush=True)
                continue
            found[row.problem, row.package, row.method] = row
            print("   " + "  ".join(cells(row)), flush=True)
            if out is not None:
                written(out, found)
    print(f"total: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
