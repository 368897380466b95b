"""The temperature of a rod one hour ago, from eight thermometers now: a heat equation solved by one's own code.

python examples/heat.py [--out rod.png]
"""

import argparse

import numpy as np
import torch
from scipy.linalg import solve_banded

import invsolve as iv

N, STEPS, TIME, NOISE = 100, 50, 0.002, 0.02  # cells of a rod of length 1, time steps, time, std of a reading
SENSORS = np.arange(6, N, 12)
RATE = TIME / STEPS * N**2  # diffusivity 1; insulated ends
BANDS = np.stack([np.full(N, -RATE), np.full(N, 1 + 2 * RATE), np.full(N, -RATE)])
BANDS[1, [0, -1]] = 1 + RATE


def cooled(x):
    """Implicit Euler steps of rows ``(batch, N)``: symmetric, so that it is its own adjoint."""
    for _ in range(STEPS):
        x = solve_banded((1, 1), BANDS, x.T).T
    return x


def readings(x):
    """Temperatures at the sensors: ``(batch, N)`` to ``(batch, 8)``."""
    return torch.tensor(cooled(x.numpy())[:, SENSORS])


def adjoint(y):
    """Of `readings`."""
    source = np.zeros((len(y), N))
    source[:, SENSORS] = y.numpy()
    return torch.tensor(cooled(source))


A = iv.operators.from_callable(readings, (N,), (len(SENSORS),), kind="linear", adjoint=adjoint, dtype=torch.float64)
prior = iv.priors.GaussianFieldPrior((N,), iv.priors.Matern(std=1.0, length=0.15), dtype=torch.float64)
truth = prior.sample(1, seed=2)
y = A(truth)[0] + NOISE * torch.randn(len(SENSORS), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def main() -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    result = iv.solve(A, y, prior, noise=NOISE, budget=60, num_samples=100)
    print(result, result.certificate, sep="\n")
    low, high, level = result.interval(0.9)
    inside = float(((truth[0] >= low) & (truth[0] <= high)).double().mean())
    print(
        f"{level:.0%} intervals hold {inside:.2f} of the temperatures; chi^2 per datum {float(result.chi2.mean()):.2f}"
    )
    if out := parser.parse_args().out:
        result.plot(truth=truth[0]).savefig(out)
    assert result.certificate.exact


if __name__ == "__main__":
    main()
