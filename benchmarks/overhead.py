"""What a step costs beyond network and operator: invsolve beside a hand-written loop, deepinv and azula, in one run.

    python benchmarks/overhead.py               # about ten minutes; writes docs/overhead.{md,csv}
    python benchmarks/overhead.py --quick       # few rounds; prints only
    python benchmarks/overhead.py --only hand   # methods with these words (and the references); prints only

The exit status is 1 if a gate is missed.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from _loops import ClosedStub, Pullback, Stub, autograd, by_hand, closed, in_place, network_and_operator
from torch import Tensor

import invsolve as iv

BATCH, NOISE = 8, 0.1
STEPS = {256: 20, 16: 100}  # of the shorter of two solves; multiples of 10, the rhythm in which `solve` looks for NaN
ROUNDS, REPEATS = 21, 3
RATIO_GATE, SMALL_GATE = 1.10, 0.3  # at 256, to the hand-written loop; at 16, ms
PACKAGES = ("invsolve", "torch", "deepinv", "azula")

Solve = Callable[[], object]


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """Inpainting of half the pixels."""

    side: int

    @property
    def mask(self) -> Tensor:
        return torch.rand(self.side, self.side, generator=torch.Generator().manual_seed(0)) < 0.5

    @property
    def data(self) -> Tensor:
        clean = torch.randn(BATCH, self.side, self.side, generator=torch.Generator().manual_seed(1))
        return clean * self.mask

    def levels(self, steps: int) -> list[float]:
        levels: list[float] = iv.samplers.log_grid(10.0, 0.01, steps).tolist()
        return levels


@dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    name: str
    build: Callable[[Setting, int], Solve]  # setting, steps -> one whole solve
    floor: str  # which network loop is subtracted
    hand: str  # which hand-written loop it is compared with


# --- the methods ------------------------------------------------------------------------------------------------------
def ours(prior: type[Stub], *, chunk: int | None = None) -> Callable[[Setting, int], Solve]:
    def build(setting: Setting, steps: int) -> Solve:
        A, y, stub = (
            iv.operators.Mask(mask=setting.mask),
            setting.data,
            prior(mean=torch.zeros(setting.side, setting.side)),
        )
        strategy = iv.strategies.PiGDM(sampler=iv.samplers.Ancestral(), num_steps=steps)
        return lambda: iv.solve(A, y, stub, noise=NOISE, strategy=strategy, num_samples=1, seed=0, chunk=chunk)

    return build


def loop(run: Callable[..., Tensor], pullback: Pullback) -> Callable[[Setting, int], Solve]:
    def build(setting: Setting, steps: int) -> Solve:
        y, mask, levels = setting.data, setting.mask.float(), setting.levels(steps)

        def solve() -> Tensor:
            x = levels[0] * torch.randn(y.shape)
            return run(x, y, mask, levels, NOISE, pullback, lambda i: torch.randn(y.shape))

        return solve

    return build


def deepinv(fidelity: str, dtype: torch.dtype) -> Callable[[Setting, int], Solve]:
    def build(setting: Setting, steps: int) -> Solve:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import deepinv as dinv

        class Denoiser(dinv.models.Denoiser):
            def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
                return x / (1 + sigma * sigma)

        data = {
            "PiGDM": dinv.sampling.PiGDMDataFidelity,
            "MomentMatching": dinv.sampling.MomentMatchingDataFidelity,
            "DPS annealed": lambda: dinv.sampling.DPSDataFidelity(guidance="annealed"),
        }[fidelity]()
        sde = dinv.sampling.VarianceExplodingDiffusion(alpha=1, sigma_min=0.01, sigma_max=10.0, dtype=dtype)
        solver = dinv.sampling.AncestralSolver(timesteps=torch.linspace(1, 0, steps + 1, dtype=dtype))
        model = dinv.sampling.PosteriorDiffusion(
            data_fidelity=data, denoiser=Denoiser(), sde=sde, solver=solver, dtype=dtype, minus_one_one=False
        )
        shape = (1, setting.side, setting.side)
        physics = dinv.physics.Inpainting(
            img_size=shape, mask=setting.mask.float()[None], noise_model=dinv.physics.GaussianNoise(NOISE)
        )
        y = setting.data[:, None]
        return lambda: model(y, physics, x_init=(BATCH, *shape), denoise_output=False)

    return build


def azula(method: str) -> Callable[[Setting, int], Solve]:
    def build(setting: Setting, steps: int) -> Solve:
        from azula.denoise import Denoiser, DiracPosterior
        from azula.guidance.mmps import MMPSDenoiser
        from azula.guidance.pgdm import PGDMSampler
        from azula.linalg.covariance import IsotropicCovariance
        from azula.noise import VESchedule
        from azula.sample import DDPMSampler

        class Network(Denoiser):
            def __init__(self) -> None:
                super().__init__()
                self.schedule = VESchedule(0.01, 10.0)

            def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
                sigma = self.schedule.sigma(t)
                return DiracPosterior(mean=x_t / (1 + sigma * sigma))

        y, mask = setting.data, setting.mask.float()
        if method == "PGDM":
            sampler = PGDMSampler(
                Network(), y, lambda x: x * mask, lambda v: v * mask, eta=1.0, steps=steps, silent=True
            )
        else:
            guided = MMPSDenoiser(Network(), y, lambda x: x * mask, IsotropicCovariance(NOISE**2))
            sampler = DDPMSampler(guided, steps=steps, silent=True)
        return lambda: sampler(sampler.init(y.shape))

    return build


FLOORS = {
    "autograd": Method(
        name="network and operator only, autograd",
        build=loop(network_and_operator, autograd),
        floor="autograd",
        hand="autograd",
    ),
    "closed": Method(
        name="network and operator only, closed form",
        build=loop(network_and_operator, closed),
        floor="closed",
        hand="closed",
    ),
}
HANDS = {
    "autograd": Method(name="hand-written loop", build=loop(by_hand, autograd), floor="autograd", hand="autograd"),
    "closed": Method(
        name="hand-written loop, closed-form pullback", build=loop(by_hand, closed), floor="closed", hand="closed"
    ),
}
OURS = Method(name="invsolve PiGDM", build=ours(Stub), floor="autograd", hand="autograd")
OURS_CLOSED = Method(name="invsolve PiGDM, closed-form pullback", build=ours(ClosedStub), floor="closed", hand="closed")
OTHERS = [
    OURS,
    OURS_CLOSED,
    Method(name=f"invsolve PiGDM, chunk={BATCH}", build=ours(Stub, chunk=BATCH), floor="autograd", hand="autograd"),
    Method(name="hand-written loop, in place", build=loop(in_place, autograd), floor="autograd", hand="autograd"),
    Method(
        name="hand-written loop, in place, closed-form pullback",
        build=loop(in_place, closed),
        floor="closed",
        hand="closed",
    ),
    *(
        Method(
            name=f"deepinv PosteriorDiffusion, {name}, {str(dtype).removeprefix('torch.')}",
            build=deepinv(name, dtype),
            floor="autograd",
            hand="autograd",
        )
        for name, dtype in (
            ("PiGDM", torch.float32),
            ("DPS annealed", torch.float32),
            ("MomentMatching", torch.float32),
            ("PiGDM", torch.float64),
        )
    ),
    Method(name="azula PGDM", build=azula("PGDM"), floor="autograd", hand="autograd"),
    Method(name="azula MMPS", build=azula("MMPS"), floor="autograd", hand="autograd"),
]


# --- measuring --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Time:
    cpu: float  # ms
    wall: float

    def __sub__(self, other: Time) -> Time:
        return Time(cpu=self.cpu - other.cpu, wall=self.wall - other.wall)

    def __truediv__(self, number: float) -> Time:
        return Time(cpu=self.cpu / number, wall=self.wall / number)


def clock(solve: Solve) -> Time:
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    solve()
    return Time(cpu=(time.process_time_ns() - cpu) / 1e6, wall=(time.perf_counter_ns() - wall) / 1e6)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Medians over the rounds; times in ms."""

    side: int
    method: str
    rounds: int
    step_cpu: float
    overhead_cpu: float
    overhead_wall: float
    ratio: float  # of overheads, CPU, to the hand-written loop of the same round
    ratio_low: float  # quartiles
    ratio_high: float
    ratio_wall: float
    step_ratio: float  # of whole steps
    fixed_cpu: float  # of one call, whatever its number of steps


