"""Is the posterior right beyond Gaussian priors and linear operators? Against gold standards that no sampler of ours
made.

    python benchmarks/exactness.py                              # everything; writes docs/exactness.md and .csv
    python benchmarks/exactness.py --part sparse nonlinear      # these parts; prints only, unless --out is given
    python benchmarks/exactness.py --only elliptic --methods auto SMC --seeds 0 1
    python benchmarks/exactness.py --part certificate --count 20
    python benchmarks/exactness.py --gold                       # only computes the gold standards

Gold standards are kept in a folder of temporary files ($INVSOLVE_GOLD); the first run takes a minute for some.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from _exactness_certificate import Verdict, certificate_problems, shown, summary, verdict
from _exactness_problems import Known, mixture_problems, nonlinear_problems, sparse_problems
from _exactness_scores import GATES, Errors, errors

import invsolve as iv

PARTS: dict[str, Callable[[], list[Known]]] = {
    "mixtures": mixture_problems,
    "sparse": sparse_problems,
    "nonlinear": nonlinear_problems,
}
HIDDEN = "auto, denoiser only"  # of mixtures, whose closed form it would take otherwise
STRATEGIES = ["auto", HIDDEN, "MMPS", "SMC", "NoiseMCMC"]
EXACT = "gold draws"
NEEDED = {"mixtures": 28 / 30}  # the share of problems that must pass; all of them elsewhere
PACKAGES = ("invsolve", "torch", "deepinv", "azula")


@dataclass(frozen=True, kw_only=True)
class Row:
    part: str
    problem: str
    method: str
    seed: int
    samples: int
    scores: Errors
    passed: bool
    nfe: float
    vjps: float
    operator_calls: float  # rows per sample, of any kind
    seconds: float
    note: str = ""


def nothing() -> Errors:
    return Errors(**dict.fromkeys(Errors.__dataclass_fields__, math.nan))


def ours(problem: Known, name: str, n: int, seed: int, budget: float | None) -> Row:
    """One `solve`; a refusal is a row with its reason."""
    options = {"budget": budget} if budget is not None and name.startswith("auto") else {}
    strategy = "auto" if name.startswith("auto") else getattr(iv.strategies, name)()
    prior = shown(problem) if name == HIDDEN else problem.prior
    row = {"part": problem.part, "problem": problem.name, "method": f"invsolve: {name}", "seed": seed, "samples": n}
    start = time.perf_counter()
    try:
        result = iv.solve(
            problem.operator,
            problem.data,
            prior,
            noise=problem.noise,
            strategy=strategy,
            num_samples=n,
            seed=seed,
            throw=False,
            **options,
        )
    except iv.errors.InvsolveError as error:
        return Row(
            **row,
            scores=nothing(),
            passed=False,
            nfe=0,
            vjps=0,
            operator_calls=0,
            seconds=time.perf_counter() - start,
            note=f"{type(error).__name__}: {error}"[:160],
        )
    seconds = time.perf_counter() - start
    scores = errors(problem, result.samples, result.weights)
    certificate = getattr(result, "certificate", None)
    notes = [f"took {result.strategy}"] if name.startswith("auto") else []
    if certificate is not None and len(certificate.attempts) > 1:
        notes += [f"{len(certificate.attempts)} tries"]
    notes += [] if certificate is None else [f"certificate {'reached' if certificate.reached else 'not reached'}"]
    return Row(
        **row,
        scores=scores,
        passed=scores.passed(problem.part),
        nfe=result.nfe,
        vjps=result.vjps,
        operator_calls=sum(result.operator_calls.values()) / n,
        seconds=seconds,
        note=", ".join(notes),
    )


def gold_draws(problem: Known, n: int) -> Row:
    """The draws of the gold standard, scored as if they were a method's: what the Monte Carlo error alone does."""
    x = problem.gold.samples[:n]
    scores = errors(problem, x.view(-1, *problem.shape))
    return Row(
        part=problem.part,
        problem=problem.name,
        method=EXACT,
        seed=0,
        samples=len(x),
        scores=scores,
        passed=scores.passed(problem.part),
        nfe=0,
        vjps=0,
        operator_calls=0,
        seconds=problem.gold.seconds,
    )


