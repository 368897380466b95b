"""A coefficient of two values from 64 sensors: what methods find, beside long chains, and a learned prior beside its law.

    python benchmarks/darcy.py --prior darcy-64.safetensors  # writes docs/darcy-posterior.md and .csv
    python benchmarks/darcy.py --only MMPS                    # these rows anew, the others as they are in the file
    python benchmarks/darcy.py --quick                        # 16 x 16 cells, prints only

The reference is benchmarks/darcy_posterior_reference.py's. Losing rows are kept; nothing here is a gate.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _darcy_law import Law, laws
from _darcy_problem import HIGH, LOW, MIDDLE, DarcyCase, Reference, level_set
from _darcy_problem import read as read_reference
from _darcy_text import text_of
from _tables import read, save
from torch import Tensor

import invsolve as iv

ivs = iv.strategies
pm = iv.posterior_metrics
OUT = Path(__file__).resolve().parent.parent / "docs"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method. NaN: it has no such number. Samples are set to the nearer of 3 and 12 before they are scored."""

    method: str
    prior: str
    n: int
    samples: int
    error_rate: float  # of the mean, at 7.5
    single_rate: float  # of single samples
    misfit: float  # mean of chi^2 per datum of the samples
    mean_error: float
    std_error: float
    mmd: float
    mmd_floor: float
    sliced: float
    spectral: float
    raw_std_error: float  # of the samples as they came
    nfe: float  # of the prior's denoiser, or of the operator
    seconds: float  # of the CPU, for 100 samples
    note: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is solved with; ``prior`` None is the learned one."""

    strategy: Callable[[], ivs.Strategy]
    samples: int
    width: float | None = None
    learned: bool = False
    note: str = ""


OURS: dict[str, Method] = {
    "NoiseMCMC, pCN": Method(
        strategy=lambda: ivs.NoiseMCMC(kernel="pcn", chains=64, islands=4, rounds=4, num_steps=150),
        samples=64,
        note="64 chains, at most 150 moves",
    ),
    "NoiseMCMC, HMC": Method(
        strategy=lambda: ivs.NoiseMCMC(kernel="hmc", chains=32, islands=4, rounds=4, num_steps=24),
        samples=32,
        width=0.1,
        note="32 chains, at most 24 moves",
    ),
    "MMPS, 16 steps": Method(
        strategy=lambda: ivs.MMPS(num_steps=16, rtol=0.1, max_iter=5),
        samples=16,
        width=0.3,
        note="rtol 0.1, max_iter 5",
    ),
    "learned prior, MMPS, 20 steps": Method(
        strategy=lambda: ivs.MMPS(num_steps=20), samples=4, learned=True, note="too few samples for a std"
    ),
}


def positive(a: Tensor) -> Tensor:
    """``a`` where it is at least 1; else above 1/2, with a continuous derivative: a denoiser may pass 0."""
    return torch.where(a < 1, 0.5 + 0.5 * torch.exp(2 * (a.clamp(max=1) - 1)), a)


def binary(x: Tensor) -> Tensor:
    return torch.where(x >= MIDDLE, HIGH, LOW).double()


def scores(case: DarcyCase, x: Tensor, reference: Reference) -> dict[str, float]:
    """Of samples ``(m, n, n)``: those of PosteriorBench, error rates, and the fit to the data."""
    sharp, truth = binary(x), case.truth[None]
    a, b = sharp[:, None], reference.samples[:, None]
    residual = (case.operator(sharp) - case.data) / case.std
    moments = {"mean": reference.mean, "std": reference.std}

    def relative(value: Tensor, key: str) -> float:
        return float((value - moments[key]).norm() / moments[key].norm())

    return {
        "error_rate": float(pm.error_rate(sharp.mean(0)[None], truth, MIDDLE)),
        "single_rate": float(pm.error_rate(sharp, truth.expand_as(sharp), MIDDLE).mean()),
        "misfit": float(residual.square().mean()),
        "mean_error": relative(sharp.mean(0), "mean"),
        "std_error": relative(sharp.std(0, correction=0), "std"),
        "mmd": float(pm.mmd(a, b)),
        "mmd_floor": pm.mmd_floor(len(a), len(b)),
        "sliced": float(pm.sliced_wasserstein(a, b, mean=MIDDLE, std=(HIGH - LOW) / 2)),
        "spectral": float(pm.spectral_error(a, b)),
        "raw_std_error": relative(x.double().std(0, correction=0), "std"),
    }


def answer(case: DarcyCase, name: str, method: Method, learned: iv.priors.Prior | None, reference: Reference) -> Row:
    operator = case.operator
    if method.learned:
        assert learned is not None
        prior: iv.priors.Prior = learned
        operator = operator @ iv.operators.from_callable(positive, (case.n, case.n), (case.n, case.n))
    else:
        prior = level_set(case.n, method.width)
    start = time.process_time()
    r = iv.solve(
        operator,
        case.data.float(),
        prior,
        noise=case.std,
        strategy=method.strategy(),
        num_samples=method.samples,
        seed=0,
        throw=False,
    )
    seconds = time.process_time() - start
    what = "learned" if method.learned else "level set" if method.width is None else f"width {method.width:g}"
    note = method.note
    if "rhat" in r.info:
        note += f"; R-hat {float(r.info['rhat'].max()):.2f}, power {float(r.info['beta'].min()):.2g}"
    good = r.samples[~r.failed.view(-1)[: len(r.samples)]] if r.failed.numel() == len(r.samples) else r.samples
    if bool(r.failed.all()) or not len(good) or not bool(torch.isfinite(good).all()):
        return blank(case, name, what, method.samples, f"{note}; failed".strip("; "))
    found = scores(case, good, reference)
    return Row(
        method=name,
        prior=what,
        n=case.n,
        samples=len(good),
        nfe=float(r.nfe),
        seconds=100 * seconds / len(good),
        note=note.strip("; "),
        **found,
    )


def blank(case: DarcyCase, name: str, prior: str, samples: int, note: str) -> Row:
    names = (f for f, kind in Row.__annotations__.items() if kind == "float")
    return Row(method=name, prior=prior, n=case.n, samples=samples, note=note, **dict.fromkeys(names, math.nan))


def ensemble_smoother(case: DarcyCase, members: int, rounds: int) -> tuple[Tensor, int]:
    """ES-MDA on the Gaussian field behind the level set, without localisation (Emerick & Reynolds 2013)."""
    prior = level_set(case.n)
    u = prior.base.sample(members, seed=1)
    rng = torch.Generator().manual_seed(2)
    data = case.data.float()
    for _ in range(rounds):
        y = case.operator(prior.function(u))
        du, dy = (v.flatten(1) - v.flatten(1).mean(0) for v in (u, y))
        noisy = data + rounds**0.5 * case.std * torch.randn(y.shape, generator=rng)
        covariance = dy.double().mT @ dy.double() / (members - 1)
        covariance += rounds * case.std**2 * torch.eye(covariance.shape[0], dtype=torch.float64)
        w = torch.linalg.solve(covariance, (noisy - y).double().mT).mT.float()
        u = u + (w @ (dy.mT @ du) / (members - 1)).view(u.shape)
    return prior.function(u), members * rounds


def references(case: DarcyCase, reference: Reference) -> list[Row]:
    """What samples of the posterior itself would score, and draws of the prior."""
    one, other = reference.halves()
    rest = Reference(
        mean=other.mean(0),
        std=other.std(0, correction=0),
        samples=other,
        chains=1,
        rhat=math.nan,
        mean_error=math.nan,
        std_error=math.nan,
    )
    rows = []
    for name, x, against in (
        ("half of the reference's chains, beside the other half", one, rest),
        ("draws of the prior", level_set(case.n).sample(200, seed=5), reference),
    ):
        found = scores(case, x, against)
        rows.append(
            Row(
                method=name,
                prior="level set",
                n=case.n,
                samples=len(x),
                nfe=math.nan,
                seconds=math.nan,
                note="",
                **found,
            )
        )
    return rows


def rows_of(
    case: DarcyCase,
    reference: Reference,
    learned: iv.priors.Prior | None,
    wanted: Callable[[str], bool],
    done: Callable[[list[Row]], None],
) -> None:
    """Every row, handed to ``done`` when it is there."""
    if wanted("reference"):
        done(references(case, reference))
    if wanted("ES-MDA"):
        start = time.process_time()
        x, solves = ensemble_smoother(case, 400, 8)
        seconds = time.process_time() - start
        found = scores(case, x[:200], reference)
        note = "400 members, 8 rounds; 200 of them scored"
        facts = {"n": case.n, "samples": 200, "nfe": float(solves), "seconds": 100 * seconds / 400}
        done([Row(method="ES-MDA", prior="level set", note=note, **facts, **found)])  # type: ignore[arg-type]
    for name, method in OURS.items():
        if wanted(name) and not (method.learned and learned is None):
            done([answer(case, name, method, learned, reference)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="of the rows whose method contains this text")
    parser.add_argument("--prior", help="the learned prior: a name or a file; without one its rows stay as they are")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    case = DarcyCase(n=16 if options.quick else 64)
    folder = options.out
    kept: list[Row] = [] if options.quick else read(folder / "darcy-posterior.csv", Row)
    known: list[Law] = [] if options.quick else read(folder / "darcy-law.csv", Law)
    learned = iv.priors.load(options.prior) if options.prior else None
    if options.quick:  # as many draws of the prior as are in a reference: for the program, not for the figures
        x = level_set(case.n).sample(64, seed=9).double()
        share = x.std(0, correction=0)
        reference = Reference(
            mean=x.mean(0), std=share, samples=x, chains=8, rhat=math.nan, mean_error=math.nan, std_error=math.nan
        )
    else:
        reference = read_reference(data=case.data)
    order = ["half", "draws", "ES-MDA", *OURS]

    def write() -> str:
        text = text_of(kept, known, reference)
        if not options.quick and kept:
            save(folder, "darcy-posterior", text, kept)
        return text

    def done(rows: list[Row]) -> None:
        for row in rows:
            print(row, flush=True)
            kept[:] = [r for r in kept if r.method != row.method] + [row]
        kept.sort(key=lambda r: next((i for i, o in enumerate(order) if r.method.startswith(o)), 99))
        write()

    def wanted(name: str) -> bool:
        return not options.only or options.only in name

    here = learned.on((case.n, case.n)) if isinstance(learned, iv.priors.NetworkPrior) else None
    rows_of(case, reference, here, wanted, done)
    if wanted("law"):
        sizes = ((12, 20), (16, 20)) if options.quick else ((32, 200), (64, 120), (96, 60))
        for law in laws(learned, sizes):
            print(law, flush=True)
            known[:] = [one for one in known if (one.n, one.of) != (law.n, law.of)] + [law]
            known.sort(key=lambda one: (one.n, one.of != "law"))
            if not options.quick:
                save(folder, "darcy-law", "", known)
                (folder / "darcy-law.md").unlink()  # one page for both tables
            write()
    print(write())


if __name__ == "__main__":
    main()
