"""Pieces that figures share: small fonts, an image in a panel, limits of colour scales that no hot pixel moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
SMALL_FONTS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
}


def show_image(ax: Any, image: Array, title: str, cmap: str, low: float, high: float) -> Any:
    """An image without ticks in the axes ``ax``; what a colour bar needs."""
    ax.set_title(title)
    ax.set_xticks([])
    ax.set_yticks([])
    ratio = image.shape[0] / image.shape[1]
    aspect = "equal" if 0.3 <= ratio <= 2.5 else "auto"  # a very long image would be a hair line
    return ax.imshow(image, cmap=cmap, vmin=low, vmax=high if high > low else low + 1, aspect=aspect)


def colour_limits(images: Sequence[Array]) -> tuple[float, float]:
    """The 0.1 and 99.9 percentiles: one hot pixel must not darken a figure."""
    values = np.concatenate([image[np.isfinite(image)].reshape(-1) for image in images])
    if not values.size:
        return 0.0, 1.0
    return float(np.quantile(values, 0.001)), float(np.quantile(values, 0.999))


def colour_top(*images: Array) -> float:
    """The upper one of `colour_limits`."""
    return colour_limits(images)[1]


def as_array(value: Tensor) -> Array:
    """The tensor in numpy, half precision as single."""
    value = value.detach().cpu().resolve_conj()
    return np.asarray((value.float() if value.dtype in (torch.float16, torch.bfloat16) else value).numpy())