def peers(problem: Known, n: int, seed: int, words: list[str], matched: float) -> list[Row]:
    """Each with 64 or 100 evaluations a sample, and with as many as ``matched`` (its vjps counted, at most 1000
    steps)."""
    import _exactness_peers

    rows = []
    for name, build in _exactness_peers.methods().items():
        if words and not any(word.lower() in name.lower() for word in words):
            continue
        steps, label = (64 if name.startswith("azula") else 100), name
        while True:
            start = time.perf_counter()
            draws = _exactness_peers.draw(build(steps), problem, n, seed)
            seconds = time.perf_counter() - start
            scores = errors(problem, draws.samples)
            rows.append(
                Row(
                    part=problem.part,
                    problem=problem.name,
                    method=label,
                    seed=seed,
                    samples=n,
                    scores=scores,
                    passed=scores.passed(problem.part),
                    nfe=draws.nfe,
                    vjps=draws.vjps,
                    operator_calls=0,
                    seconds=seconds,
                )
            )
            factor = matched / max(draws.nfe + draws.vjps, 1)
            if label != name or not factor > 1.5:
                break
            steps, label = min(1000, int(steps * factor)), f"{name}, matched"
    return rows


# --- what is written -------------------------------------------------------------------------------------------------
LEGEND = """\
Problems whose posterior is neither Gaussian nor a closed form of the solver, beside a gold standard of our own that
uses none of the package's samplers: closed forms for mixtures, Gibbs samplers for sparse signals, quadrature for
bananas and funnels, Hamiltonian Monte Carlo for the elliptic and the phase problems. This page and `exactness.csv` are
written by `python benchmarks/exactness.py`.

- **mean**: the largest error of a component's mean, over all components, in posterior sd. **std**: the smallest and the
  largest ratio of a component's std to the true one. Both hold Monte Carlo error, which nothing is subtracted for: for
  4096 exact draws a mean is off by 0.016 sd in rms, 0.04 sd at the worst of 64 components; a std by
  `sqrt((kurtosis - 1) / 4 n)`: 1.1 % for a Gaussian, 3 % at the worst of 64, more for heavy tails. The row "gold draws"
  scores 4096 draws of the gold standard's own chain in the same way: its errors are those of the sample size.
- **gap**: dB by which the mean of the samples is a worse estimate (mean squared error, in expectation over the
  posterior) than the posterior mean. **weight**: the largest error of a mode's weight, where there are modes.
- **nfe**, **vjps**: evaluations and differentiations of the denoiser per sample. **calls**: rows of the operator per
  sample. **seconds**: wall time of all samples, {threads} CPU thread(s); of "gold draws", of the gold standard.
- Errors of the gold standards themselves, by the scatter of their chains: `mean_error` (the largest standard error of a
  mean, in sd), `std_error` (relative), R-hat (split, the largest), and the largest differences between two independent
  halves of the chains, in the first table of each part.
- Peers are told the noise and given the exact denoiser of the prior in float32, and real data.
"""


def gate_text(part: str) -> str:
    words = []
    for name, (low, high) in GATES[part].items():
        words.append(f"{name} <= {high:g}" if math.isfinite(high) else f"{name} >= {low:g}")
    return ", ".join(words)


def number(value: float, digits: int = 3) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.1e}"


HEAD = ("problem", "method", "mean", "std", "gap", "weight", "passed", "nfe", "vjps", "calls", "seconds", "note")


