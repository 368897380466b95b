"""Posterior mean and std of `examples/darcy.py` by long chains of their own, for `tests/test_example_references.py`.

    python benchmarks/darcy_reference.py [--moves 3000] [--out tests/references/darcy.csv]

Hamiltonian Monte Carlo with replica exchange in numpy, none of the package's strategies: the posterior has modes that
chains at the full likelihood do not leave, so that ladders of powers of the likelihood are run side by side, from draws
of the prior on, in the metric of a mean Fisher information. Of the package are used only the data and the covariance of
the field. Written are mean and std, cell by cell, and their standard errors by the spread of independent ladders.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded

ROOT = Path(__file__).resolve().parent.parent
Array = NDArray[np.float64]


def main() -> None:
    """Write the reference; the module says how it is computed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ladders", type=int, default=24)
    parser.add_argument("--powers", type=int, default=14, help="of the likelihood, from 1 down")
    parser.add_argument("--spacing", type=float, default=0.33, help="of their logarithms")
    parser.add_argument("--moves", type=int, default=3000, help="kept ones")
    parser.add_argument("--settle", type=int, default=400, help="moves before them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "references" / "darcy.csv")
    arguments = parser.parse_args()
    spec = importlib.util.spec_from_file_location("darcy", ROOT / "examples" / "darcy.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    n, side, noise = example.N**2, example.N, example.NOISE
    root = (example.prior.transport(torch.eye(n, dtype=torch.float64).view(n, side, side))[0]).reshape(n, n).numpy()
    y, wells, rim = example.y.numpy(), example.WELLS, example.RIM.reshape(side, side)
    source, sensors = np.full(n, 20.0 / n), np.eye(n)[:, wells]

    def solved(x: Array, right: Array | None) -> tuple[Array, ...]:
        """Fields by ``-div(k grad p) = 20`` of logarithms ``(chains, n)``, with one more right side; and what it took."""
        k = np.exp(x.clip(-12, 12).reshape(-1, side, side))  # a lost trajectory is refused for its prior
        across, along = 2 / (1 / k[:, :, :-1] + 1 / k[:, :, 1:]), 2 / (1 / k[:, :-1] + 1 / k[:, 1:])
        band = np.zeros((len(k), side + 1, side, side))
        band[:, 0] = rim * k
        band[:, 0, :, :-1] += across
        band[:, 0, :, 1:] += across
        band[:, 0, :-1] += along
        band[:, 0, 1:] += along
        band[:, 1, :, :-1] = -across
        band[:, side, :-1] = -along
        fields, factors = [], []
        for one in band.reshape(len(k), side + 1, n):
            factors.append(cholesky_banded(one, lower=True, check_finite=False))
            fields.append(cho_solve_banded((factors[-1], True), source, check_finite=False))
        p = np.stack(fields)
        residual = (p[:, wells] - y) / noise**2
        given = residual @ sensors.T if right is None else right
        q = np.stack([cho_solve_banded((f, True), r, check_finite=False) for f, r in zip(factors, given, strict=True)])
        return k, across, along, p.reshape(-1, side, side), q.reshape(-1, side, side), residual

    def slope(k: Array, across: Array, along: Array, p: Array, q: Array) -> Array:
        """The derivative of ``<v, p>`` in x, where q is the field of the right side v."""
        total = -q * p * rim * k
        one = -(q[:, :, :-1] - q[:, :, 1:]) * (p[:, :, :-1] - p[:, :, 1:]) * across**2 / 2
        two = -(q[:, :-1] - q[:, 1:]) * (p[:, :-1] - p[:, 1:]) * along**2 / 2
        total[:, :, :-1] += one / k[:, :, :-1]
        total[:, :, 1:] += one / k[:, :, 1:]
        total[:, :-1] += two / k[:, :-1]
        total[:, 1:] += two / k[:, 1:]
        return total.reshape(len(total), -1)

    def energy(z: Array) -> tuple[Array, tuple[Array, Array]]:
        """Minus the logs of likelihood and prior of ``x = z root``, ``(rows, 2)``, and the gradient of each."""
        k, across, along, p, q, residual = solved(z @ root, None)
        value = np.stack([0.5 * noise**2 * (residual**2).sum(1), 0.5 * (z**2).sum(1)], 1)
        return value, (slope(k, across, along, p, q) @ root.T, z.copy())

    def jacobian(z: Array) -> Array:
        x = np.repeat((z @ root)[None], len(wells), 0)
        k, across, along, p, q, _ = solved(x, sensors.T)
        return slope(k, across, along, p, q) @ root.T

    rng = np.random.default_rng(arguments.seed)
    mode = np.zeros(n)
    for _ in range(30):  # Gauss-Newton
        J = jacobian(mode)
        step = np.linalg.solve(J.T @ J / noise**2 + np.eye(n), sum(energy(mode[None])[1])[0])
        scale = 1.0
        while energy((mode - scale * step)[None])[0].sum() > energy(mode[None])[0].sum() and scale > 1e-3:
            scale /= 2
        mode = mode - scale * step
    J = jacobian(mode)
    L = np.linalg.inv(np.linalg.cholesky(J.T @ J / noise**2 + np.eye(n)))  # z = mode + w L

    # Replica exchange: rows are ladder a at power b of the likelihood, number ``a * powers + b``.
    betas = np.exp(-arguments.spacing * np.arange(arguments.powers))
    ladders, rows = arguments.ladders, arguments.ladders * len(betas)
    beta = np.tile(betas, ladders)[:, None]

    def metrics(fisher: Array) -> Array:
        """``z = w L`` with the covariance of a Gaussian of this Fisher information, at every power."""
        return np.stack([np.linalg.inv(np.linalg.cholesky(b * fisher + np.eye(n))) for b in betas])

    def by_power(v: Array, L: Array) -> Array:
        return np.einsum("abi,bij->abj", v.reshape(ladders, len(betas), n), L, optimize=True).reshape(rows, n)

    J = jacobian(mode)
    L = metrics(J.T @ J / noise**2)
    z = rng.standard_normal((rows, n))
    value, gradient = energy(z)
    size = np.full(len(betas), 0.02)
    exchanges = np.zeros(len(betas) - 1)
    sums, squares, kept = np.zeros((ladders, n)), np.zeros((ladders, n)), 0
    trips = 0
    last = np.zeros((ladders, len(betas)), dtype=int)  # 1: this replica was at the lowest power since the highest
    for move in range(-arguments.settle, arguments.moves):
        if move == -arguments.settle // 2:  # the metric of where the chains are, in all modes
            chosen = z.reshape(ladders, len(betas), n)[:, 0]
            L = metrics(np.mean([j.T @ j for j in map(jacobian, chosen)], 0) / noise**2)
        e = np.tile(size, ladders)[:, None]
        momentum = rng.standard_normal(z.shape)
        leaps = 1 + int(rng.integers(6 if move >= -arguments.settle // 2 else 8))
        start = beta[:, 0] * value[:, 0] + value[:, 1] + 0.5 * (momentum**2).sum(1)
        there, new, g = z, value, gradient
        for _ in range(leaps):
            momentum = momentum - 0.5 * e * by_power(beta * g[0] + g[1], L.transpose(0, 2, 1))
            there = there + e * by_power(momentum, L)
            new, g = energy(there)
            momentum = momentum - 0.5 * e * by_power(beta * g[0] + g[1], L.transpose(0, 2, 1))
        change = start - beta[:, 0] * new[:, 0] - new[:, 1] - 0.5 * (momentum**2).sum(1)
        rate = np.exp(np.minimum(np.nan_to_num(change, nan=-np.inf), 0.0))
        take = (rng.random(rows) < rate)[:, None]
        z, value = np.where(take, there, z), np.where(take, new, value)
        gradient = tuple(np.where(take, a, b) for a, b in zip(g, gradient, strict=True))
        rate = rate.reshape(ladders, -1).mean(0)
        if move < 0:
            size = (size * np.exp((0.3 if move < -100 else 0.05) * (rate - 0.8))).clip(None, 0.5)
        for first in (0, 1):  # exchanges of neighbours
            a = (np.arange(ladders)[:, None] * len(betas) + np.arange(first, len(betas) - 1, 2)).ravel()
            log = (beta[a, 0] - beta[a + 1, 0]) * (value[a, 0] - value[a + 1, 0])
            swap = rng.random(len(a)) < np.exp(np.minimum(log, 0))
            one = a[swap]
            for array in (z, value, *gradient, last.reshape(-1)):
                array[one], array[one + 1] = array[one + 1].copy(), array[one].copy()
            if move >= 0:
                np.add.at(exchanges, a % len(betas), swap)
        last[:, -1] = 1
        trips += int(last[:, 0].sum()) if move >= 0 else 0
        last[:, 0] = 0
        if move >= 0:
            x = z.reshape(ladders, len(betas), n)[:, 0] @ root
            sums, squares, kept = sums + x, squares + x**2, kept + 1
        if move % 100 == 0:
            told = " ".join(f"{v:.2f}" for v in rate[:: max(1, len(betas) // 5)])
            print(move, f"accepted {told}, sizes {size.min():.2f} to {size.max():.2f}, {trips} round trips", flush=True)
    each = sums / kept
    mean = each.mean(0)
    std = np.sqrt((squares / kept).mean(0) - mean**2)
    error = each.std(0, ddof=1) / np.sqrt(len(each)) / std
    spread = (squares / kept - 2 * mean * each + mean**2) / std**2
    std_error = spread.std(0, ddof=1) / np.sqrt(len(each)) / 2
    print(
        f"exchanges {(exchanges / ladders / kept).min():.2f} to {(exchanges / ladders / kept).max():.2f}, {trips} round "
        f"trips; standard errors at most {error.max():.4f} std of a mean, {std_error.max():.2%} of a std"
    )
    mean = mean + example.prior.mean.numpy().ravel()
    arguments.out.parent.mkdir(exist_ok=True)
    header = "mean, std, standard error of the mean over the std, of the std relative"
    np.savetxt(arguments.out, np.stack([mean, std, error, std_error], 1), fmt="%.5f", delimiter=",", header=header)


if __name__ == "__main__":
    main()
