"""Kernels: the Airy pattern, defocus on the axis, Zernike polynomials, the share of a way in every pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special

from invsolve.errors import InputError, InputTypeError
from invsolve.operators import Blur, diffraction_kernel, motion_kernel
from invsolve.operators.optics.point_spread import _noll, _pupil, zernike

F64 = torch.float64
OPTICS = {"pixel_size": 0.07, "wavelength": 0.5, "numerical_aperture": 0.9, "dtype": F64}


def radius(shape: tuple[int, int], pixel: float) -> np.ndarray:
    down, right = (pixel * (np.arange(n) - n // 2) for n in shape)
    return np.hypot(down[:, None], right)


@pytest.mark.parametrize("shape", [(31, 25), (1, 8), (120, 121)], ids=str)
def test_in_focus_it_is_the_airy_pattern(shape):
    """``(2 J_1(v) / v)^2`` with ``v = 2 pi NA r / wavelength``, of sum 1; wide kernels too, at large v."""
    v = 2 * np.pi * 0.9 / 0.5 * radius(shape, 0.07)
    airy = np.where(v > 0, 2 * special.j1(v) / np.where(v > 0, v, 1), 1.0) ** 2
    found = diffraction_kernel(shape, **OPTICS).numpy()
    assert np.abs(found - airy / airy.sum()).max() < 1e-12 * found.max()
    assert float(diffraction_kernel(shape, **OPTICS | {"dtype": torch.float32}).sum()) == pytest.approx(1, abs=1e-5)


def test_the_first_dark_ring():
    """At 0.6098 wavelength / NA from the centre: 1.2197 pi in v, the first zero of J_1."""
    ring = special.jn_zeros(1, 1)[0] / (2 * math.pi) * 0.5 / 0.9
    kernel = diffraction_kernel((1, 21), **OPTICS | {"pixel_size": ring / 10})[0]
    assert float(kernel[0] / kernel[10]) < 1e-20 and float(kernel[20] / kernel[10]) < 1e-20
    assert float(kernel[9] / kernel[10]) > 0.9


@pytest.mark.parametrize("z, index", [(0.4, 1.0), (-2.5, 1.33), (30.0, 1.5)])
def test_defocus_on_the_axis_in_closed_form(z, index):
    """The amplitude is ``2 / NA^2 integral of u exp(i k z u) du`` from (n^2 - NA^2)^(1/2) to n; relative to focus."""
    options = {k: v for k, v in OPTICS.items() if k != "pixel_size"}
    k, a, b = 2 * math.pi / 0.5, math.sqrt(index**2 - 0.81), index

    def primitive(u: float) -> complex:
        return np.exp(1j * k * z * u) * (u / (1j * k * z) + 1 / (k * z) ** 2)

    expected = abs(2 / 0.81 * (primitive(b) - primitive(a))) ** 2
    # Kernels are of sum 1: energy is kept by the phase, so a grid that holds the whole pattern compares them.
    rho, angle, weight = _pupil(0.0, abs(z) * (index - a) / 0.5, 0)
    phase = z / 0.5 * ((index**2 - (0.9 * rho) ** 2).sqrt() - index)
    peak = torch.polar(weight, 2 * math.pi * phase).sum().abs() ** 2
    assert float(peak) == pytest.approx(expected, abs=1e-13)
    if abs(z) < 1:
        wide = [
            diffraction_kernel((141, 141), pixel_size=0.14, refractive_index=index, defocus=d, **options)
            for d in (z, 0.0)
        ]
        # The rings beyond r hold about 1 / (k NA r) * 2 / pi of the energy each: both lose the same to first order.
        assert float(wide[0][70, 70] / wide[1][70, 70]) == pytest.approx(expected, rel=1e-2)


def test_nolls_polynomials_are_orthonormal():
    """Over the disc, by the quadrature that makes the kernels; and the first ones by name."""
    assert [_noll(j) for j in range(1, 12)] == [
        *((0, 0), (1, 1), (1, -1), (2, 0), (2, -2), (2, 2), (3, -1), (3, 1), (3, -3), (3, 3), (4, 0)),
    ]
    rho, angle, weight = _pupil(0.0, 0.0, 8)
    assert float(weight.sum()) == pytest.approx(1, abs=1e-13)
    table = torch.stack([zernike(j, rho, angle) for j in range(1, 29)])
    assert torch.allclose((table * weight) @ table.T, torch.eye(28, dtype=F64), atol=1e-11)
    assert torch.allclose(table[3], math.sqrt(3) * (2 * rho**2 - 1), atol=1e-12)
    assert torch.allclose(table[7], math.sqrt(8) * (3 * rho**3 - 2 * rho) * angle.cos(), atol=1e-12)


def test_aberrations_lower_the_peak_as_their_variance():
    """Strehl's ratio ``1 - (2 pi rms)^2`` to fourth order, whatever the polynomial; tilts move the pattern."""
    focus = diffraction_kernel((101, 101), **OPTICS)
    for j in (4, 6, 7, 11):
        bent = diffraction_kernel((101, 101), aberrations={j: 0.02}, **OPTICS)
        s = (2 * math.pi * 0.02) ** 2
        assert float(bent[50, 50] / focus[50, 50]) == pytest.approx(1 - s, abs=s**2 + 1e-3)
    # Noll 2 is 2 rho cos: a turn of 2 a / 1 wavelengths at the edge moves the point by 2 a wavelength / NA.
    pixels = 3
    tilt = pixels * 0.07 * 0.9 / 0.5 / 2
    moved = diffraction_kernel((21, 41), aberrations={2: -tilt}, **OPTICS)
    still = diffraction_kernel((21, 47), **OPTICS)
    assert torch.allclose(moved / moved.max(), still[:, :41] / still.max(), atol=1e-10)
    same = diffraction_kernel((9, 9), aberrations={1: 0.3}, **OPTICS)
    assert torch.allclose(same, diffraction_kernel((9, 9), **OPTICS), atol=1e-14)


