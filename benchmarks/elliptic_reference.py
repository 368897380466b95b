"""Posterior mean and std of `iv.problems.elliptic` by long chains of their own, for the tests.

    python benchmarks/elliptic_reference.py [--moves 600] [--out tests/references/elliptic.csv]

Hamiltonian Monte Carlo, none of the package's strategies: chains side by side from draws near the most probable
coefficient, in the metric of the covariance of all chains while they settle, which is then kept. Of the package are used
only operator, data and prior. Written are mean and std of every log-coefficient and of every coefficient, with standard
errors by the spread of the chains, and the largest R-hat.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

import invsolve as iv

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the reference; the module says how it is computed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=128)
    parser.add_argument("--settle", type=int, default=200, help="moves before those that are kept")
    parser.add_argument("--moves", type=int, default=600)
    parser.add_argument("--leaps", type=int, default=12, help="steps of a move, on average")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "references" / "elliptic.csv")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    case = iv.problems.elliptic()
    A, data = case.problem.operator, case.problem.data

    def energy(x: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the log density, and its gradient, of rows ``(rows, 64)``."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            misfit = (A._apply(leaf.view(-1, 8, 8)) - data).square().flatten(1).sum(1) / (2 * 0.05**2)
            value = misfit + ((leaf - 4.0) / 2.0).square().sum(1) / 2
            (slope,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), slope

    x = 0.5 * torch.randn(arguments.chains, 64, dtype=torch.float64)
    value, slope = energy(x)
    step, root = 0.02, torch.eye(64, dtype=torch.float64)
    history: list[Tensor] = []
    kept: list[Tensor] = []
    for move in range(arguments.settle + arguments.moves):
        settling = move < arguments.settle
        if settling and move in (arguments.settle // 4, arguments.settle // 2, 3 * arguments.settle // 4):
            rows = torch.cat(history[len(history) // 2 :])
            root = torch.linalg.cholesky(torch.cov(rows.mT) + 1e-4 * torch.eye(64, dtype=torch.float64))
            step = 0.3
        momentum = torch.randn_like(x)  # of z with x = root z
        leaps = 1 + int(torch.randint(2 * arguments.leaps - 1, ()))
        y, v, g = x, momentum, slope
        for _ in range(leaps):
            v = v - step / 2 * (g @ root)
            y = y + step * (v @ root.mT)
            new, g = energy(y)
            v = v - step / 2 * (g @ root)
        gain = value - new + (momentum.square() - v.square()).sum(1) / 2
        take = torch.rand(len(x), dtype=torch.float64).log() < gain.nan_to_num(-math.inf)
        x, slope = (torch.where(take[:, None], a, b) for a, b in ((y, x), (g, slope)))
        value = torch.where(take, new, value)
        if settling:
            step *= math.exp(0.3 * (float(gain.nan_to_num(-50.0).clamp_max(0).exp().mean()) - 0.8))
            history.append(x)
        else:
            kept.append(x)
        if move % 20 == 0:
            print(f"move {move}: accepted {float(take.double().mean()):.2f}, step {step:.3f}", flush=True)
    chains = torch.stack(kept)  # (moves, chains, 64)
    halves = chains.view(2, -1, *chains.shape[1:]).movedim(0, 1).flatten(1, 2)
    within = halves.var(0).mean(0)
    rhat = (1 + halves.mean(0).var(0) / within).sqrt()  # of many chains the correction for their length is small
    print(f"largest R-hat {float(rhat.max()):.4f}")
    lines = ["row,column,log mean,log mean error,log std,log std error,mean,mean error"]
    logs, plain = chains, chains.exp()
    errors = logs.mean(0).std(0) / arguments.chains**0.5
    second = (logs - logs.mean((0, 1))).square().mean(0)
    std = second.mean(0).sqrt()
    std_errors = second.std(0) / arguments.chains**0.5 / (2 * std)
    for i in range(64):
        values = (logs[..., i].mean(), errors[i], std[i], std_errors[i], plain[..., i].mean())
        numbers = ",".join(f"{float(v):.5g}" for v in (*values, plain[..., i].mean(0).std() / arguments.chains**0.5))
        lines.append(f"{i // 8},{i % 8},{numbers}")
    arguments.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
