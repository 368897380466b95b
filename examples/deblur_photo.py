"""Deblur a photo: a Gaussian blur, a learned prior for any picture, and intervals that say what the blur has destroyed.

    python examples/deblur_photo.py [--out deblurred.png]
    python examples/deblur_photo.py --photo mine.png --blur 1.5 --noise 0.02 --out deblurred.png

Without a photo of yours one is made here: "dead leaves", discs of every size that cover each other, which have the
statistics of natural scenes. It is blurred on a finer grid than it is reconstructed on.
"""

from __future__ import annotations

import argparse

import torch

import invsolve as iv

SIDE = 64  # pixels of the photo that is made


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


def made(blur: float, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A photo, and what is seen of it."""
    photo = dead_leaves(2 * SIDE)
    lens = iv.operators.GaussianBlur(std=2 * blur, in_shape=photo.shape, boundary="reflect")
    grain = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return halve(photo), halve(lens(photo[None])[0]) + noise * grain


def read(path: str) -> torch.Tensor:
    """Grey levels in [0, 1] of a picture in a file."""
    from matplotlib.pyplot import imread

    values = torch.tensor(imread(path))
    grey = values[..., :3].float().mean(-1) if values.ndim == 3 else values.float()
    return grey if values.is_floating_point() else grey / 255


def main(argv: list[str] | None = None) -> None:
    """Run the example; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", help="a picture of yours, blurred as it is")
    parser.add_argument("--blur", type=float, default=1.5, help="std of the blur, in pixels")
    parser.add_argument("--noise", type=float, default=0.02, help="std of the noise, of grey levels from 0 to 1")
    parser.add_argument("--out", help="picture to write")
    arguments = parser.parse_args(argv)

    truth, y = (None, read(arguments.photo)) if arguments.photo else made(arguments.blur, arguments.noise)
    # Beyond the edge the photo is mirrored about its outermost pixels ("mirror" in scipy.ndimage).
    A = iv.operators.GaussianBlur(std=arguments.blur, in_shape=tuple(y.shape), boundary="reflect")
    problem = iv.Problem(A, y, noise=arguments.noise)
    prior = iv.priors.load("images-64").on(problem)  # pictures of any size, larger ones in tiles
    result = iv.solve(problem, prior, num_samples=9, seed=0)
    low, high, level = result.interval(0.8)
    print(prior, result, sep="\n")
    if arguments.out:
        result.plot(truth=truth).savefig(arguments.out, dpi=120)
    if truth is None:
        return

    before, after = (float(iv.metrics.nrmse(x.view(1, SIDE, SIDE), truth[None])) for x in (y, result.mean))
    inside = float(((truth >= low) & (truth <= high)).float().mean())
    print(f"relative error: blurred {before:.3f}, posterior mean {after:.3f}")
    print(f"{level:.0%} intervals hold {inside:.3f} of the pixels; chi^2 per datum {float(result.chi2.mean()):.3f}")
    assert after < 0.8 * before, "deblurring should remove at least a fifth of the error"
    assert abs(float(result.chi2.mean()) - 1) < 0.1, "the samples should explain the data to within the noise"
    assert 0.7 < inside < 0.9  # nominal 0.8; discs are not what the prior was trained on


if __name__ == "__main__":
    main()