def cells(row: Row) -> list[str]:
    s = row.scores
    return [
        row.problem,
        row.method,
        number(s.mean),
        f"{number(s.std_min, 2)} to {number(s.std_max, 2)}",
        number(s.mmse_gap, 2),
        number(s.weight),
        "yes" if row.passed else "no",
        f"{row.nfe:.4g}",
        f"{row.vjps:.4g}",
        f"{row.operator_calls:.4g}",
        f"{row.seconds:.1f}",
        row.note,
    ]


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(r) + " |" for r in [list(head), ["---"] * len(head), *rows]])


def overview(rows: list[Row]) -> list[list[str]]:
    """For each part and method: how many problems pass, the worst scores, the median time."""
    out = []
    for part, method in dict.fromkeys((r.part, r.method) for r in rows):
        group = [r for r in rows if (r.part, r.method) == (part, method)]
        good = [r.scores for r in group if not math.isnan(r.scores.mean)]
        count, passed = len(group), sum(r.passed for r in group)
        seconds = sorted(r.seconds for r in group)[count // 2]
        worst = [
            max((s.mean for s in good), default=math.nan),
            min((s.std_min for s in good), default=math.nan),
            max((s.std_max for s in good), default=math.nan),
            max((s.mmse_gap for s in good), default=math.nan),
            max((s.weight for s in good if not math.isnan(s.weight)), default=math.nan),
        ]
        out.append(
            [
                part,
                method,
                f"{passed} of {count}",
                "yes" if passed >= NEEDED.get(part, 1) * count - 1e-9 else "no",
                number(worst[0]),
                f"{number(worst[1], 2)} to {number(worst[2], 2)}",
                number(worst[3], 2),
                number(worst[4]),
                f"{count - len(good)}",
                f"{seconds:.1f}",
            ]
        )
    return out


def gold_table(problems: list[Known]) -> str:
    head = ("problem", "what", "gold standard", "mean_error", "std_error", "R-hat", "halves: mean", "halves: std")
    rows = []
    for p in problems:
        g = p.gold
        rows.append(
            [
                p.name,
                p.text,
                g.how,
                number(g.mean_error, 4),
                number(g.std_error, 4),
                number(g.rhat, 4),
                number(g.gap_mean),
                number(g.gap_std),
            ]
        )
    return table(head, rows)


def markdown(rows: list[Row], problems: dict[str, list[Known]], verdicts: list[Verdict], budget: float) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    lines = [
        "# Exactness beyond Gaussian priors",
        "",
        LEGEND.format(threads=torch.get_num_threads()),
        f"Versions: {versions}.",
        "",
    ]
    if rows:
        head = (
            "part",
            "method",
            "passed",
            "gate",
            "worst mean",
            "worst std",
            "worst gap",
            "worst weight",
            "refused",
            "median seconds",
        )
        lines += ["## Overview", "", table(head, overview(rows)), ""]
    for part, known in problems.items():
        here = [r for r in rows if r.part == part]
        lines += [
            f"## {part.capitalize()}",
            "",
            f"Gate of a problem: {gate_text(part)}.",
            "",
            gold_table(known),
            "",
            table(HEAD, [cells(r) for r in here]),
            "",
        ]
    if verdicts:
        head = ("kind", "problems", "certified", "of these right", "right without", "median seconds")
        lines += [
            "## Certificate",
            "",
            f'`strategy="auto"` with a budget of {budget:g} s; right: mean within 0.15 sd, std ratios in 0.85 to '
            "1.15, at the worst component.",
            "",
            table(head, summary(verdicts)),
            "",
        ]
    return "\n".join(lines)


def write_csv(rows: list[Row], verdicts: list[Verdict], path: Path) -> None:
    flat = [{k: v for k, v in {**asdict(r), **asdict(r.scores)}.items() if k != "scores"} for r in rows]
    flat += [
        {
            "part": "certificate",
            "problem": v.problem,
            "method": "invsolve: auto",
            "passed": v.right,
            "mean": v.mean,
            "std_min": v.std_min,
            "std_max": v.std_max,
            "weight": v.weight,
            "seconds": v.seconds,
            "note": " ".join(["no certificate" if v.reached is None else f"reached {v.reached}", v.note]).strip(),
        }
        for v in verdicts
    ]
    names = list(dict.fromkeys(k for row in flat for k in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in flat)


def run_part(known: list[Known], options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    for problem in known:
        gold = problem.gold
        print(
            f"{problem.name}: {problem.text}; {gold.how}, errors {gold.mean_error:.4f} sd, {gold.std_error:.4f}, "
            f"R-hat {gold.rhat:.4f}",
            flush=True,
        )
        found = [gold_draws(problem, options.samples)]
        matched = 0.0
        for seed in options.seeds:
            for name in options.methods:
                if name == HIDDEN and problem.part != "mixtures":
                    continue
                found.append(ours(problem, name, options.samples, seed, options.budget))
                if name == "auto" or not matched:
                    matched = found[-1].nfe + found[-1].vjps
        if problem.part == "sparse" and not options.no_peers:
            found += peers(problem, options.peer_samples, options.seeds[0], options.peers, matched)
        for row in found:
            print("   " + "  ".join(cells(row)[1:]), flush=True)
        rows += found
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=[*PARTS, "certificate"], default=[*PARTS, "certificate"])
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[], help="problems with one of these in the name")
    parser.add_argument("--methods", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--budget", type=float, default=None, help='seconds that "auto" may take, where it takes any')
    parser.add_argument("--peers", nargs="+", metavar="WORD", default=[], help="peers with one of these in their name")
    parser.add_argument("--peer-samples", type=int, default=1024)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--count", type=int, default=200, help="problems of the certificate")
    parser.add_argument("--certificate-samples", type=int, default=4096)
    parser.add_argument("--gold", action="store_true", help="only compute the gold standards")
    parser.add_argument("--out", type=Path, help="folder of exactness.md and exactness.csv; of a full run: docs/")
    options = parser.parse_args()
    whole = set(options.part) == {*PARTS, "certificate"} and not options.only and not options.gold
    out = options.out or (Path(__file__).parents[1] / "docs" if whole else None)

    start, rows, chosen = time.perf_counter(), [], dict[str, list[Known]]()
    for part in [p for p in PARTS if p in options.part]:
        known = [p for p in PARTS[part]() if not options.only or any(word in p.name for word in options.only)]
        chosen[part] = known
        if options.gold:
            print(gold_table(known), flush=True)
        else:
            rows += run_part(known, options)
    verdicts: list[Verdict] = []
    budget = 30.0 if options.budget is None else options.budget
    if "certificate" in options.part:
        for problem in certificate_problems(options.count):
            if options.only and not any(word in problem.name for word in options.only):
                continue
            if options.gold:
                print(
                    f"{problem.name}: {problem.gold.seconds:.1f} s, {problem.gold.mean_error:.4f}, "
                    f"{problem.gold.std_error:.4f}, R-hat {problem.gold.rhat:.4f}",
                    flush=True,
                )
                continue
            verdicts.append(verdict(problem, budget=budget, samples=options.certificate_samples, seed=0))
            v = verdicts[-1]
            print(
                f"{v.problem}: reached {v.reached}, right {v.right}, mean {v.mean:.3f}, std {v.std_min:.2f} to "
                f"{v.std_max:.2f}, {v.seconds:.1f} s {v.note}",
                flush=True,
            )
    print(f"total: {time.perf_counter() - start:.0f} s")
    if options.gold:
        return
    text = markdown(rows, {k: v for k, v in chosen.items() if v}, verdicts, budget)
    if out is None:
        if rows:
            print(
                table(
                    ("part", "method", "passed", "gate", "mean", "std", "gap", "weight", "refused", "s"), overview(rows)
                )
            )
        if verdicts:
            print(table(("kind", "problems", "certified", "right", "right without", "s"), summary(verdicts)))
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "exactness.md").write_text(text, encoding="utf-8")
    write_csv(rows, verdicts, out / "exactness.csv")


if __name__ == "__main__":
    main()
