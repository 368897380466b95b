"""Four positive parameters of a simulator from scipy: predators and prey, counted fifteen times with 10 % errors.

python examples/lotka_volterra.py [--out parameters.png]
"""

import argparse

import numpy as np
from scipy.integrate import solve_ivp

import invsolve as iv

TIMES, NOISE = np.linspace(1.0, 15.0, 15), 0.1  # years; std of the logarithm of a count
TRUTH = {"alpha": 0.7, "beta": 0.027, "gamma": 0.85, "delta": 0.021}


def simulate(alpha, beta, gamma, delta):
    """The logarithm of both populations, ``(2, 15)``: floats in, an array out."""

    def rates(time, logs):
        prey, predators = np.exp(logs)
        return alpha - beta * predators, delta * prey - gamma

    # The errors of the default rtol, 1e-3, would shift the posterior by 0.13 standard deviations.
    return solve_ivp(rates, (0.0, 15.0), np.log((30.0, 20.0)), method="LSODA", rtol=1e-5, t_eval=TIMES).y


prior = iv.priors.independent(  # each about its median, give or take a factor of 1.35
    alpha=iv.LogNormal(median=0.6, factor=1.35),
    beta=iv.LogNormal(median=0.03, factor=1.35),
    gamma=iv.LogNormal(median=0.8, factor=1.35),
    delta=iv.LogNormal(median=0.02, factor=1.35),
    units={"alpha": "1/year", "beta": "1/year", "gamma": "1/year", "delta": "1/year"},
)
A = iv.operators.from_simulator(simulate, prior.layout, out_shape=(2, 15))
y = simulate(**TRUTH) + NOISE * np.random.default_rng(0).standard_normal((2, 15))


def main() -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    result = iv.solve(A, y, prior, noise=NOISE, budget=60, num_samples=1000)
    print(result, result.summary(), sep="\n")
    if out := parser.parse_args().out:
        result["alpha"].plot().savefig(out)
    for name, value in TRUTH.items():
        assert abs(float(result[name].mean) - value) < 4 * float(result[name].std), name


if __name__ == "__main__":
    main()
