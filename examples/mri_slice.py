"""Reconstruct a real T1 slice from a quarter of its k-space, with error bars.

    python examples/mri_slice.py [--out slice.png]

The small form of ``python -m invsolve demo``, written out: simulate, state a prior, solve, look.
"""

from __future__ import annotations

import argparse

import torch

import invsolve as iv
from invsolve.demo import head_spectrum

GRID = (96, 96)


def main(argv: list[str] | None = None) -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    arguments = parser.parse_args(argv)

    # The object has 256 x 256 cells, the unknown image 96 x 96 pixels: the model is not the truth, as in a scanner.
    scan = iv.datasets.simulate_mri(iv.datasets.t1_slice(), grid=GRID, num_coils=8, acceleration=4.0, snr=30.0, seed=0)
    A, y = scan.operator, scan.kspace  # your own: iv.operators.MRI(in_shape=..., mask=..., maps=...)
    prior = iv.priors.GaussianFieldPrior(shape=GRID, spectrum=head_spectrum(8), basis="periodic", kind="complex")
    result = iv.solve(A, y, prior, noise=scan.noise_std, num_samples=19, seed=0)

    magnitude = result.map(torch.abs)  # the posterior of a quantity is the quantity of every sample
    low, high, level = magnitude.interval(0.9)
    truth = scan.truth.abs()
    head = truth > 0.1 * truth.max()
    inside = float(((truth >= low) & (truth <= high))[head].float().mean())
    others = {
        "zero-filled": iv.baselines.zero_filled(A, y[None])[0],
        "CG-SENSE": iv.baselines.tikhonov(A, y[None], weight=0.02)[0],  # the demo tunes this weight on phantoms
        "posterior mean": result.mean,
    }
    errors = {name: float(iv.metrics.nrmse(x[head][None], scan.truth[head][None])) for name, x in others.items()}
    print(scan)
    print(result)
    print("relative errors inside the head: " + ", ".join(f"{name} {error:.3f}" for name, error in errors.items()))
    print(f"{level:.0%} intervals hold {inside:.3f} of the magnitudes inside the head")
    if arguments.out:
        result.plot(truth=scan.truth).savefig(arguments.out, dpi=120)

    assert errors["posterior mean"] < 0.95 * min(errors["zero-filled"], errors["CG-SENSE"])
    assert abs(float(result.chi2.mean()) - 1) < 0.05, "the samples explain the data to within the noise"
    assert 0.8 < inside < 0.97, "near 0.9, though a head is not a Gaussian field"


if __name__ == "__main__":
    main()
