"""Deblur a photo: a Gaussian blur, a field prior, and intervals that say what the blur has destroyed.

    python examples/deblur_photo.py [--out deblurred.png]

The photo is made here: "dead leaves", discs of every size that cover each other, which have the statistics of natural
scenes. It is blurred on a finer grid than it is reconstructed on.
"""

from __future__ import annotations

import argparse

import torch

import invsolve as iv

SIDE, BLUR, NOISE = 96, 1.5, 0.02  # pixels, pixels, std of grey levels in [0, 1]


def dead_leaves(side: int, *, leaves: int = 400, seed: int = 0) -> torch.Tensor:
    """A photo (side, side) with values in [0, 1]: radii with density r^-3, from 2 % to 40 % of the side."""
    u = torch.rand(leaves, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    radius = (u[:, 0] * 0.4**-2 + (1 - u[:, 0]) * 0.02**-2) ** -0.5
    i = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    photo = torch.full((side, side), 0.5, dtype=torch.float64)
    for r, (x, y), grey in zip(radius, 1.4 * u[:, 1:3] - 0.2, u[:, 3], strict=True):
        photo[(i[:, None] - y) ** 2 + (i - x) ** 2 < r**2] = grey
    return photo.float()


def halve(fine: torch.Tensor) -> torch.Tensor:
    """Means of 2 x 2 pixels."""
    return torch.nn.functional.avg_pool2d(fine[None, None], 2)[0, 0]


def field_prior(length: float) -> iv.priors.GaussianFieldPrior:
    """Grey levels of about 0.5, give or take 0.25."""
    spectrum = iv.priors.Matern(std=0.25, length=length, smoothness=0.5)
    return iv.priors.GaussianFieldPrior(shape=(SIDE, SIDE), spectrum=spectrum, mean=0.5)


def main(argv: list[str] | None = None) -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="picture to write")
    arguments = parser.parse_args(argv)

    photo = dead_leaves(2 * SIDE)
    truth = halve(photo)
    lens = iv.operators.GaussianBlur(std=2 * BLUR, in_shape=photo.shape, boundary="reflect")
    grain = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    y = halve(lens(photo[None])[0]) + NOISE * grain

    # Beyond the edge the photo is mirrored about its outermost pixels ("mirror" in scipy.ndimage).
    A = iv.operators.GaussianBlur(std=BLUR, in_shape=(SIDE, SIDE), boundary="reflect")
    # Scenes with sharp edges have power |k|^-3: Matern fields of smoothness 1/2. The correlation length, in sides of
    # the photo, is that under which five other photos are most probable.
    others = torch.stack([halve(dead_leaves(2 * SIDE, seed=seed)) for seed in range(1, 6)])
    priors = [field_prior(length) for length in (0.05, 0.1, 0.2, 0.4, 0.8)]
    prior = max(priors, key=lambda p: float(p.log_prob(others).mean()))
    result = iv.solve(A, y, prior, noise=NOISE, num_samples=19, seed=0)
    low, high, level = result.interval(0.9)

    before, after = (float(iv.metrics.nrmse(x[None], truth[None])) for x in (y, result.mean))
    inside = float(((truth >= low) & (truth <= high)).float().mean())
    print(prior, result, sep="\n")
    print(f"relative error: blurred {before:.3f}, posterior mean {after:.3f}")
    print(f"{level:.0%} intervals hold {inside:.3f} of the pixels; chi^2 per datum {float(result.chi2.mean()):.3f}")
    if arguments.out:
        result.plot(truth=truth).savefig(arguments.out, dpi=120)

    assert after < 0.85 * before, "deblurring should remove at least 15 % of the error"
    assert abs(float(result.chi2.mean()) - 1) < 0.1, "the samples should explain the data to within the noise"
    # Not exactly 0.9: a photo is not a Gaussian field. Its flat parts are flatter, its edges sharper.
    assert 0.8 < inside < 1.0


if __name__ == "__main__":
    main()
