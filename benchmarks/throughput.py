"""How fast learned priors train and sample: ours beside deepinv's networks of equal size and a loop written by hand.

    python benchmarks/throughput.py --out docs        # half an hour on two cores; writes throughput.md and .csv
    python benchmarks/throughput.py --sizes small     # prints only
    python benchmarks/throughput.py --tasks sampling  # without training

Rounds of all methods are interleaved, and the best of each counts: other work on the machine only ever adds time.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from _tables import ruled, save
from torch import Tensor, nn

import invsolve as iv
from invsolve.priors import EDM, NetworkPrior
from invsolve.priors.networks import UNet, UNetConfig
from invsolve.priors.training import Options, train
from invsolve.priors.training.loss import denoising_loss

SIDE, CHANNELS = 64, 2
ROUNDS = 5
STEPS = 8  # of one sampling run
LAST = torch.channels_last
# Widths of the lean and of the default network of about as many parameters, deepinv's network, batch.
SIZES = {"small": (48, 40, "ADMUNet", 8), "large": (344, 280, "DiffUNet", 2)}
# Four levels, the finer two as wide as each other, one block at the finest, skips added: half the products of the
# default at about equal parameters, and no more denoising error (docs/learned-priors.md).
LEAN = UNetConfig(multipliers=(1, 1, 2, 2), blocks=(1, 2, 1, 1), skips="added")


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """``rate``: images per second in training, evaluations of one image per second in sampling."""

    task: str
    threads: int
    parameters: int
    method: str
    batch: int
    rate: float


@final
@dataclass(frozen=True, kw_only=True)
class Method:
    name: str
    run: Callable[[], object]
    count: int  # images, or evaluations of one image, in a run


def lean(width: int) -> UNet:
    torch.manual_seed(0)
    return UNet(replace(LEAN, channels=CHANNELS, width=width))


def default(width: int) -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig(channels=CHANNELS, width=width))


class Inner(nn.Module):
    """The network of a deepinv denoiser as ``F(x, c)``, without its preconditioning."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        import deepinv as dinv

        torch.manual_seed(0)
        self.kind = kind
        if kind == "DiffUNet":
            self.net = dinv.models.DiffUNet(in_channels=CHANNELS, out_channels=CHANNELS, pretrained=None)
        else:  # 1.9 million parameters, as ours of width 40; dropout as ours, none
            self.net = dinv.models.ADMUNet(
                img_resolution=SIDE,
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                model_channels=32,
                channel_mult=(1, 2, 2),
                num_blocks=2,
                attn_resolutions=(16,),
                dropout=0.0,
                pretrained=None,
            )

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        if self.kind == "DiffUNet":  # its times are whole numbers, and it also predicts variances
            out: Tensor = self.net.forward(x, (250 * (c + 2)).clamp(0, 999).round(), type_t="timestep")
            return out[:, :CHANNELS]
        made: Tensor = self.net.forward_unet(x, c)
        return made


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def training(name: str, module: nn.Module, batch: int, *, compiled: bool = False, last: bool = False) -> Method:
    """A loop written by hand: loss, gradient, Adam; nothing else."""
    module = module.train().requires_grad_(True)
    module = module.to(memory_format=LAST) if last else module  # type: ignore[call-overload]
    call = torch.compile(module) if compiled else module
    rng = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(batch, CHANNELS, SIDE, SIDE, generator=rng) for _ in range(2))
    x, noise = (v.contiguous(memory_format=LAST) if last else v for v in (x, noise))
    sigma = torch.rand(batch, generator=rng, dtype=torch.float64) + 0.1
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-4)

    def run() -> None:
        denoising_loss(call, x, sigma, noise).mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return Method(name=name, run=run, count=batch)


def package(width: int, batch: int, *, compiled: bool) -> Method:
    """`train` as users call it, with averages, uncertainty, keyed data: seconds of the middle one of 16 steps, none of
    which write a snapshot."""
    data = torch.complex(*(torch.randn(64, SIDE, SIDE, generator=torch.Generator().manual_seed(k)) for k in (0, 1)))
    steps = 16
    options = Options(batch=batch, compile=compiled, skip="white", log_every=1)

    def run() -> float:
        import json
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            # Of a long training, so that none of the steps writes one of its eight snapshots.
            train(
                data,
                steps=100 * steps,
                network=replace(LEAN, width=width),
                options=options,
                out=folder,
                stop_after=steps,
            )
            lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        return batch / statistics.median(line["signals_per_second"] for line in lines)

    return Method(name=f"invsolve.train{', compiled' if compiled else ''}", run=run, count=batch)


def sampling(name: str, module: nn.Module, batch: int, *, compiled: bool = False, last: bool = False) -> Method:
    """The Euler method written by hand, as in the paper of EDM."""
    module = module.eval().requires_grad_(False)
    module = module.to(memory_format=LAST) if last else module  # type: ignore[call-overload]
    call = torch.compile(module) if compiled else module
    levels = torch.logspace(1, -2, STEPS + 1)

    @torch.no_grad()
    def run() -> Tensor:
        x = levels[0] * torch.randn(batch, CHANNELS, SIDE, SIDE)
        x = x.contiguous(memory_format=LAST) if last else x
        for s, t in zip(levels[:-1], levels[1:], strict=True):
            sigma = s.expand(batch)
            D = EDM().denoise(call, x, sigma, 1e-3, 1e3)
            x = x + (t - s) * (x - D) / s
        return x

    return Method(name=name, run=run, count=batch * STEPS)


