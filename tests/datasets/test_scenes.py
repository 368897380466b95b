"""Random pictures: reproducible, in [0, 1], with the statistics of photographs; and the patches that are trained on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.datasets import scenes
from invsolve.datasets.scenes import textures
from invsolve.datasets.scenes.leaves import cover
from invsolve.errors import FileError, InputError, InputTypeError
from invsolve.priors.training import Selection
from invsolve.priors.training.command import Effort, command
from invsolve.priors.training.scenes import Scenes


def slope(power, low, high):
    """The exponent of rings of mean power (side, side) between two wavenumbers."""
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(n, 1 / n) for n in power.shape], indexing="ij"))
    rings = [(k >= r) & (k < r + 1) for r in range(low, high)]
    logs = np.array([(math.log(k[ring].mean()), math.log(power[ring].mean())) for ring in rings])
    return -float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def test_a_picture_depends_on_seed_and_number_only():
    pair = scenes.grey(2, (24, 40), seed=5)
    assert pair.shape == (2, 24, 40) and pair.dtype == torch.float32
    assert torch.equal(scenes.grey(1, (24, 40), seed=5, first=1)[0], pair[1])
    assert not torch.equal(scenes.grey(1, (24, 40), seed=6)[0], pair[0])
    assert bool((pair >= 0).all()) and bool((pair <= 1).all())


def test_power_falls_with_about_the_square_of_the_wavenumber():
    """Photographs: exponents 2.0 +- 0.3 in most collections, and a kurtosis of differences far above a Gaussian's 3."""
    pictures = scenes.grey(48, (64, 64), seed=9).double().numpy()
    assert 0.3 < pictures.mean() < 0.7 and 0.1 < pictures.std() < 0.3
    window = np.outer(np.hanning(64), np.hanning(64))
    centred = pictures - pictures.mean((1, 2), keepdims=True)
    spectra = np.abs(np.fft.fft2(centred * window)) ** 2
    assert 1.7 < slope(spectra.mean(0), 2, 20) < 2.8
    steps = np.diff(centred, axis=2)
    assert (steps**4).mean() / (steps**2).mean() ** 2 > 6


@pytest.mark.parametrize("exponent", [0.0, 2.0, 3.0])
def test_power_laws(exponent):
    rng = np.random.default_rng(0)
    fields = np.stack([textures.power_law(rng, 64, exponent) for _ in range(40)]).astype(np.float64)
    assert abs(fields.mean()) < 1e-5 and fields.std() == pytest.approx(1, abs=1e-3)
    # Every ring has some hundreds of independent squares of 40 fields: errors of a per cent or two.
    assert slope((np.abs(np.fft.fft2(fields)) ** 2).mean(0), 2, 31) == pytest.approx(exponent, abs=0.05)


def test_features_are_longer_along_the_angle():
    field = textures.power_law(np.random.default_rng(1), 128, 2.0, stretch=4.0, angle=0.0)
    down, across = (float((np.diff(field, axis=a) ** 2).mean()) for a in (0, 1))
    assert down > 2.5 * across


@pytest.mark.parametrize("kind", [kind for _, kind in textures.KINDS], ids=lambda k: k.__name__)
def test_every_texture_is_standardised(kind):
    for seed in range(3):
        made = kind(np.random.default_rng(seed), 96)
        assert made.shape == (96, 96) and made.dtype == np.float32 and np.isfinite(made).all()
        assert abs(float(made.mean())) < 1e-4 and float(made.std()) == pytest.approx(1, abs=1e-3)


def test_leaves_cover_what_their_areas_say():
    """Of discs at random whose areas add up to s canvases a share e^-s is left bare, up to leaves of other shapes."""
    bare = []
    for seed in range(6):
        canvas = np.full((200, 200), -9.0, dtype=np.float32)
        flat = np.zeros((1, 200, 200), dtype=np.float32)
        half = np.full(4, 0.5, dtype=np.float32)
        cover(canvas, flat, np.random.default_rng(seed), share=3.0, smallest=2.0, largest=30.0, palette=half)
        bare.append(float((canvas < -8).mean()))
    # Bars and thin ellipses cover less, and centres lie in a border of a radius beyond the canvas too.
    assert math.exp(-3) < np.mean(bare) < math.exp(-0.75)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, InputError, "`n` must be"),
        ({"shape": (7, 64)}, InputError, "each at least 8"),
        ({"shape": (64,)}, InputError, "rows, columns"),
        ({"seed": 0.5}, InputTypeError, "seed"),
        ({"seed": 2**64}, InputError, "64 bits"),
        ({"first": -1}, InputError, "first"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        scenes.grey(**{"n": 1, "shape": (16, 16), **arguments})


# --- training signals ---------------------------------------------------------------------------------------------------
def test_patches_of_a_pool(tmp_path):
    made = Scenes(grid=16, size=3, cache=tmp_path / "pool.npy")
    again = Scenes(grid=16, size=None, cache=tmp_path / "pool.npy")
    assert torch.equal(made.pool, again.pool) and made.shape == (16, 16) and not made.complex
    assert torch.equal(made.pool.float() / 255, (255 * scenes.grey(3, (48, 48))).round() / 255)
    x = made.read(range(64), 0)
    assert x.shape == (64, 16, 16) and bool((x >= 0).all()) and bool((x <= 1).all())
    assert torch.equal(made.read([7], 0)[0], x[7])  # by its number, whatever the batch
    assert len({float(v) for v in x.mean((1, 2))}) > 60  # no two the same
    with pytest.raises(InputError, match="without a cache"):
        Scenes(grid=16, size=None)
    with pytest.raises(FileError, match="expected .* uint8"):
        Scenes(grid=8, size=3, cache=tmp_path / "pool.npy")


def test_a_patch_is_part_of_a_picture():
    """One of four is seen from twice as far: the others are pixels of the pool, up to negative and contrast."""
    pool = Scenes(grid=16, size=1)
    picture = pool.pool[0].double()
    windows = picture.unfold(0, 16, 1).unfold(1, 16, 1).reshape(-1, 256)
    windows = windows - windows.mean(1, keepdim=True)
    windows = windows / windows.norm(dim=1, keepdim=True).clamp_min(1e-9)
    found = 0
    for number in range(16):
        x = pool.read([number], 0)[0].double()
        turned = [v.rot90(k) for v in (x, x.mT) for k in range(4)]
        flat = torch.stack([v.reshape(-1) for v in turned])
        flat = flat - flat.mean(1, keepdim=True)
        likeness = (windows @ (flat / flat.norm(dim=1, keepdim=True)).mT).abs().max()
        found += bool(likeness > 1 - 1e-6)
    assert 6 <= found <= 16  # 12 expected, +- 1.7


@pytest.mark.slow
def test_the_command_trains_a_prior_for_any_size(tmp_path):
    effort = Effort(fewest=20, selection=Selection(measured=32, held_out=8))
    command("images", resolution=16, hours=0.001, width=8, out=tmp_path, effort=effort, say=lambda text: None)
    prior = iv.priors.load(tmp_path / "prior.safetensors")
    assert prior.keep == "pixel" and prior.kind == "real" and isinstance(prior.prediction, iv.priors.EDM)
    assert not prior.network.config.attention and prior.network.config.skips == "added"
    assert "no photograph" in (tmp_path / "card.md").read_text()
