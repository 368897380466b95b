"""Patterns that surfaces in a scene are covered with, on a periodic canvas; of mean 0 and about unit variance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rng = np.random.Generator


def wavenumbers(side: int) -> tuple[Array, Array]:
    """Periods a canvas along rows and columns, in the layout of a real FFT."""
    down = np.fft.fftfreq(side, 1 / side).astype(np.float32)[:, None]
    return down, np.fft.rfftfreq(side, 1 / side).astype(np.float32)[None, :]


def power_law(rng: Rng, side: int, exponent: float, *, stretch: float = 1.0, angle: float = 0.0) -> Array:
    """A Gaussian field whose power falls with the wavenumber k as ``k^-exponent``.

    ``stretch``: by how much longer its features are along ``angle`` than across.
    """
    u, v = wavenumbers(side)
    along, across = v * np.cos(angle) + u * np.sin(angle), u * np.cos(angle) - v * np.sin(angle)
    k = np.sqrt((along * stretch) ** 2 + across**2)
    k[0, 0] = np.inf
    white = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    return unit(np.fft.irfft2(white * k ** (-exponent / 2), s=(side, side)))


def blurred(image: Array, width: float) -> Array:
    """Under a Gaussian of std ``width`` pixels, periodic."""
    side = len(image)
    u, v = wavenumbers(side)
    gain = np.exp(-2 * (np.pi * width / side) ** 2 * (u**2 + v**2))
    return np.fft.irfft2(np.fft.rfft2(image) * gain, s=image.shape).astype(np.float32)


def unit(image: NDArray[np.floating]) -> Array:
    """Less its mean, over its standard deviation."""
    made: Array = ((image - image.mean()) / max(float(image.std()), 1e-6)).astype(np.float32)
    return made


def cloud(rng: Rng, side: int) -> Array:
    """A field of a power law, often drawn out in one direction: bark, grass, clouds, sand."""
    stretch = 1.0 if rng.random() < 0.5 else float(np.exp(rng.uniform(0, 2.2)))
    return power_law(rng, side, rng.uniform(0.0, 3.2), stretch=stretch, angle=rng.uniform(0, np.pi))


def patches(rng: Rng, side: int) -> Array:
    """A field of a power law on a few levels: spots with sharp edges."""
    field = power_law(rng, side, rng.uniform(1.5, 3.5))
    levels = int(rng.integers(2, 5))
    bounds = np.quantile(field, np.sort(rng.random(levels - 1)))
    return unit(rng.random(levels)[np.digitize(field, bounds)] + 1e-3 * field)


def stripes(rng: Rng, side: int) -> Array:
    """Lines of one period and direction, straight or wavy, soft or sharp."""
    i = np.arange(side, dtype=np.float32)
    angle, period = rng.uniform(0, np.pi), float(np.exp(rng.uniform(np.log(5), np.log(60))))
    phase = 2 * np.pi / period * (i[:, None] * np.sin(angle) + i * np.cos(angle))
    if rng.random() < 0.6:
        phase = phase + rng.uniform(0, 3) * power_law(rng, side, 3.0)
    wave = np.sin(phase)
    if rng.random() < 0.5:
        wave = np.tanh(rng.uniform(2, 20) * (wave + rng.uniform(-0.8, 0.8)))
    return unit(wave)


def weave(rng: Rng, side: int) -> Array:
    """Two sets of lines across each other: cloth, brick, tiles, dots."""
    a, b = stripes(rng, side), stripes(rng, side)
    return unit(np.maximum(a, b) if rng.random() < 0.5 else a * b)


def writing(rng: Rng, side: int) -> Array:
    """Rows of marks on a ground, such as letters are: twenty signs of strokes on a grid of 7 x 5."""
    size = int(rng.integers(2, 6))  # pixels of a cell of the grid
    signs = np.zeros((21, 9, 6), dtype=np.float32)
    for sign in signs[1:]:
        for _ in range(int(rng.integers(2, 5))):
            if rng.random() < 0.5:
                sign[1:8, int(rng.integers(0, 5))] = 1
            else:
                sign[int(rng.integers(1, 8)), :5] = 1
        sign[:, 5] = 0
        if rng.random() < 0.5:
            sign[int(rng.integers(1, 8)), int(rng.integers(0, 5))] = 0
    rows, columns = side // (9 * size) + 1, side // (6 * size) + 1
    which = rng.integers(0, 21, (rows, columns))
    which[:, rng.random(columns) < 0.15] = 0
    page = signs[which].transpose(0, 2, 1, 3).reshape(9 * rows, 6 * columns)
    fine = np.kron(page, np.ones((size, size), dtype=np.float32))[:side, :side]
    return unit(np.clip(3 * blurred(fine, 0.35 * size) - 1, 0, 1))


KINDS: tuple[tuple[float, Callable[[Rng, int], Array]], ...] = (
    (0.55, cloud),
    (0.12, patches),
    (0.13, stripes),
    (0.1, weave),
    (0.1, writing),
)


def texture(rng: Rng, side: int) -> Array:
    """One of `KINDS`, by its share."""
    shares = np.array([share for share, _ in KINDS])
    return KINDS[int(rng.choice(len(KINDS), p=shares / shares.sum()))][1](rng, side)
