"""Waves in open space: Hankel's function, reciprocity, derivatives; what is refused."""

import pytest
import torch
from scipy.special import hankel1

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.testing import check_operator

D = torch.float64
Grid = iv.CartesianGrid


@pytest.mark.parametrize("points", ["centers", "interior"])
def test_a_point_source_in_open_space_is_hankels_function(points):
    n, k, layer = 121, 20.0, 24
    grid = Grid((n, n), points=points)
    f = torch.zeros(1, n, n, dtype=torch.complex128)
    f[0, n // 2, n // 2] = 1 / grid.cell
    A = iv.operators.HelmholtzSource(grid, torch.full((n, n), k**2, dtype=D), wavenumber=k, layer=layer)
    u = A(f)[0]
    y, x = grid.mesh()
    r = ((x - 0.5) ** 2 + (y - 0.5) ** 2).sqrt()
    ring = (r > 0.15) & (r < 0.28)
    exact = -0.25j * torch.from_numpy(hankel1(0, k * r[ring].numpy()))
    # the stencil's wavenumber is k (1 - (k h)^2 / 24) along an axis: its phase is off by k r of that, 0.006 here
    phase = k * 0.28 * (k / (n + (points == "interior"))) ** 2 / 24
    assert float((u[ring] - exact).abs().max() / exact.abs().max()) < 2 * phase
    medium = iv.operators.HelmholtzMedium(grid, f[0], wavenumber=k, layer=layer)
    assert torch.allclose(medium(torch.full((1, n, n), k**2, dtype=D))[0], u, rtol=1e-10)


def test_waves_are_reciprocal():
    grid = Grid((30, 24), extent=(1.0, 0.8))
    k2 = 144 * (1 + torch.rand(30, 24, dtype=D, generator=torch.Generator().manual_seed(0)))
    A = iv.operators.HelmholtzSource(grid, k2, wavenumber=12.0, layer=6)
    f = torch.zeros(2, 30, 24, dtype=torch.complex128)
    f[0, 10, 9] = f[1, 20, 16] = 1.0
    u = A(f)
    assert torch.allclose(u[0, 20, 16], u[1, 10, 9], rtol=1e-10)


def test_without_layers_it_is_the_wave_between_walls():
    grid = Grid((7, 5), extent=(1.0, 1.3), points="interior")
    f = torch.randn(2, 7, 5, dtype=D, generator=torch.Generator().manual_seed(1))
    A = iv.operators.HelmholtzSource(grid, torch.full((7, 5), 4.0, dtype=D), wavenumber=2.0, layer=0)
    assert torch.allclose(A(f + 0j).real, iv.operators.Helmholtz(grid, wavenumber=2.0)(f), rtol=1e-10)


def test_products_and_derivatives():
    grid = Grid((6, 5), extent=(0.6, 0.5))
    f = torch.randn(6, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    A = iv.operators.HelmholtzMedium(grid, f, wavenumber=9.0, layer=2)
    assert check_operator(A).passed
    x = 81 + torch.randn(2, 6, 5, dtype=D, generator=torch.Generator().manual_seed(3))
    x.requires_grad_()
    assert torch.autograd.gradcheck(A._apply, x, atol=1e-7)
    assert torch.autograd.gradgradcheck(A._apply, x[:1].detach().requires_grad_(), atol=1e-6)
    for k2 in (x[0].detach(), x.detach()):
        assert check_operator(iv.operators.HelmholtzSource(grid, k2, wavenumber=9.0, layer=2)).passed
    x = x.detach()
    both, alone = A(x), A(x[1:])
    assert torch.equal(both[1:], alone)
    assert torch.allclose(A.to(dtype=torch.float32)(x.float()).to(both.dtype), both, rtol=1e-4, atol=1e-6)
    nothing = iv.operators.HelmholtzMedium(grid, 0 * f, wavenumber=9.0, layer=2)
    assert torch.equal(nothing(x), torch.zeros_like(both))


def test_refusals():
    one, field = Grid((6, 5)), torch.ones(6, 5)
    for made in (iv.operators.HelmholtzMedium, iv.operators.HelmholtzSource):
        with pytest.raises(InputError, match="with walls"):
            made(Grid((6, 5), points="periodic"), field, wavenumber=1.0, layer=1)
        with pytest.raises(InputError, match="wavenumber"):
            made(one, field, wavenumber=-1.0, layer=1)
        with pytest.raises(InputError, match="layer.* of fewer points than half"):
            made(one, field, wavenumber=1.0, layer=3)
        with pytest.raises(InputError, match="of the shape of the grid"):
            made(one, field.mT, wavenumber=1.0, layer=1)
        with pytest.raises(InputTypeError, match="CartesianGrid"):
            made((6, 5), field, wavenumber=1.0, layer=1)