def measure(side: int, methods: list[Method], rounds: int) -> list[Row]:
    """Every method in every round, its time the least of some repeats, which are interleaved with those of the others.

    The order is turned round each time. A difference of two times needs the least of each: a single interruption by
    another process on the machine would decide its sign.
    """
    steps, setting = STEPS[side], Setting(side=side)
    every = [*FLOORS.values(), *HANDS.values(), *methods]
    solves = [(m, m.build(setting, steps), m.build(setting, 2 * steps)) for m in every]
    for _, short, long in solves:  # first calls import and allocate
        short(), long()
    step: dict[str, list[Time]] = {m.name: [] for m in every}
    fixed: dict[str, list[float]] = {m.name: [] for m in every}
    for _ in range(rounds):
        times: dict[str, list[tuple[Time, Time]]] = {m.name: [] for m in every}
        for repeat in range(REPEATS):
            for m, short, long in solves if repeat % 2 == 0 else reversed(solves):
                times[m.name].append((clock(short), clock(long)))
        for name, pairs in times.items():
            a, b = least([short for short, _ in pairs]), least([long for _, long in pairs])
            step[name].append((b - a) / steps)
            fixed[name].append(a.cpu - (b - a).cpu)
    return [row(side, m, step, fixed) for m in [*HANDS.values(), *methods]]


