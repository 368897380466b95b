"""MRI worked on in blocks of rows and coils: the definition with its shifts, whatever the blocks are."""

from math import prod

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import invsolve.operators.mri.cartesian as cartesian
from invsolve.operators import MRI

ROWS, COILS = 5, 3
SHAPES = ((4, 6), (5, 7), (2, 3, 4))
# Bytes: one row of one coil at a time; two coils; some rows of all coils; everything at once.
BLOCKS = (1, 2 * 16 * 24, 2 * COILS * 16 * 24, 2**30)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


def chosen(*shape: int) -> torch.Tensor:
    return (torch.arange(prod(shape)) * 7 % 5 < 3).reshape(shape)


def centred(x, dims, inverse=False):
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return torch.fft.fftshift(transform(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho"), dim=dims)


def cases(shape):
    maps, lines = random(COILS, *shape), chosen(*[1] * (len(shape) - 1), shape[-1])
    yield "lines", {"mask": lines, "maps": maps}
    yield "points", {"mask": chosen(*shape), "maps": maps}
    yield "all", {"mask": torch.ones(shape, dtype=torch.bool), "maps": maps}
    yield "masks of items", {"mask": chosen(ROWS, *[1] * (len(shape) - 1), shape[-1]), "maps": maps}
    yield "maps of items", {"mask": lines, "maps": random(ROWS, COILS, *shape)}
    yield "both", {"mask": chosen(ROWS, *shape), "maps": random(ROWS, COILS, *shape)}
    yield "real images", {"mask": lines, "maps": maps, "in_kind": "real"}
    yield "one coil", {"mask": lines}
    yield "one coil, masks of items", {"mask": chosen(ROWS, *shape)}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_definition_in_any_blocks(shape, block, monkeypatch):
    """``A^H y`` and ``A^H A x`` are sums over coils of centred transforms, to rounding."""
    monkeypatch.setattr(cartesian, "_CACHED", block)
    dims = tuple(range(-len(shape), 0))
    for name, options in cases(shape):
        A = MRI(in_shape=shape, **options)
        x = random(ROWS, *shape)
        x = x.real.contiguous() if A.in_kind == "real" else x
        maps = torch.ones(1, *shape) if A.maps is None else A.maps
        mask = A.mask.unsqueeze(1) if A.mask.ndim > len(shape) else A.mask
        y = mask * centred(maps * x[:, None], dims)
        back = (maps.conj() * centred(mask * y, dims, inverse=True)).sum(1)
        back = back.real if A.in_kind == "real" else back
        y = y[:, 0] if A.maps is None else y
        for what, found, wanted in (("A", A(x), y), ("A^H", A.adjoint(y), back), ("A^H A", A.normal(x), back)):
            assert torch.allclose(found, wanted, rtol=0, atol=1e-13), (name, what)


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows, monkeypatch):
    monkeypatch.setattr(cartesian, "_CACHED", 1)
    A = MRI(in_shape=(4, 6), mask=chosen(1, 6), maps=random(COILS, 4, 6))
    assert A.normal(random(rows, 4, 6)).shape == (rows, 4, 6)
    assert A.adjoint(random(rows, COILS, 4, 6)).shape == (rows, 4, 6)


def test_a_row_does_not_depend_on_the_others(monkeypatch):
    monkeypatch.setattr(cartesian, "_CACHED", 2 * COILS * 16 * 24)
    A = MRI(in_shape=(4, 6), mask=chosen(1, 6), maps=random(COILS, 4, 6))
    x = random(ROWS, 4, 6)
    assert torch.allclose(A.normal(x)[3:], A.normal(x[3:]), rtol=0, atol=1e-14)


def test_derivatives_of_blocks(monkeypatch):
    """Linear maps: their derivatives are their adjoints, and of those the maps again."""
    monkeypatch.setattr(cartesian, "_CACHED", 1)
    A = MRI(in_shape=(2, 3), mask=chosen(1, 3), maps=random(2, 2, 3))
    x, y = random(2, 2, 3).requires_grad_(), random(2, 2, 2, 3).requires_grad_()
    for function, at in ((A._normal, x), (A._adjoint, y), (A._apply, x)):
        assert torch.autograd.gradcheck(function, (at,), fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v).abs().square(), (at,), fast_mode=True)


class Transforms(TorchDispatchMode):
    """The axes of every Fourier transform."""

    def __init__(self):
        super().__init__()
        self.axes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._fft_c2c.default:
            self.axes.append(tuple(args[1]))
        assert func not in (torch.ops.aten.roll.default, torch.ops.aten.flip.default), "a shift is a copy"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("mask", "axes"), [(chosen(1, 6), [(3,)] * 2), (chosen(4, 6), [(2, 3)] * 2), (chosen(1, 1), [])]
)
def test_the_normal_map_transforms_only_along_what_the_mask_changes(mask, axes):
    A = MRI(in_shape=(4, 6), mask=mask, maps=random(COILS, 4, 6))
    A.normal(random(1, 4, 6))  # plans are made once
    with Transforms() as seen:
        A.normal(random(ROWS, 4, 6))
    assert seen.axes == axes
