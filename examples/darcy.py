"""Permeability of rock from the pressure at 32 wells: a finite-volume solver of one's own, with its own adjoint.

python examples/darcy.py [--out permeability.png] [--budget 60]
"""

import argparse

import numpy as np
import torch
from scipy.linalg import cho_solve_banded, cholesky_banded

import invsolve as iv

N, NOISE = 16, 0.02  # cells along a side; std of the pressure, whose largest values are about 1.5
CELLS = np.arange(N * N).reshape(N, N)
RIM = 2.0 * sum(np.isin(CELLS, edge) for edge in (CELLS[0], CELLS[-1], CELLS[:, 0], CELLS[:, -1]))
WELLS = np.concatenate([CELLS[2::4, 2::4].ravel(), CELLS[::4, ::4].ravel()])
SOURCE = np.full(N * N, 20.0 / N**2)


def faces(logs):
    """Permeabilities ``(rows, N, N)`` and their harmonic means at the faces, across and along."""
    k = np.exp(logs)
    return k, 2 / (1 / k[:, :, :-1] + 1 / k[:, :, 1:]), 2 / (1 / k[:, :-1] + 1 / k[:, 1:])


def factors(k, across, along):
    """Cholesky factors of ``-div(k grad p)``, p = 0 outside: a banded matrix for every row, all filled at once."""
    band = np.zeros((len(k), N + 1, N, N))
    band[:, 0] = RIM * k
    band[:, 0, :, :-1] += across
    band[:, 0, :, 1:] += across
    band[:, 0, :-1] += along
    band[:, 0, 1:] += along
    band[:, 1, :, :-1] = -across
    band[:, N, :-1] = -along
    return [cholesky_banded(one, lower=True, check_finite=False) for one in band.reshape(len(k), N + 1, N * N)]


def solve(factor, source):
    """Fields of a source ``(rows, N * N)`` each."""
    pairs = zip(factor, source, strict=True)
    return np.stack([cho_solve_banded((one, True), s, check_finite=False) for one, s in pairs])


def pressure(logs):
    """At the wells, ``(rows, 32)``, of logarithms of the permeability ``(rows, N, N)``."""
    factor = factors(*faces(logs))
    return solve(factor, [SOURCE] * len(factor))[:, WELLS]


def adjoint(logs, v):
    """The derivative of ``v . pressure(logs)``, by one more solve of the same symmetric system."""
    k, across, along = faces(logs)
    factor = factors(k, across, along)
    source = np.zeros((len(k), N * N))
    np.add.at(source, (slice(None), WELLS), v)
    p, q = (solve(factor, s).reshape(-1, N, N) for s in ([SOURCE] * len(factor), source))
    one = -np.diff(q, axis=2) * np.diff(p, axis=2) * across**2 / 2
    two = -np.diff(q, axis=1) * np.diff(p, axis=1) * along**2 / 2
    slope = -q * p * RIM * k
    slope[:, :, :-1] += one / k[:, :, :-1]
    slope[:, :, 1:] += one / k[:, :, 1:]
    slope[:, :-1] += two / k[:, :-1]
    slope[:, 1:] += two / k[:, 1:]
    return slope


def numpy(function):
    """Of batches in numpy to one of batches in torch."""
    return lambda *tensors: torch.from_numpy(function(*(t.numpy() for t in tensors)))


A = iv.operators.from_callable(numpy(pressure), (N, N), (len(WELLS),), vjp=numpy(adjoint), dtype=torch.float64)
prior = iv.priors.GaussianFieldPrior((N, N), iv.priors.Matern(std=1.0, length=0.25), dtype=torch.float64)
truth = prior.sample(1, seed=5)
y = A(truth)[0] + NOISE * torch.randn(len(WELLS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def main() -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds")
    arguments = parser.parse_args()
    result = iv.solve(A, y, prior, noise=NOISE, budget=arguments.budget)
    print(result, result.certificate, f"chi^2 per datum {float(result.chi2.mean()):.2f}", sep="\n")
    low, high, level = result.interval(0.9)
    print(
        f"{level:.0%} intervals hold {float(((truth[0] >= low) & (truth[0] <= high)).double().mean()):.2f} of the cells"
    )
    if arguments.out:
        result.plot(truth=truth[0]).savefig(arguments.out)
    assert 0.3 < float(result.chi2.mean()) < 2, "samples should explain the pressures"


if __name__ == "__main__":
    main()
