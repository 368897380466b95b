"""The priors that ship: what their cards promise, on heads that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import invsolve as iv
from invsolve.priors.training.heads import Heads

ROOT = Path(__file__).resolve().parents[3]
HELD_OUT = 10_000  # seed of heads


@pytest.mark.parametrize("name", iv.priors.shipped())
def test_each_has_a_card_and_a_picture(name):
    prior = iv.priors.load(name)
    card = (ROOT / "datasets" / f"{name}.md").read_text(encoding="utf-8")
    assert f'iv.priors.load("{name}")' in card and f"docs/pictures/{name}.png" in card
    assert (ROOT / "docs" / "pictures" / f"{name}.png").exists()
    assert prior.shape == (128, 128) and prior.card["licence"].startswith("BSD")
    if name.startswith("head-"):
        assert prior.voxel_size == (1.68, 2.05)  # fields of view of 215 to 262 mm


@pytest.mark.parametrize(
    ("name", "what", "level", "most"),
    # The errors are a third (CT) and half (MR) of those of the best linear denoiser of a stationary law.
    [("head-ct-128", "ct", 20.0, 0.5), ("head-ct-128", "ct", 200.0, 0.5), ("head-mr-128", "mr", 0.1, 0.7)],
)
def test_each_removes_noise_that_its_law_cannot(name, what, level, most):
    prior = iv.priors.load(name)
    x = Heads(grid=128, size=4, what=what, seed=HELD_OUT).read(range(4), 0)
    noise = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    noisy = x + level * noise * (2**0.5 if x.is_complex() else 1.0)  # of either part
    linear = prior.law.denoise(noisy, torch.tensor([level]))
    learned, wiener = (float((d - x).abs().square().mean().sqrt()) for d in (prior.denoise(noisy, level), linear))
    assert learned < most * wiener


def test_ct_samples_are_heads_in_hounsfield_units():
    """Air around; as much bone and soft tissue as held-out heads have, within a factor of two."""
    image = iv.priors.load("head-ct-128").sample(1, seed=0)
    assert float((image[:, :8, :8] + 1000).abs().mean()) < 20
    truth = Heads(grid=128, size=8, what="ct", seed=HELD_OUT).pool
    for low, high in ((300.0, 2000.0), (-20.0, 90.0)):
        share, expected = (float(((v > low) & (v < high)).double().mean()) for v in (image, truth))
        assert expected / 2 < share < 2 * expected
