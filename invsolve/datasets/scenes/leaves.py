"""Dead leaves: surfaces of every size that cover each other, as things in front of a camera do.

Matheron's model with sizes of density r^-3 looks the same at every distance, and its power falls about as k^-2
(Ruderman 1997, doi 10.1016/S0042-6989(97)00008-4; Lee, Mumford & Huang 2001, doi 10.1023/A:1011109015675).
"""

from __future__ import annotations

import numpy as np

from invsolve.datasets.scenes.textures import Array, Rng

_WAVES = 6  # of an outline


def cover(
    canvas: Array, textures: Array, rng: Rng, *, share: float, smallest: float, largest: float, palette: Array
) -> None:
    """Lay leaves on ``canvas`` ``(side, side)``, in place, whose areas add up to ``share`` of it.

    Radii have density r^-3 from ``smallest`` to ``largest`` pixels; grey levels are drawn from ``palette``, and what
    leaves are covered with from ``textures`` ``(n, side, side)``.
    """
    side = len(canvas)
    area, budget = 0.0, share * side * side
    roundness, straight = rng.random(), rng.random()
    textured = rng.uniform(0.1, 0.9)
    while area < budget:
        u = rng.random()
        r = (u * largest**-2 + (1 - u) * smallest**-2) ** -0.5
        area += np.pi * r * r
        y, x = rng.uniform(-r, side + r, 2)
        reach = 1.6 * r
        top, bottom = max(0, int(y - reach)), min(side, int(y + reach) + 2)
        left, right = max(0, int(x - reach)), min(side, int(x + reach) + 2)
        if top >= bottom or left >= right:
            continue
        down = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(y)
        across = np.arange(left, right, dtype=np.float32) - np.float32(x)
        inside = _shape(rng, down, across, r, roundness, straight)
        grey = palette[int(rng.integers(len(palette)))] + np.float32(0.02 * rng.standard_normal())
        filled: Array | np.float32 = np.float32(grey)
        if rng.random() < 0.5:  # shading
            slope = rng.standard_normal(2).astype(np.float32) * np.float32(0.2 * rng.random() ** 2 / r)
            filled = filled + slope[0] * down + slope[1] * across
        if rng.random() < textured:
            strength = np.float32(np.exp(rng.uniform(np.log(0.008), np.log(0.25))))
            pattern = textures[int(rng.integers(len(textures)))]
            i, j = rng.integers(0, side, 2)
            rows, columns = np.arange(top, bottom) + i, np.arange(left, right) + j
            seen = pattern.take(rows, 0, mode="wrap").take(columns, 1, mode="wrap")
            filled = filled + strength * seen
        np.copyto(canvas[top:bottom, left:right], filled, where=inside, casting="same_kind")


def _shape(rng: Rng, down: Array, across: Array, r: float, roundness: float, straight: float) -> np.ndarray:
    """Which pixels are inside of a leaf of radius about ``r``."""
    if rng.random() < roundness * 0.7:
        return np.asarray(down**2 + across**2 < r * r)
    angle = np.float32(rng.uniform(0, np.pi))
    a = np.cos(angle) * across + np.sin(angle) * down
    b = np.cos(angle) * down - np.sin(angle) * across
    thin = np.float32(np.exp(rng.uniform(-2.5, 0)))
    if rng.random() < straight:
        if rng.random() < 0.6:  # a rectangle, or a bar
            return np.asarray((np.abs(a) < r) & (np.abs(b) < thin * r))
        inside = np.ones(a.shape, dtype=bool)  # a polygon
        for turn in np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7)))):
            inside &= np.cos(turn) * a + np.sin(turn) * b < r * np.float32(rng.uniform(0.4, 1.0))
        return inside & (down**2 + across**2 < 2.4 * r * r)
    if rng.random() < 0.4:  # an ellipse
        return np.asarray(a**2 + (b / thin) ** 2 < r * r)
    theta = np.arctan2(b, a)  # a smooth outline
    k = np.arange(2, 2 + _WAVES, dtype=np.float32)
    sizes = 0.4 * rng.standard_normal(_WAVES).astype(np.float32) / k
    phases = rng.uniform(0, 2 * np.pi, _WAVES).astype(np.float32)
    outline = np.ones_like(theta)
    for n, size, phase in zip(k, sizes, phases, strict=True):
        outline += size * np.cos(n * theta + phase)
    return np.asarray(a**2 + b**2 < (r * np.clip(outline, 0.15, 1.6)) ** 2)
