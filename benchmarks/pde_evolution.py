"""Navier-Stokes vorticity to T = 1 at 64^2: steps, errors and costs of ours, beside the scheme that made the data sets.

    python benchmarks/pde_evolution.py --out docs   # a minute; writes evolution.md's table: pde-evolution.md and .csv

Errors are relative, of one draw of the initial vorticity, against Runge-Kutta with dt = 1/1000. Seconds are of the
process's CPU on one thread, of a batch of 16, the least of three.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import invsolve as iv

N, BATCH, NU = 64, 16, 1e-3
GRID = iv.CartesianGrid((N, N), points="periodic")


def vorticity(rows: int) -> Tensor:
    """Draws of N(0, 7^3 (-Laplacian + 49)^-2.5), as in the literature."""
    generator = torch.Generator().manual_seed(0)
    k = torch.fft.fftfreq(N, 1 / N, dtype=torch.float64)
    root = math.sqrt(2) * 7**1.5 * (4 * math.pi**2 * (k[:, None] ** 2 + k**2) + 49) ** -1.25
    root[0, 0] = 0
    parts = torch.randn(2, rows, N, N, dtype=torch.float64, generator=generator)
    return (N**2 * torch.fft.ifft2(root * torch.complex(parts[0], parts[1]))).real


def forcing() -> Tensor:
    y, x = GRID.mesh()
    return 0.1 * (torch.sin(2 * math.pi * (x + y)) + torch.cos(2 * math.pi * (x + y)))


def generator_scheme(w: Tensor, steps: int) -> Tensor:
    """Crank-Nicolson for the viscosity and explicit Euler for the rest, as the data sets were made."""
    A = iv.operators.NavierStokes(GRID, viscosity=0.0)
    n, h = torch.fft.fftfreq(N, 1 / N, dtype=torch.float64), 1 / steps
    k2 = 4 * math.pi**2 * (n[:, None] ** 2 + n[: N // 2 + 1].abs() ** 2)
    pushed, half = torch.fft.rfft2(forcing()), (h / 2 * NU * k2).to(w.dtype)
    pushed = pushed.to(torch.complex64 if w.dtype == torch.float32 else torch.complex128)
    state = torch.fft.rfft2(w)
    for _ in range(steps):
        state = ((1 - half) * state + h * (A._rate(state, 0.0) + pushed)) / (1 + half)
    return torch.fft.irfft2(state, s=(N, N))


def least(f: Any, times: int = 3) -> float:
    found = []
    for _ in range(times):
        start = time.process_time()
        f()
        found.append(time.process_time() - start)
    return min(found)


def rows() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    w = vorticity(BATCH)
    one = w[:1]

    def ours(dt: float | None) -> Any:
        return iv.operators.NavierStokes(GRID, viscosity=NU, forcing=forcing(), dt=dt)

    truth = ours(1e-3)(one)

    def error(value: Tensor) -> float:
        return float((value - truth).norm() / truth.norm())

    found = []
    for dt in (0.1, 0.05, 0.025, 0.01, None):
        A, single = ours(dt), ours(dt).to(dtype=torch.float32)
        forward = least(lambda single=single: single(w.float()))

        def gradient(single: Any = single) -> None:
            leaf = w.float().requires_grad_()
            torch.autograd.grad(single(leaf).square().sum(), leaf)

        found.append(
            {
                "scheme": "Runge-Kutta 4" + (" (dt chosen)" if dt is None else ""),
                "dt": dt or "",
                "right sides": round(4 / dt) if dt else "",
                "error": error(A(one)),
                "seconds": forward,
                "gradient": least(gradient) / forward,
            }
        )
    for steps in (50, 100, 1000):
        seconds = least(lambda steps=steps: generator_scheme(w.float(), steps), 1)
        found.append(
            {
                "scheme": "Crank-Nicolson and Euler",
                "dt": 1 / steps,
                "right sides": steps,
                "error": error(generator_scheme(one, steps)),
                "seconds": seconds,
                "gradient": "",
            }
        )
    return found


def page(found: list[dict[str, Any]]) -> str:
    lines = [
        "# Navier-Stokes in time: error and cost",
        "",
        "Written by `python benchmarks/pde_evolution.py`. Vorticity at 64 x 64, viscosity 1e-3, forced, to T = 1. Error:",
        "relative, against dt = 1e-3. Seconds: CPU, one thread, float32, a batch of 16. Gradient: of a misfit, forward and",
        "backward pass, in units of the forward pass.",
        "",
        "| scheme | dt | right sides | error | seconds | gradient |",
        "|---|---|---|---|---|---|",
    ]
    for r in found:
        ratio = f"{r['gradient']:.1f}" if r["gradient"] != "" else ""
        sides = r["right sides"]
        lines.append(f"| {r['scheme']} | {r['dt']} | {sides} | {r['error']:.1e} | {r['seconds']:.3f} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = rows()
    print(page(found))
    if options.out:
        (options.out / "pde-evolution.md").write_text(page(found), encoding="utf-8")
        with (options.out / "pde-evolution.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
