"""Grey pictures in [0, 1]: leaves near and far, some out of focus, in uneven light."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_dims, check_int
from invsolve.datasets.continuum import check_seed
from invsolve.datasets.scenes.leaves import cover
from invsolve.datasets.scenes.textures import Array, Rng, blurred, power_law, texture
from invsolve.errors import invalid

_TEXTURES = 5  # of a picture
_FINE = 2  # cells of the canvas a pixel
_MARGIN = 8  # pixels around a picture that are not shown: blurs are periodic


@in_defined_state
def grey(n: int, shape: tuple[int, int], *, seed: int = 0, first: int = 0) -> Tensor:
    """Random pictures of surfaces that cover each other, with the statistics of photographs.

    Parameters
    ----------
    n : int
        How many, >= 1.
    shape : tuple of int
        Rows and columns, each >= 8.
    seed : int
        Picture i of a seed is the same in every call; an integer of 64 bits.
    first : int
        Number of the first picture, >= 0.

    Returns
    -------
    Tensor, shape (n, *shape)
        Grey levels in [0, 1], float32.

    Raises
    ------
    InputError, InputTypeError
        If an argument is out of its range or of another type.

    Notes
    -----
    "Dead leaves": discs, ellipses, polygons, bars and smooth outlines with radii of density about r^-3, each with a
    grey level of the picture's palette, shading and a texture (power laws, spots, stripes, weaves, writing); in up to
    three layers, of which one is in focus; a smooth illumination; made on twice as many pixels and averaged. One in
    eight is a texture alone. Over many pictures power falls as the wavenumber to about -2.5. A picture of 192 x 192
    takes about 0.15 s.

    Examples
    --------
    >>> from invsolve.datasets import scenes
    >>> pictures = scenes.grey(2, (64, 48), seed=1)
    >>> tuple(pictures.shape), bool((pictures >= 0).all()), bool((pictures <= 1).all())
    ((2, 64, 48), True, True)
    """
    n = check_int("scenes.grey", "n", n, minimum=1)
    shape = check_dims("scenes.grey", "shape", shape)  # type: ignore[assignment]
    if len(shape) != 2 or min(shape) < 8:
        raise invalid("scenes.grey", "shape", "(rows, columns), each at least 8", shape)
    seed = check_seed("scenes.grey", seed) % 2**64
    first = check_int("scenes.grey", "first", first, minimum=0)
    made = np.stack([_picture(np.random.default_rng([seed, first + i]), shape) for i in range(n)])
    return torch.from_numpy(made)


def _picture(rng: Rng, shape: tuple[int, int]) -> Array:
    side = _FINE * (max(shape) + 2 * _MARGIN)
    textures = np.stack([texture(rng, side) for _ in range(_TEXTURES)])
    if rng.random() < 0.125:
        canvas = 0.5 + np.float32(np.exp(rng.uniform(np.log(0.03), np.log(0.3)))) * textures[0]
    else:
        canvas = _leaves(rng, side, textures)
    if rng.random() < 0.5:  # light and shade
        canvas = canvas * np.exp(np.float32(rng.uniform(0, 0.4)) * power_law(rng, side, 4.0))
    if rng.random() < 0.3:
        canvas = blurred(canvas, _FINE * rng.uniform(0.2, 1.0))
    i, j = (int(v) for v in rng.integers(0, _FINE * _MARGIN, 2))
    rows, columns = shape
    seen = canvas[i : i + _FINE * rows, j : j + _FINE * columns]
    small = seen.reshape(rows, _FINE, columns, _FINE).mean((1, 3))
    low, high = np.quantile(small, (0.002, 0.998))
    span = rng.uniform(0.35, 1.05)  # of the range of a picture; some are clipped
    start = rng.uniform(0, max(0.0, 1 - span))
    shown: Array = np.clip(start + span * (small - low) / max(high - low, 1e-3), 0, 1).astype(np.float32)
    return shown


def _leaves(rng: Rng, side: int, textures: Array) -> Array:
    """Up to three layers, the far ones first; those out of focus are blurred."""
    centres = rng.random(int(rng.integers(2, 8)))
    palette = np.clip(centres[rng.integers(0, len(centres), 64)] + 0.12 * rng.standard_normal(64), 0, 1)
    canvas: Array = (rng.random() + rng.uniform(0, 0.2) * textures[0]).astype(np.float32)
    layers = int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
    focus = int(rng.integers(layers))
    for layer in range(layers):
        smallest = float(np.exp(rng.uniform(np.log(1.5), np.log(32))))
        share = rng.uniform(1.5, 3.0) if layer == 0 else rng.uniform(0.1, 0.7)
        largest = side * rng.uniform(0.2, 0.8)
        cover(
            canvas,
            textures,
            rng,
            share=share,
            smallest=smallest,
            largest=largest,
            palette=palette.astype(np.float32),
        )
        if layer < focus:
            canvas = blurred(canvas, _FINE * float(np.exp(rng.uniform(np.log(0.5), np.log(4)))))
    return canvas
