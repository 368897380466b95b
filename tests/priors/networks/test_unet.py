"""The U-Net's options: what they cost, that files say them, and what does not change without them."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import invsolve as iv
from invsolve.core.derivatives import pullback
from invsolve.errors import FileError, InputError, InputTypeError
from invsolve.priors import NetworkPrior
from invsolve.priors.networks import UNet, UNetConfig

LEAN = UNetConfig(width=8, multipliers=(1, 1, 2), blocks=(1, 2, 1), attention=False, skips="added")


def network(config: UNetConfig) -> UNet:
    torch.manual_seed(0)
    made = UNet(config)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return made.double().eval().requires_grad_(False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(16, 16), (13, 21), (1, 1)])
def test_every_size_with_its_derivative(size):
    """The frozen network, which works in place, against finite differences: second order in the step."""
    made = network(LEAN)
    x, v, g = (draw(2, 1, *size, seed=s) for s in range(3))
    c = torch.tensor([0.1, -0.4], dtype=torch.float64)
    value, pull = pullback(lambda z: made(z, c), x, lambda: AssertionError())
    assert value.shape == x.shape and torch.equal(value, made(x, c))
    h = 1e-4
    slope = (made(x + h * v, c) - made(x - h * v, c)) / (2 * h)
    left, right = float((slope * g).sum()), float((v * pull(g)).sum())
    assert left == pytest.approx(right, rel=1e-5, abs=1e-7)


def flops(config: UNetConfig, side: int = 64) -> int:
    made = UNet(config).eval()
    x = torch.zeros(1, config.channels, side, side, dtype=torch.float32, device="cpu")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made(x, torch.zeros(1, dtype=torch.float32, device="cpu"))
    return counter.get_total_flops()


def test_what_is_added_and_left_out_saves():
    """A block of width w is two convolutions of 3 x 3: 36 w^2 products and sums a pixel."""
    plain = UNetConfig(width=16, multipliers=(1, 2), attention=False)
    fewer = UNetConfig(width=16, multipliers=(1, 2), attention=False, blocks=(1, 2))
    pixels = 32 * 32
    film = 2 * 4 * 16 * 2 * 16  # gain and shift of a block by the level
    assert flops(plain) - flops(fewer) == 2 * (36 * 16**2 * pixels + film)  # on the way down, and up
    added = UNetConfig(width=16, multipliers=(1, 2), attention=False, skips="added")
    # Joined, the first block of each level on the way up sees (coarser + own) channels, and mixes them for its skip.
    saved = sum(
        2 * 9 * more * w * p + 2 * (more + w) * w * p for more, w, p in ((32, 16, pixels), (32, 32, pixels // 4))
    )
    assert flops(plain) - flops(added) == saved - 2 * 32 * 16 * pixels // 4


def test_the_number_of_blocks_of_every_level():
    assert UNetConfig(blocks=2).blocks_of_levels == (2, 2, 2) and LEAN.blocks_of_levels == (1, 2, 1)
    same = network(UNetConfig(width=8, multipliers=(1, 2), blocks=(2, 2)))
    other = network(UNetConfig(width=8, multipliers=(1, 2), blocks=2))
    x, c = draw(1, 1, 8, 8), torch.zeros(1, dtype=torch.float64)
    assert torch.equal(same(x, c), other(x, c))


def prior(config: UNetConfig, **more) -> NetworkPrior:
    return NetworkPrior(network=network(config), shape=(8, 12), scale=3.0, sigma_range=(0.01, 50.0), **more)


def test_files_say_the_options(tmp_path):
    made, path = prior(LEAN, keep="pixel"), tmp_path / "p.safetensors"
    iv.priors.save_prior(made, path)
    back = iv.priors.load(path)
    assert back.network.config == LEAN and back.keep == "pixel"
    x = draw(2, 8, 12)
    assert torch.equal(back.denoise(x, 0.7), made.denoise(x, 0.7))


def rewritten(path, change):
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    about = json.loads(header["prior"])
    change(about)
    save_file(load_file(path), path, metadata={**header, "prior": json.dumps(about)})


def test_files_that_do_not_say_them_are_as_before(tmp_path):
    made, path = prior(UNetConfig(width=8, multipliers=(1, 2))), tmp_path / "p.safetensors"
    iv.priors.save_prior(made, path)

    def old(about):
        del about["keep"], about["network"]["skips"]

    rewritten(path, old)
    back = iv.priors.load(path)
    assert asdict(back.network.config) == asdict(made.network.config) and back.keep is None
    assert torch.equal(back.denoise(draw(2, 8, 12), 0.7), made.denoise(draw(2, 8, 12), 0.7))


@pytest.mark.parametrize(
    ("key", "value", "message"), [("blocks", [1, 65, 1], "absurd network"), ("skips", "none", "does not describe")]
)
def test_files_with_options_that_cannot_be(tmp_path, key, value, message):
    path = tmp_path / "p.safetensors"
    iv.priors.save_prior(prior(LEAN), path)
    rewritten(path, lambda about: about["network"].update({key: value}))
    with pytest.raises(FileError, match=message):
        iv.priors.load(path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"blocks": (1, 2)}, InputError, "one number, or one of each of the 3 levels"),
        ({"blocks": (1, 2, 0)}, InputError, r"blocks\[2\]"),
        ({"blocks": 0}, InputError, "`blocks`"),
        ({"blocks": "many"}, InputTypeError, "`blocks`"),
        ({"skips": "dropped"}, InputError, "`skips`"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        UNetConfig(**arguments)


def test_a_prior_keeps_pixels_or_the_field_of_view():
    with pytest.raises(InputError, match="`keep`"):
        prior(LEAN, keep="size")


def test_weights_lie_as_the_images_do() -> None:
    """Channels side by side, also once loaded, in another precision and copied: torch would reorder them every call."""
    made = network(LEAN)
    loaded = UNet(LEAN).double()
    loaded.load_state_dict({k: v.contiguous() for k, v in made.state_dict().items()})
    for module in (made, loaded, copy.deepcopy(made)):
        kernels = [p for p in module.parameters() if p.ndim == 4]
        assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    plain = copy.deepcopy(made).to(memory_format=torch.contiguous_format)
    x, c = (
        torch.randn(2, 1, 16, 16, dtype=torch.float64, device="cpu"),
        torch.zeros(2, dtype=torch.float64, device="cpu"),
    )
    value = made(x, c)
    assert float(value.abs().max()) > 0.1
    torch.testing.assert_close(value, plain(x, c), rtol=1e-10, atol=1e-10)
