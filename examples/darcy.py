"""Permeability of rock from the pressure at 32 wells: a finite-volume solver of one's own, with its own adjoint.

python examples/darcy.py [--out permeability.png] [--budget 60]
"""

import argparse

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu

import invsolve as iv

N, NOISE = 16, 0.02  # cells along a side; std of the pressure, whose largest values are about 1.5
CELLS = np.arange(N * N).reshape(N, N)
ACROSS = np.stack([CELLS[:, :-1], CELLS[:, 1:]]).reshape(2, -1)
ALONG = np.stack([CELLS[:-1], CELLS[1:]]).reshape(2, -1)
I, J = np.concatenate([ACROSS, ALONG], 1)  # the two cells of every face
RIM = 2.0 * sum(np.isin(CELLS, edge) for edge in (CELLS[0], CELLS[-1], CELLS[:, 0], CELLS[:, -1])).ravel()
WELLS = np.concatenate([CELLS[2::4, 2::4].ravel(), CELLS[::4, ::4].ravel()])


def state(logs):
    """Permeabilities, their harmonic means at the faces, factors of ``-div(k grad p) = 20``, p = 0 outside; and p."""
    k = np.exp(logs.ravel())
    t = 2 / (1 / k[I] + 1 / k[J])
    K = coo_matrix((np.tile(-t, 2), (np.append(I, J), np.append(J, I))), shape=(N * N, N * N))
    factors = splu((K + diags(RIM * k - np.asarray(K.sum(1)).ravel())).tocsc())
    return k, t, factors, factors.solve(np.full(N * N, 20.0 / N**2))


def pressure(logs):
    """At the wells."""
    return state(logs)[3][WELLS]


def adjoint(logs, v):
    """The derivative of ``v . pressure(logs)``, by one more solve of the same symmetric system."""
    k, t, factors, p = state(logs)
    q = factors.solve(np.bincount(WELLS, v, N * N))
    flow = -(q[I] - q[J]) * (p[I] - p[J]) * t**2 / 2
    return (np.bincount(I, flow / k[I], N * N) + np.bincount(J, flow / k[J], N * N) - q * p * RIM * k).reshape(N, N)


def each(function):
    """Of one signal in numpy to one of batches in torch."""
    return lambda *tensors: torch.tensor(
        np.stack([function(*row) for row in zip(*(t.numpy() for t in tensors), strict=True)])
    )


A = iv.operators.from_callable(each(pressure), (N, N), (len(WELLS),), vjp=each(adjoint), dtype=torch.float64)
prior = iv.priors.GaussianFieldPrior((N, N), iv.priors.Matern(std=1.0, length=0.25), dtype=torch.float64)
truth = prior.sample(1, seed=5)
y = A(truth)[0] + NOISE * torch.randn(len(WELLS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def main() -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds")
    arguments = parser.parse_args()
    result = iv.solve(A, y, prior, noise=NOISE, budget=arguments.budget, num_samples=100)
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