def least(times: list[Time]) -> Time:
    return Time(cpu=min(t.cpu for t in times), wall=min(t.wall for t in times))


def row(side: int, m: Method, step: dict[str, list[Time]], fixed: dict[str, list[float]]) -> Row:
    def overhead(method: Method) -> list[Time]:
        return [s - f for s, f in zip(step[method.name], step[FLOORS[method.floor].name], strict=True)]

    mine, hand = overhead(m), overhead(HANDS[m.hand])
    ratios = [a.cpu / b.cpu for a, b in zip(mine, hand, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    whole = [a.cpu / b.cpu for a, b in zip(step[m.name], step[HANDS[m.hand].name], strict=True)]
    return Row(
        side=side,
        method=m.name,
        rounds=len(ratios),
        step_cpu=statistics.median(s.cpu for s in step[m.name]),
        overhead_cpu=statistics.median(t.cpu for t in mine),
        overhead_wall=statistics.median(t.wall for t in mine),
        ratio=middle,
        ratio_low=low,
        ratio_high=high,
        ratio_wall=statistics.median(a.wall / b.wall for a, b in zip(mine, hand, strict=True)),
        step_ratio=statistics.median(whole),
        fixed_cpu=statistics.median(fixed[m.name]),
    )


@dataclass(frozen=True, kw_only=True)
class Gate:
    text: str
    value: float
    limit: float

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        return f"{'met' if self.met else 'MISSED'}: {self.text} {self.value:.3g}, at most {self.limit:.3g}"


def gates(rows: list[Row]) -> list[Gate]:
    found = []
    for r in rows:
        if r.method in (OURS.name, OURS_CLOSED.name):
            if r.side == 256:
                found.append(
                    Gate(
                        text=f"{r.method}, 256x256, overhead relative to the hand-written loop",
                        value=r.ratio,
                        limit=RATIO_GATE,
                    )
                )
            else:
                found.append(
                    Gate(text=f"{r.method}, 16x16, overhead in ms a step", value=r.overhead_cpu, limit=SMALL_GATE)
                )
    return found


# --- what is written --------------------------------------------------------------------------------------------------
LEGEND = """\
Inpainting of half the pixels, batch {batch}, one channel, noise std {noise}, noise levels from 10 down to 0.01, CPU
with {threads} thread(s). The network is a stub, `D(x, sigma) = x / (1 + sigma^2)`, so that what is timed is everything
else. This page and `overhead.csv` are written by `python benchmarks/overhead.py` (`make bench`).

- **step**: CPU time of a step, in ms: the difference of a solve of 2N steps and one of N, over N
  ({steps}), so that what a call costs once is left out;
  that is **call**, in ms, rough because it is a difference of large numbers.
- **overhead**: a step less the time of network and operator, which is a loop of D, its vector-Jacobian product, A and
  A^H alone, timed in the same round. CPU and wall time, ms.
- **ratio**: overhead over that of the hand-written loop in the same round, by CPU time, with its quartiles; **wall**:
  by wall time; **whole**: of whole steps. All are medians over {rounds} rounds. In a round every method runs {repeats}
  times, interleaved with the others and the order turned round each time, and the least of its times counts.

The hand-written loop is PiGDM with ancestral steps in float32 as one would write it down: the same arithmetic as
invsolve's `PiGDM(sampler=Ancestral())`, which a test holds it to, with `torch.randn` for its noise. Beyond that,
invsolve draws every row from its own keyed stream, counts calls, checks shapes, and looks for NaN. The loop "in place"
is the same, tuned by hand. Vector-Jacobian products are by autograd, as through a network, unless the row says
"closed-form pullback"; those rows are compared with the loop that has the closed form as well.

`solve` runs as many rows at once as fit a CPU's cache: at 256x256, half of the batch and then the other half, while the
loops and the peers run all of it. The row "chunk={batch}" runs all of it, too. It also tells the C library's allocator
to keep the memory that a step frees (`invsolve.core.torch_workarounds`). All methods run in one process and have that
from it; in a process of their own, the loops and the peers were measured to take 1.1 to 1.5 times as long a step at
256x256.

deepinv: `PosteriorDiffusion` with `AncestralSolver` and `VarianceExplodingDiffusion`, without its last denoising step;
float64 is its default. Its "DPS annealed" and "MomentMatching" (3 CG) and azula's `MMPSDenoiser` (1 GMRES, with
`DDPMSampler`) do other work than PiGDM; deepinv's PiGDM and azula's `PGDMSampler` (which takes the data to be without
noise) do about the same.
"""

COLUMNS = ("method", "step", "overhead", "overhead, wall", "ratio", "quartiles", "wall", "whole", "call")


def cells(r: Row) -> list[str]:
    return [
        r.method,
        f"{r.step_cpu:.3f}",
        f"{r.overhead_cpu:.3f}",
        f"{r.overhead_wall:.3f}",
        f"{r.ratio:.2f}",
        f"{r.ratio_low:.2f} to {r.ratio_high:.2f}",
        f"{r.ratio_wall:.2f}",
        f"{r.step_ratio:.2f}",
        f"{r.fixed_cpu:.1f}",
    ]


def markdown(rows: list[Row]) -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    steps = ", ".join(f"N = {n} at {side}x{side}" for side, n in STEPS.items())
    lines = [
        "# Overhead per step",
        "",
        LEGEND.format(
            batch=BATCH,
            noise=NOISE,
            threads=torch.get_num_threads(),
            steps=steps,
            rounds=rows[0].rounds,
            repeats=REPEATS,
        ),
        f"Versions: {versions}.",
        "",
        "Gates:",
        "",
        *(f"- {gate}" for gate in gates(rows)),
    ]
    for side in STEPS:
        lines += [
            "",
            f"## {BATCH}x{side}x{side}",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|" + "|".join(["---", *["---:"] * (len(COLUMNS) - 1)]) + "|",
        ]
        lines += ["| " + " | ".join(cells(r)) + " |" for r in rows if r.side == side]
    return "\n".join(lines) + "\n"


def write_csv(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(vars(rows[0])), lineterminator="\n")
        writer.writeheader()
        for r in rows:
            writer.writerow({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in vars(r).items()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5 rounds; prints unless --out is given")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORD",
        default=[],
        help="methods with one of these words in their names; prints unless --out is given",
    )
    parser.add_argument("--out", type=Path, help="folder of overhead.md and overhead.csv; of a full run: docs/")
    options = parser.parse_args()
    chosen = [m for m in OTHERS if not options.only or any(w.lower() in m.name.lower() for w in options.only)]
    out = options.out or (None if options.quick or options.only else Path(__file__).parents[1] / "docs")
    torch.set_num_threads(1)

    rows: list[Row] = []
    for side in STEPS:
        print(f"{BATCH}x{side}x{side}: {', '.join(COLUMNS)}", flush=True)
        for r in measure(side, chosen, 5 if options.quick else ROUNDS):
            rows.append(r)
            print("   " + "  ".join(cells(r)), flush=True)
    for gate in gates(rows):
        print(gate)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "overhead.md").write_text(markdown(rows), encoding="utf-8")
        write_csv(rows, out / "overhead.csv")
    return 0 if all(gate.met for gate in gates(rows)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
