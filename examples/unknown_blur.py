"""Deblur without knowing the blur: its width and the noise level are inferred together with the image.

    python examples/unknown_blur.py [--out deblurred.png] [--side 32]

Both scalars have prior distributions. Prior, blur and noise are Gaussian given their values, so their evidence is known
in closed form: it is put on a lattice, and every sample has its own width, noise level and image.
"""

from __future__ import annotations

import argparse

import torch

import invsolve as iv

WIDTH, NOISE = 1.7, 0.05  # the truth: pixels, and units of the image, whose std is 1
UNKNOWN_WIDTH = iv.LogNormal(median=1.5, factor=1.5)  # a factor 1.5 up or down is one std
UNKNOWN_NOISE = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=3.0))


def experiment(side: int, seed: int = 0) -> tuple[iv.operators.Family, torch.Tensor, iv.priors.Prior, torch.Tensor]:
    """Blurs of every width, an image of theirs with noise, its prior, and the image itself."""
    prior = iv.priors.GaussianFieldPrior((side, side), iv.priors.Matern(std=1.0, length=0.2))

    def blur(width: float) -> iv.operators.Operator:
        return iv.operators.GaussianBlur(std=width, in_shape=(side, side))

    truth = prior.sample(1, seed=seed)[0]
    noise = torch.randn(side, side, generator=torch.Generator().manual_seed(seed + 1))
    y = blur(WIDTH)(truth[None])[0] + NOISE * noise
    return iv.operators.Family(blur, width=UNKNOWN_WIDTH), y, prior, truth


def main(argv: list[str] | None = None) -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    parser.add_argument("--side", type=int, default=32, help="pixels")
    arguments = parser.parse_args(argv)

    A, y, prior, truth = experiment(arguments.side)
    result = iv.solve(A, y, prior, noise=UNKNOWN_NOISE, budget=60, progress=iv.progress.TextProgress())
    print(result)
    print(result.certificate)
    for name, true in (("operator.width", WIDTH), ("noise.std", NOISE)):
        found = result[name]
        print(f"{name}: {float(found.mean):.4f} +- {float(found.std):.4f} (the truth is {true})")
        assert abs(float(found.mean) - true) < 4 * float(found.std), name
    assert result.certificate is not None and result.certificate.reached
    low, high, level = result.interval(0.9)
    covered = float(((truth >= low) & (truth <= high)).float().mean())
    print(f"the {level:.0%} intervals hold {covered:.0%} of the pixels of the truth")
    assert 0.8 < covered < 0.97
    if arguments.out:
        result.plot(truth=truth).savefig(arguments.out)


if __name__ == "__main__":
    main()
