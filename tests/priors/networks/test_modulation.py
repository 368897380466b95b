"""The modulation before every convolution: its definition, in place or not, and its derivatives of any kind."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from invsolve.core.torch_workarounds import load_forward_mode
from invsolve.priors.networks import UNet, UNetConfig
from invsolve.priors.networks.modulation import FLOOR, modulated

ROWS, CHANNELS = 2, 3
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def definition(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    u = gain * x / (x.square().sum(1, keepdim=True) / x.shape[1] + FLOOR).sqrt() + shift
    return u / (1 + (-u).exp())


def parts(each: bool) -> tuple[Tensor, Tensor]:
    shape = (ROWS, CHANNELS, 1, 1) if each else (CHANNELS, 1, 1)
    return draw(*shape, seed=1), draw(*shape, seed=2)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("each", [False, True], ids=["shared", "of rows"])
def test_value_and_product_are_those_of_the_definition(layout, each):
    x, v = (draw(ROWS, CHANNELS, 4, 5, seed=s).contiguous(memory_format=layout) for s in (0, 3))
    gain, shift = parts(each)
    before = x.clone()
    leaf = x.clone().requires_grad_()
    wanted = definition(leaf, gain, shift)
    (product,) = torch.autograd.grad(wanted, leaf, v)
    leaf = x.clone().requires_grad_()
    found = modulated(leaf, gain, shift)
    twice = [torch.autograd.grad(found, leaf, v, retain_graph=True)[0] for _ in range(2)]
    assert torch.allclose(found, wanted, rtol=1e-14, atol=1e-15)
    assert torch.allclose(twice[0], product, rtol=1e-13, atol=1e-14) and torch.equal(*twice)
    with torch.no_grad():
        plain = modulated(x, gain, shift)
        assert torch.equal(plain, found) and torch.equal(x, before)  # the same value to the last bit
        assert torch.equal(modulated(x, gain, shift, spare=True), plain)


def test_where_all_channels_are_zero_the_shift_is_left():
    gain, shift = parts(False)
    found = modulated(torch.zeros(1, CHANNELS, 1, 1, dtype=torch.float64), gain, shift)
    assert torch.equal(found, functional.silu(shift)[None]) or torch.allclose(found, functional.silu(shift)[None])


def test_derivatives_of_derivatives():
    gain, shift = parts(True)
    x = draw(ROWS, CHANNELS, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: modulated(z, gain, shift), (x,))
    assert torch.autograd.gradgradcheck(lambda z: modulated(z, gain, shift), (x,))


def test_weights_that_are_trained_have_gradients():
    x, (gain, shift) = draw(ROWS, CHANNELS, 2, 2), parts(True)
    wanted = torch.func.grad(lambda p: definition(x, *p).square().sum())((gain, shift))
    leaves = gain.requires_grad_(), shift.requires_grad_()
    found = torch.autograd.grad(modulated(x, *leaves).square().sum(), leaves)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-13, atol=1e-13)


def test_forward_mode_and_maps_over_rows():
    load_forward_mode()
    x, dx, (gain, shift) = draw(ROWS, CHANNELS, 2, 2), draw(ROWS, CHANNELS, 2, 2, seed=5), parts(False)
    wanted = torch.func.jvp(lambda z: definition(z, gain, shift), (x,), (dx,))
    found = torch.func.jvp(lambda z: modulated(z, gain, shift), (x,), (dx,))
    rows = torch.func.vmap(lambda row: modulated(row[None], gain, shift)[0])(x)
    with torch.autograd.forward_ad.dual_level():
        dual = modulated(torch.autograd.forward_ad.make_dual(x, dx), gain, shift)
        raw = tuple(torch.autograd.forward_ad.unpack_dual(dual))
    for a, b in (
        (found[0], wanted[0]),
        (found[1], wanted[1]),
        (rows, wanted[0]),
        (raw[0], wanted[0]),
        (raw[1], wanted[1]),
    ):
        assert torch.allclose(a, b, rtol=1e-13, atol=1e-14)


def test_other_precisions_beside_the_weights():
    x, (gain, shift) = draw(1, CHANNELS, 2, 2).to(torch.bfloat16), (p.float() for p in parts(False))
    wanted = definition(x.double(), gain.double(), shift.double())
    found = modulated(x, gain, shift)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), wanted, atol=3 * 2.0**-8 * float(wanted.abs().max()))


def networks(dtype: torch.dtype) -> dict[str, UNet]:
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=2, width=8, multipliers=(1, 2), blocks=1))
    for p in net.parameters():  # the last layers start at zero
        torch.nn.init.normal_(p, std=0.1)
    trained = net.to(dtype).eval()
    frozen = copy.deepcopy(trained).requires_grad_(False)
    last = copy.deepcopy(frozen).to(memory_format=torch.channels_last)
    return {"trained": trained, "frozen": frozen, "channels_last": last}


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_a_network_is_the_same_frozen_or_trained_in_any_layout(dtype, tol):
    """A trained network runs through plain expressions; relative to the root mean square, some hundred roundings."""
    values, products = [], []
    x, v = (draw(ROWS, 2, 8, 12, seed=s).to(dtype) for s in (0, 1))
    for net in networks(dtype).values():
        leaf = x.clone().requires_grad_()
        y = net(leaf, torch.tensor([-0.4, 0.3]))
        values.append(y.detach())
        products.append(torch.autograd.grad(y, leaf, v)[0])
    for found in (values, products):
        size = float(found[0].square().mean().sqrt())
        assert size > 0.01
        for other in found[1:]:
            assert float((other - found[0]).abs().max()) < tol * size
