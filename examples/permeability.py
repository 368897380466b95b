"""Permeability from the pressure in 35 wells, its correlation length unknown, and the risk of too much flux.

python examples/permeability.py [--out permeability.png]

Gauss-Newton: the flow is linearised where the posterior mean is, and the linear problem solved in closed form, the
length with it. The last lines say how right that is: samples are weighted by what the flow itself says of the data.
"""

import argparse

import torch
from scipy.sparse import csr_array

import invsolve as iv

NOISE = 0.02
grid = iv.CartesianGrid((16, 24), extent=(2.0, 3.0), unit="km")
walls = (("no flow", "no flow"), (1.0, 0.0))  # along x the pressure falls from 1 to 0
flow = iv.operators.Darcy(grid, source=0.0, walls=walls, log=True)
wells = [[0.2 + 0.4 * i, 0.3 + 0.4 * j] for i in range(5) for j in range(7)]
A = iv.operators.PointValues(grid, wells) @ flow
matern = iv.priors.Matern(std=1.0, length=iv.LogUniform(0.2, 2.0))
prior = iv.priors.GaussianFieldPrior(grid, matern, dtype=torch.float64)
truth = prior.at(length=0.6).sample(1, seed=5)
y = A(truth)[0] + NOISE * torch.randn(35, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def flux(x):
    """Through the wall on the right, of rows of log-permeability; the wall is half a cell away and holds 0."""
    return (2 * x[..., -1].exp() * flow(x)[..., -1] * grid.spacing[0] / grid.spacing[1]).sum(1, keepdim=True)


def main() -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    arguments = parser.parse_args()
    x = torch.zeros(1, *grid.shape, dtype=torch.float64)
    for _ in range(6):
        J = torch.func.jacrev(lambda s: A(s[None])[0])(x[0])
        line = iv.operators.from_scipy(csr_array(J.reshape(35, -1)), in_shape=grid.shape)
        result = iv.solve(line, y - A(x)[0] + line(x)[0], prior, noise=NOISE, num_samples=400)
        x = result.mean[None]
    misfit = [((y - B) / NOISE).square().sum(1) for B in (A(result.samples), A(x) + line(result.samples - x))]
    weights = torch.softmax((misfit[1] - misfit[0]) / 2, 0)
    print(
        "Of the linearised flow, not of the flow itself:",
        result,
        f"correlation length {float(result['prior.length'].mean):.2f} km",
        sep="\n",
    )
    through = result.map(flux)
    over = (through.samples[:, 0] > 1.0).double()
    print(f"P(flux > 1): {float(over.mean()):.2f}; weighted {float(weights @ over):.2f}")
    print(f"truth: {float(flux(truth)):.2f}; {1 / float(weights.square().sum()):.0f} of 400 samples count")
    if arguments.out:
        result.plot(truth=truth[0]).savefig(arguments.out)
    assert 0.2 < float(result["prior.length"].mean) < 2.0


if __name__ == "__main__":
    main()
