"""Large images in overlapping tiles: the memory of a network without a limit to what it is applied to."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from invsolve.core.validation import check_int
from invsolve.errors import invalid, invalid_type
from invsolve.priors.networks.modulation import traced
from invsolve.priors.networks.unet import UNet

TILE, OVERLAP = 512, 64  # pixels
UNIT = 16  # tiles begin at multiples of it, as the coarse pixels of a network of four levels do


@final
class Tiled(nn.Module):
    """A convolutional network that sees images of more than ``tile`` pixels a side in pieces.

    Parameters
    ----------
    network : torch.nn.Module
        Maps ``(batch, channels, H, W)`` of any size and ``(batch,)`` to the shape of the first; what it does at a pixel
        must depend on what is near only (no attention, no norms over the image).
    tile : int
        The most pixels a side that the network sees at once, a multiple of 16, at least four times ``overlap``.
    overlap : int
        Pixels that neighbours share, a multiple of 32; at times up to 15 fewer.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.

    Notes
    -----
    Of what neighbours share the outer quarter of each is left out, and between the two are blended linearly: pixels are
    those of the whole image where nothing farther than a quarter of ``overlap`` matters, and without seams elsewhere.
    Derivatives run tile by tile too, each of which is evaluated once more for every product.
    """

    def __init__(self, network: nn.Module, *, tile: int = TILE, overlap: int = OVERLAP) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise invalid_type("Tiled", "network", "a torch.nn.Module", network)
        if check_int("Tiled", "overlap", overlap, minimum=2 * UNIT) % (2 * UNIT):
            raise invalid("Tiled", "overlap", f"a multiple of {2 * UNIT}", overlap)
        if check_int("Tiled", "tile", tile, minimum=4 * overlap) % UNIT:
            raise invalid("Tiled", "tile", f"a multiple of {UNIT}", tile)
        self.network, self.tile, self.overlap = network, tile, overlap

    def extra_repr(self) -> str:
        """Sizes."""
        return f"tile={self.tile}, overlap={self.overlap}"

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """What the network makes of ``x`` ``(batch, channels, H, W)`` and ``c`` ``(batch,)``, shape of ``x``."""
        rows, columns = (self._cuts(n) for n in x.shape[-2:])
        if len(rows) == len(columns) == 1:
            whole: Tensor = self.network(x, c)
            return whole
        lean = torch.is_grad_enabled() and x.requires_grad and not traced()
        call = (
            partial(checkpoint, self.network, use_reentrant=False, preserve_rng_state=False) if lean else self.network
        )
        down, across = (_weights(cuts, x) for cuts in (rows, columns))
        out = torch.zeros_like(x)
        for (top, bottom), a in zip(rows, down, strict=True):
            for (left, right), b in zip(columns, across, strict=True):
                piece: Tensor = a[:, None] * b * call(x[..., top:bottom, left:right], c)
                out = out + nn.functional.pad(piece, (left, x.shape[-1] - right, top, x.shape[-2] - bottom))
        return out

    def _cuts(self, n: int) -> list[tuple[int, int]]:
        """Where tiles of an axis of ``n`` pixels begin and end: as few as may be, of about one size."""
        number = -(-(n - self.overlap) // (self.tile - self.overlap)) if n > self.tile else 1
        if number == 1:
            return [(0, n)]
        size = -(-(n + (number - 1) * self.overlap) // (number * UNIT)) * UNIT
        starts = [-(-i * (n - size) // ((number - 1) * UNIT)) * UNIT for i in range(number)]
        return [(start, min(n, start + size)) for start in starts]


def _weights(cuts: list[tuple[int, int]], like: Tensor) -> list[Tensor]:
    """Of every tile its share in every one of its pixels; those of all tiles add up to 1."""
    shares = [torch.ones(end - start, dtype=like.dtype, device=like.device) for start, end in cuts]
    for k in range(1, len(cuts)):
        common = cuts[k - 1][1] - cuts[k][0]
        margin = common // 4
        place = torch.arange(common, dtype=like.dtype, device=like.device) + 0.5
        ramp = ((place - margin) / (common - 2 * margin)).clamp(0, 1)
        shares[k][:common] = ramp
        shares[k - 1][-common:] = 1 - ramp
    return shares


def for_grid(network: nn.Module, grid: tuple[int, ...]) -> nn.Module:
    """``network`` itself, or in tiles where images of ``grid`` take too much memory and it sees what is near only."""
    local = isinstance(network, UNet) and not network.config.attention
    return Tiled(network) if local and len(grid) == 2 and prod(grid) > TILE**2 else network


__all__ = ["Tiled", "for_grid"]
