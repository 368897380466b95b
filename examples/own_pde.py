"""Your own equation: how fast a river loses a pollutant along its bed, from twelve readings of the concentration.

python examples/own_pde.py [--out river.png]

Steady transport ``v u' - d u'' + loss(x) u = f`` is not symmetric; `solve_linear` asks for a solver of the equation,
one of the adjoint equation, and the product with the matrix. Derivatives follow.
"""

import argparse

import torch

import invsolve as iv

N, SPEED, MIXING, NOISE = 96, 1.0, 0.02, 0.002  # cells of a river of length 1
D, GRID = torch.float64, iv.CartesianGrid((N,), points="interior")
H = GRID.spacing[0]
ONES = torch.ones(N, dtype=D)
FLOW = torch.diag(ONES * (2 * MIXING / H**2 + SPEED / H))  # upwind
FLOW += torch.diag(ONES[1:] * (-MIXING / H**2 - SPEED / H), -1) + torch.diag(ONES[1:] * (-MIXING / H**2), 1)
SOURCE = torch.exp(-(((torch.tensor(GRID.axes[0]) - 0.15) / 0.05) ** 2)) + 0.3


def matrix(loss):
    """Dense, one for each row."""
    return FLOW + torch.diag_embed(loss)


def product(loss, u):
    """The matrix times u."""
    return u @ FLOW.mT + loss * u


def solve(loss, f):
    """Any solver, of rows."""
    return torch.linalg.solve(matrix(loss), f)


def solve_adjoint(loss, g):
    """The same of the transpose."""
    return torch.linalg.solve(matrix(loss).mT, g)


def concentration(log_loss):
    """Along the river, ``(rows, N)``."""
    source = SOURCE.expand(len(log_loss), N)
    return iv.operators.solve_linear(log_loss.exp(), source, solve, product, solve_adjoint=solve_adjoint)


river = iv.operators.from_callable(concentration, (N,), (N,), dtype=D)
gauges = iv.operators.PointValues(GRID, torch.linspace(0.08, 0.96, 12, dtype=D))
A = river >> gauges
prior = iv.priors.GaussianFieldPrior((N,), iv.priors.Matern(std=1.0, length=0.2), dtype=D)
truth = prior.sample(1, seed=3)
y = A(truth)[0] + NOISE * torch.randn(12, dtype=D, generator=torch.Generator().manual_seed(0))


def main() -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    result = iv.solve(A, y, prior, noise=NOISE, strategy=iv.strategies.MMPS(num_steps=30), num_samples=64, seed=0)
    print(result)
    low, high, level = result.interval(0.9)
    inside = float(((truth[0] >= low) & (truth[0] <= high)).double().mean())
    print(f"{level:.0%} intervals hold {inside:.2f} of the log losses")
    if out := parser.parse_args().out:
        result.plot(truth=truth[0]).savefig(out)
    assert inside > 0.6


if __name__ == "__main__":
    main()
