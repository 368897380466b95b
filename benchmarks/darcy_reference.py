"""Posterior mean and std of `examples/darcy.py` by long chains of their own, for `tests/test_example_references.py`.

    python benchmarks/darcy_reference.py [--moves 4000] [--out tests/references/darcy.csv]

Hamiltonian Monte Carlo in numpy, none of the package's strategies: 64 chains that start at draws of the prior, in the
metric of a Gauss-Newton Hessian at the mode, moves of random length. Of the package are used only the operator's
numbers (the pressures at the wells, by the example's solver) and the covariance of the field. Written are mean, std and
the standard error of the mean in units of the std, cell by cell, from the spread of the chains.
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
    parser.add_argument("--chains", type=int, default=64)
    parser.add_argument("--moves", type=int, default=4000, help="kept ones")
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

    def energy(z: Array) -> tuple[Array, Array]:
        """Minus the log posterior of ``x = z root`` and its gradient."""
        k, across, along, p, q, residual = solved(z @ root, None)
        value = 0.5 * noise**2 * (residual**2).sum(1) + 0.5 * (z**2).sum(1)
        return value, slope(k, across, along, p, q) @ root.T + z

    def jacobian(z: Array) -> Array:
        x = np.repeat((z @ root)[None], len(wells), 0)
        k, across, along, p, q, _ = solved(x, sensors.T)
        return slope(k, across, along, p, q) @ root.T

    rng = np.random.default_rng(arguments.seed)
    mode = np.zeros(n)
    for _ in range(30):  # Gauss-Newton
        J = jacobian(mode)
        step = np.linalg.solve(J.T @ J / noise**2 + np.eye(n), energy(mode[None])[1][0])
        scale = 1.0
        while energy((mode - scale * step)[None])[0] > energy(mode[None])[0] and scale > 1e-3:
            scale /= 2
        mode = mode - scale * step
    J = jacobian(mode)
    L = np.linalg.inv(np.linalg.cholesky(J.T @ J / noise**2 + np.eye(n)))  # z = mode + w L

    def whitened(w: Array) -> tuple[Array, Array]:
        value, gradient = energy(mode + w @ L)
        return value, gradient @ L.T

    z = rng.standard_normal((arguments.chains, n))
    w = np.linalg.solve(L.T, (z - mode).T).T
    value, gradient = whitened(w)
    sums = squares = np.zeros_like(w)
    size, kept = np.full((len(w), 1), 0.02), 0
    rates = []
    for move in range(-arguments.settle, arguments.moves):
        momentum = rng.standard_normal(w.shape)
        leaps = 1 + int(rng.integers(2 * max(1, round(1.2 / float(np.median(size)))))) if move >= 0 else 8
        leaps = min(leaps, 24)
        start = value + 0.5 * (momentum**2).sum(1)
        there, g = w, gradient
        for _ in range(leaps):
            momentum = momentum - 0.5 * size * g
            there = there + size * momentum
            new, g = whitened(there)
            momentum = momentum - 0.5 * size * g
        change = start - new - 0.5 * (momentum**2).sum(1)
        rate = np.exp(np.minimum(np.nan_to_num(change, nan=-np.inf), 0.0))
        take = rng.random(len(w)) < rate
        w, value = np.where(take[:, None], there, w), np.where(take, new, value)
        gradient = np.where(take[:, None], g, gradient)
        if move < -arguments.settle // 4:
            size = (size * np.exp(0.3 * (rate[:, None] - 0.8))).clip(None, 0.2)
        elif move < 0:  # one size for all chains, as they are all there
            size = np.full_like(size, np.median(size) * np.exp(0.1 * (rate.mean() - 0.8)))
        else:
            x = (mode + w @ L) @ root
            sums, squares, kept = sums + x, squares + x**2, kept + 1
            rates.append(rate.mean())
        if move % 100 == 0:
            print(
                move, f"accepted {rate.mean():.2f}, size {np.median(size):.3f}, energy {value.mean():.1f}", flush=True
            )
    each = sums / kept
    mean = each.mean(0)
    std = np.sqrt((squares / kept).mean(0) - mean**2)
    error = each.std(0, ddof=1) / np.sqrt(len(each)) / std
    spread = np.sqrt(np.maximum(squares / kept - 2 * mean * each + mean**2, 0))
    std_error = spread.std(0, ddof=1) / np.sqrt(len(each)) / std
    print(
        f"acceptance {np.mean(rates):.2f}; standard errors at most {error.max():.4f} std of a mean, {std_error.max():.2%} "
        f"of a std; R-hat at most {np.sqrt(1 + (each.var(0, ddof=1) / std**2).max()):.4f}"
    )
    mean = mean + example.prior.mean.numpy().ravel()
    arguments.out.parent.mkdir(exist_ok=True)
    np.savetxt(
        arguments.out,
        np.stack([mean, std, error], 1),
        fmt="%.5f",
        delimiter=",",
        header="mean,std,error of the mean over std",
    )


if __name__ == "__main__":
    main()