@pytest.mark.parametrize(
    "length, angle", [(5.0, 0.3), (7.4, 2.0), (3.0, math.pi / 4), (11.0, -1.1), (0.7, 1.0), (6.0, 3.0)]
)
def test_the_share_of_a_way_in_each_pixel(length, angle):
    """Against a million points along it: an error of the order of one of them."""
    kernel = motion_kernel(length, angle, dtype=F64)
    t = (np.arange(10**6) + 0.5) / 10**6 * length - length / 2
    rows, columns = np.rint(-t * math.sin(angle)).astype(int), np.rint(t * math.cos(angle)).astype(int)
    expected = np.zeros(tuple(kernel.shape))
    np.add.at(expected, (rows + kernel.shape[0] // 2, columns + kernel.shape[1] // 2), 1e-6)
    assert np.abs(kernel.numpy() - expected).max() < 5e-6
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-14)
    assert torch.allclose(kernel, kernel.flip(0, 1), atol=1e-14)


def test_ways_in_closed_form():
    assert torch.equal(motion_kernel(0.0, 1.0), torch.ones(1, 1))
    assert torch.allclose(motion_kernel(2.0, math.pi / 2), torch.tensor([[0.25], [0.5], [0.25]]))
    diagonal = motion_kernel(3 * math.sqrt(2), math.pi / 4, dtype=F64)
    assert torch.allclose(diagonal, torch.eye(3, dtype=F64).flip(1) / 3, atol=1e-12)
    A = Blur(motion_kernel(3.0, 0.0), (5, 7))
    x = torch.zeros(1, 5, 7)
    x[0, 2, 3] = 3.0
    assert torch.allclose(A(x)[0, 2], torch.tensor([0.0, 0, 1, 1, 1, 0, 0]), atol=1e-6)


def kernel(shape=(3, 3), **changes):
    return diffraction_kernel(shape, **OPTICS | changes)


REFUSED = {
    "axes": (lambda: kernel((3, 3, 3)), InputError, r"diffraction_kernel: `shape` must be of two axes \(h, w\)"),
    "pixel": (lambda: kernel(pixel_size=0), InputError, "`pixel_size` must be positive"),
    "aperture": (lambda: kernel(numerical_aperture=1.0), InputError, "less than the refractive index, 1.0, got 1.0"),
    "dtype": (lambda: kernel(dtype=torch.complex64), InputTypeError, "`dtype` must be torch.float32 or torch.float64"),
    "index": (lambda: kernel(aberrations={0: 0.1}), InputError, "`aberrations` must be at least 1"),
    "coefficient": (lambda: kernel(aberrations={4: math.nan}), InputError, r"`aberrations\[4\]` must be finite"),
    "length": (lambda: motion_kernel(-1.0, 0.0), InputError, "motion_kernel: `length` must be non-negative"),
    "angle": (lambda: motion_kernel(1.0, "up"), InputTypeError, "motion_kernel: `angle` must be a real number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
