"""Permeability of rock from the pressure at 32 wells: a finite-volume solver of one's own, with its own adjoint.

python examples/darcy.py [--out permeability.png] [--budget 60]
"""

import argparse
import functools

import numpy as np
import torch
from scipy.linalg.lapack import dpbtrf, dpbtrs

import invsolve as iv

N, NOISE = 16, 0.02  # cells along a side; std of the pressure, whose largest values are about 1.5
CELLS = np.arange(N * N).reshape(N, N)
RIM = 2.0 * sum(np.isin(CELLS, edge) for edge in (CELLS[0], CELLS[-1], CELLS[:, 0], CELLS[:, -1]))
WELLS = np.concatenate([CELLS[2::4, 2::4].ravel(), CELLS[::4, ::4].ravel()])  # 32 different cells


@functools.lru_cache(maxsize=1)  # the derivative is asked for where the pressure was
def state(bits):
    """Permeabilities, their harmonic means at the faces, Cholesky factors of ``-div(k grad p) = 20``, p = 0 outside; p.

    Of the logarithms ``(rows, N, N)``, whose bytes are given; the banded matrices of all rows are filled at once.
    """
    k = np.exp(np.frombuffer(bits).reshape(-1, N, N))
    across, along = 2 / (1 / k[:, :, :-1] + 1 / k[:, :, 1:]), 2 / (1 / k[:, :-1] + 1 / k[:, 1:])
    band = np.zeros((len(k), N + 1, N, N))
    band[:, 0] = RIM * k
    band[:, 0, :, :-1] += across
    band[:, 0, :, 1:] += across
    band[:, 0, :-1] += along
    band[:, 0, 1:] += along
    band[:, 1, :, :-1] = -across
    band[:, N, :-1] = -along
    factors = [dpbtrf(one, lower=True)[0] for one in band.reshape(len(k), N + 1, N * N)]
    return k, across, along, factors, fields(factors, [np.full(N * N, 20.0 / N**2)] * len(k))


def fields(factors, sources):
    """The solution ``(rows, N, N)`` for a source of every row."""
    each = [dpbtrs(one, source, lower=True)[0] for one, source in zip(factors, sources, strict=True)]
    return np.stack(each).reshape(-1, N, N)


def pressure(logs):
    """At the wells, ``(rows, 32)``."""
    return state(logs.tobytes())[-1].reshape(len(logs), -1)[:, WELLS]


def adjoint(logs, v):
    """The derivative of ``v . pressure(logs)``, by one more solve of the same symmetric system."""
    k, across, along, factors, p = state(logs.tobytes())
    source = np.zeros((len(k), N * N))
    source[:, WELLS] = v
    q = fields(factors, source)
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
    if not bool(result.unfinished):  # the budget was large enough for the data to count in full
        low, high, level = result.interval(0.9)
        covered = float(((truth[0] >= low) & (truth[0] <= high)).double().mean())
        print(f"{level:.0%} intervals hold {covered:.2f} of the cells")
    if arguments.out:
        result.plot(truth=truth[0]).savefig(arguments.out)
    assert 0.3 < float(result.chi2.mean()) < 2, "samples should explain the pressures"


if __name__ == "__main__":
    main()
