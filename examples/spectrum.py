"""A gamma spectrum unfolded: counts, blurred by the detector, over a known background; the intensity is positive.

python examples/spectrum.py [--out spectrum.png]
"""

import argparse

import torch

import invsolve as iv

CHANNELS, RESOLUTION, BACKGROUND = 64, 1.5, 5.0  # std of the detector's response in channels, counts a channel

energy = torch.linspace(0.0, 2.0, CHANNELS)  # MeV
lines = [(0.66, 0.04, 250.0), (1.33, 0.05, 120.0)]  # energy, width, height
truth = 30 * torch.exp(-1.5 * energy) + sum(h * torch.exp(-(((energy - e) / w) ** 2) / 2) for e, w, h in lines)
A = iv.operators.GaussianBlur(std=RESOLUTION, in_shape=(CHANNELS,), boundary="zero")
counts = torch.poisson(A(truth[None])[0] + BACKGROUND, generator=torch.Generator().manual_seed(0))
noise = iv.noise.Poisson(counts_per_unit=1.0, background=BACKGROUND)
# About 20 counts, give or take a factor e^1.2 = 3.3, correlated over 0.2 MeV: a prior of the logarithm.
field = iv.priors.GaussianFieldPrior((CHANNELS,), iv.priors.Matern(std=1.2, length=0.2), mean=3.0, extent=(2.0,))
prior = iv.priors.exp(field)


def main() -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    result = iv.solve(A, counts, prior, noise=noise, budget=60)
    print(result, result.certificate, sep="\n")
    if out := parser.parse_args().out:
        result.plot(truth=truth).savefig(out)
    low, high, level = result.interval(0.9)
    assert bool((result.samples > 0).all()) and bool(result.certificate.passed.all())
    print(f"{level:.0%} intervals hold {float(((truth >= low) & (truth <= high)).float().mean()):.2f} of the truth")


if __name__ == "__main__":
    main()
