"""Images in tiles: the same as the whole where only what is near matters, in less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import invsolve as iv
from invsolve.core.derivatives import pullback
from invsolve.core.torch_workarounds import load_forward_mode
from invsolve.errors import InputError, InputTypeError
from invsolve.priors import NetworkPrior
from invsolve.priors.networks import Tiled, UNet, UNetConfig
from invsolve.priors.networks.tiled import TILE, _weights, for_grid


def narrow() -> UNet:
    """Sees 23 pixels far: eight convolutions of 3 x 3 of half of the resolution, two ends, a mean over 3 x 3."""
    torch.manual_seed(0)
    made = UNet(UNetConfig(width=8, multipliers=(1,), blocks=1, attention=False))
    for p in made.parameters():
        nn.init.normal_(p, std=0.1)
    return made.double().eval().requires_grad_(False)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(40, 700), (401, 33)])
def test_tiles_are_the_whole_where_they_see_far_enough(size):
    """A quarter of 80 to 96 pixels is left out at each edge: as far as the network sees, and its blend is of equals."""
    made = narrow()
    tiled = Tiled(made, tile=384, overlap=96)
    x, g = draw(2, 1, *size), draw(2, 1, *size, seed=1)
    c = torch.tensor([0.1, -0.5], dtype=torch.float64)
    assert max(len(tiled._cuts(n)) for n in size) > 1
    whole, whole_pull = pullback(lambda z: made(z, c), x, lambda: AssertionError())
    parts, parts_pull = pullback(lambda z: tiled(z, c), x, lambda: AssertionError())
    eps = torch.finfo(torch.float64).eps
    for a, b in ((whole, parts), (whole, tiled(x, c)), (whole_pull(g), parts_pull(g)), (whole_pull(g), parts_pull(g))):
        assert float((a - b).abs().max()) < 1e3 * eps * float(a.abs().max())


def test_forward_mode_and_second_derivatives():
    made = narrow()
    tiled = Tiled(made, tile=128, overlap=32)
    x, v = draw(1, 1, 16, 200), draw(1, 1, 16, 200, seed=1)
    c = torch.zeros(1, dtype=torch.float64)
    load_forward_mode()
    value, along = torch.func.jvp(lambda z: tiled(z, c), (x,), (v,))
    h = 1e-5
    slope = (tiled(x + h * v, c) - tiled(x - h * v, c)) / (2 * h)
    assert torch.allclose(value, tiled(x, c), rtol=1e-10, atol=1e-12)
    assert torch.allclose(along, slope, rtol=1e-5, atol=1e-7)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(tiled(leaf, c).square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((grad * v).sum(), leaf)
    assert second.shape == x.shape and bool(second.isfinite().all())


@pytest.mark.parametrize("n", [513, 700, 960, 961, 3000, 16_384])
@pytest.mark.parametrize(("tile", "overlap"), [(512, 64), (256, 32), (256, 64)])
def test_tiles_cover_an_axis_once(n, tile, overlap):
    cuts = Tiled(nn.Identity(), tile=tile, overlap=overlap)._cuts(n)
    assert cuts[0][0] == 0 and cuts[-1][1] == n
    assert all(0 < end - start <= tile and start % 16 == 0 for start, end in cuts)
    pairs = list(zip(cuts[:-1], cuts[1:], strict=True))
    assert all(a[1] - b[0] >= overlap - 15 for a, b in pairs)
    assert all(a[1] <= b[0] for a, b in zip(cuts[:-2], cuts[2:], strict=True))  # only neighbours share
    total = torch.zeros(n, dtype=torch.float64, device="cpu")
    for (start, end), share in zip(cuts, _weights(cuts, total), strict=True):
        total[start:end] += share
    assert torch.allclose(total, torch.ones_like(total), rtol=1e-14)


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, x.shape[-1] * x.shape[-2])
        return 2 * x


def test_the_network_never_sees_more_than_a_tile():
    inner = Counted()
    x, c = draw(1, 1, 300, 500), torch.zeros(1, dtype=torch.float64)
    assert torch.allclose(Tiled(inner, tile=128, overlap=32)(x, c), 2 * x, rtol=1e-14) and inner.largest <= 128**2
    assert torch.equal(Tiled(inner)(x, c), 2 * x) and inner.largest == 300 * 500  # within one


def test_a_prior_on_a_large_grid_works_in_tiles():
    local, far = narrow(), UNet(UNetConfig(width=8, multipliers=(1,), blocks=1)).double()
    assert for_grid(local, (TILE, TILE)) is local and for_grid(far, (TILE, TILE + 1)) is far
    small = NetworkPrior(network=local, shape=(600, 600), scale=9.0, sigma_range=(1e-2, 50.0), keep="pixel")
    A = iv.operators.Mask(mask=torch.ones(600, 601, dtype=torch.bool))
    fitted = small.on(iv.Problem(A, torch.zeros(1, 600, 601, dtype=torch.float64), noise=1.0))
    assert isinstance(fitted.network, Tiled) and fitted.shape == (600, 601)
    assert any("tiles" in note for note in fitted.notes)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"network": len}, InputTypeError, "`network`"),
        ({"overlap": 48}, InputError, "`overlap` must be a multiple of 32"),
        ({"overlap": 0}, InputError, "`overlap`"),
        ({"tile": 120, "overlap": 32}, InputError, "`tile`"),
        ({"tile": 136, "overlap": 32}, InputError, "`tile` must be a multiple of 16"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        Tiled(**{"network": nn.Identity(), **arguments})