def solving(name: str, module: nn.Module, batch: int) -> Method:
    """`iv.solve` without data: everything that a step of the package does beyond the network."""
    prior = NetworkPrior(
        network=module.eval(), shape=(SIDE, SIDE), kind="complex", scale=10.0, sigma_range=(2e-3, 200.0)
    )
    nothing = iv.operators.Mask(mask=torch.zeros(SIDE, SIDE, dtype=torch.bool), kind="complex")
    data = torch.zeros(1, SIDE, SIDE, dtype=torch.complex64)
    strategy = iv.strategies.Unconditional(sampler=iv.samplers.UniPC(order=1), num_steps=STEPS)

    def run() -> object:
        return iv.solve(nothing, data, prior, noise=1.0, strategy=strategy, num_samples=batch)

    return Method(name=name, run=run, count=batch * STEPS)


def timed(methods: list[Method]) -> list[float]:
    """Items per second, the best of interleaved rounds; the first round, which may compile, does not count."""
    best = [float("inf")] * len(methods)
    for round_ in range(ROUNDS + 1):
        for i, method in enumerate(methods):
            started = time.perf_counter()
            said = method.run()
            seconds = said if isinstance(said, float) else time.perf_counter() - started
            if round_:
                best[i] = min(best[i], seconds)
    return [m.count / s for m, s in zip(methods, best, strict=True)]


def trained(size: str, compiled: bool) -> list[Method]:
    width, wide, kind, batch = SIZES[size]
    plain = f"deepinv {kind}"
    methods = [
        training("invsolve UNet, lean", lean(width), batch),
        training("invsolve UNet, lean, channels_last", lean(width), batch, last=True),
        training("invsolve UNet, default, channels_last", default(wide), batch, last=True),
        training(plain, Inner(kind), batch),
        training(f"{plain}, channels_last", Inner(kind), batch, last=True),
    ]
    if size == "small":
        methods.append(package(width, batch, compiled=False))
    if compiled:
        methods += [
            training("invsolve UNet, lean, channels_last, compiled", lean(width), batch, last=True, compiled=True),
            package(width, batch, compiled=True),
        ]
    return methods


def sampled(size: str, compiled: bool) -> list[Method]:
    width, wide, kind, batch = SIZES[size]
    plain = f"deepinv {kind}"
    methods = [
        sampling("invsolve UNet, lean", lean(width), batch),
        sampling("invsolve UNet, default", default(wide), batch),
        sampling(plain, Inner(kind), batch),
        sampling(f"{plain}, channels_last", Inner(kind), batch, last=True),
        solving("invsolve UNet, lean, iv.solve", lean(width), batch),
    ]
    if compiled:
        methods += [
            sampling("invsolve UNet, lean, compiled", lean(width), batch, last=True, compiled=True),
            sampling(f"{plain}, channels_last, compiled", Inner(kind), batch, last=True, compiled=True),
        ]
    return methods


def rows(size: str, tasks: list[str], compiled: bool) -> list[Row]:
    width, wide, kind, batch = SIZES[size]
    cores = torch.get_num_threads()
    sizes = {
        "invsolve UNet, default": numbers(default(wide)),
        "invsolve": numbers(lean(width)),
        "deepinv": numbers(Inner(kind)),
    }
    made = []
    for task, threads in [(t, n) for t in tasks for n in (sorted({1, cores}) if t == "sampling" else [cores])]:
        torch.set_num_threads(threads)
        methods = (
            trained(size, compiled and size == "small")
            if task == "training"
            else sampled(size, compiled and size == "small" and threads == cores)
        )
        for method, rate in zip(methods, timed(methods), strict=True):
            parameters = next(n for start, n in sizes.items() if method.name.startswith(start))
            row = Row(task=task, threads=threads, parameters=parameters, method=method.name, batch=batch, rate=rate)
            made.append(row)
            print(row, flush=True)
    torch.set_num_threads(cores)
    return made


LEGEND = f"""# Throughput of learned priors

Written by `python benchmarks/throughput.py`. Complex images of {SIDE} x {SIDE}, float32. *training*: images per
second, in a loop of loss, gradient and Adam written by hand, or by `invsolve.train` with its averages, uncertainty and
keyed data; *sampling*: evaluations of one image per second, in {STEPS} steps of Euler's method written by hand, or by
`iv.solve`, with one thread and with all. Best of {ROUNDS} interleaved rounds; compiling, which takes minutes, is not
counted. DiffUNet comes in one size, 93.6 million parameters: ours is widened to it; ADMUNet (the same kind of network) is
made as small as ours. *lean*: `UNetConfig(multipliers=(1, 1, 2, 2), blocks=(1, 2, 1, 1), skips="added")`, which denoises
as well as the default at equal parameters and steps of training ([figures](learned-priors.md)). *ratio*: to the first
row of its block.
"""


def table(found: list[Row]) -> str:
    lines = [["task", "threads", "parameters", "method", "batch", "per second", "ratio"]]
    first: dict[Any, float] = {}
    for r in found:
        base = first.setdefault((r.task, r.threads, r.batch), r.rate)
        size, rate, ratio = f"{r.parameters / 1e6:.1f} M", f"{r.rate:.3g}", f"{r.rate / base:.2f}"
        lines.append([r.task, str(r.threads), size, r.method, str(r.batch), rate, ratio])
    return ruled(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES], default=[*SIZES])
    parser.add_argument("--tasks", nargs="+", choices=["training", "sampling"], default=["training", "sampling"])
    parser.add_argument("--eager", action="store_true", help="without torch.compile, which takes minutes a method")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = [row for size in options.sizes for row in rows(size, options.tasks, not options.eager)]
    print(table(found))
    if options.out:
        here = f"{torch.get_num_threads()} threads, {os.cpu_count()} cores, {platform.machine()}, {torch.__version__}"
        save(options.out, "throughput", f"{LEGEND}\nMeasured with {here} of torch.\n\n{table(found)}", found)


if __name__ == "__main__":
    main()
