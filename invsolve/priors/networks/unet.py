"""A small U-Net that works on pixel-unshuffled images: most of its work is done at half the resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from invsolve.core.validation import check_choice, check_int
from invsolve.errors import invalid, invalid_type
from invsolve.priors.networks.modulation import inverse_rms, modulated

_UNIT = 8  # widths are multiples of it
_FREQUENCIES = 16  # of the embedding of the noise level
_HEAD = 32  # channels of an attention head


@final
@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The sizes of a `UNet`; the default has 2.7 million parameters.

    Parameters
    ----------
    channels : int
        Of the image, >= 1.
    width : int
        Channels of the finest level, a multiple of 8.
    multipliers : tuple of int
        Times ``width``: the channels of the levels, which work at 1/2, 1/4, ... of the resolution of the image.
    blocks : int or tuple of int
        Residual blocks of a level on the way down, and as many on the way up, >= 1; or those of every level.
    attention : bool
        Whether pixels of the coarsest level see each other.
    skips : {"joined", "added"}
        What a level on the way up makes of what the same level had on the way down: channels beside its own, or added
        to them, which takes a tenth to a sixth fewer products.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.
    """

    channels: int = 1
    width: int = 48
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int | tuple[int, ...] = 2
    attention: bool = True
    skips: Literal["joined", "added"] = "joined"

    def __post_init__(self) -> None:
        owner = "UNetConfig"
        check_int(owner, "channels", self.channels, minimum=1)
        if check_int(owner, "width", self.width, minimum=_UNIT) % _UNIT:
            raise invalid(owner, "width", f"a multiple of {_UNIT}", self.width)
        if not isinstance(self.multipliers, (tuple, list)) or not self.multipliers:
            raise invalid_type(owner, "multipliers", "a tuple of integers", self.multipliers)
        levels = tuple(check_int(owner, f"multipliers[{i}]", m, minimum=1) for i, m in enumerate(self.multipliers))
        object.__setattr__(self, "multipliers", levels)
        if isinstance(self.blocks, (tuple, list)):
            each = tuple(check_int(owner, f"blocks[{i}]", b, minimum=1) for i, b in enumerate(self.blocks))
            if len(each) != len(levels):
                raise invalid(owner, "blocks", f"one number, or one of each of the {len(levels)} levels", each)
            object.__setattr__(self, "blocks", each)
        else:
            check_int(owner, "blocks", self.blocks, minimum=1)
        check_choice(owner, "attention", self.attention, (True, False))
        check_choice(owner, "skips", self.skips, ("joined", "added"))

    @property
    def blocks_of_levels(self) -> tuple[int, ...]:
        """Of every level, the finest first."""
        return (self.blocks,) * len(self.multipliers) if isinstance(self.blocks, int) else self.blocks


@final
class UNet(nn.Module):
    """``F(x, c)`` for images ``x`` ``(batch, channels, H, W)`` of any size and ``c = ln(sigma) / 4`` ``(batch,)``.

    ``x`` is a standardised signal with noise of level sigma, divided by ``sqrt(1 + sigma^2)``, as `EDM` gives it.

    Parameters
    ----------
    config : UNetConfig
        Its sizes.

    Notes
    -----
    The network also sees its input in units of its noise, and the same of what a 3 x 3 mean leaves, both bent over at
    three: little noise on a dark background next to a bright object is then as large as any other input.

    Sizes that do not divide are padded by reflection inside, and cropped again. The last convolution starts at zero, so
    that an untrained network returns zero. Residual blocks with norms of every pixel, and a scale and a shift by the
    noise level, nearest-neighbour upsampling, skips joined by concatenation or added.

    References
    ----------
    Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis" (arXiv 2105.05233): the scale and the shift.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * m for m in config.multipliers]
        embedding = 4 * config.width
        self.register_buffer("frequencies", 2.0 ** torch.linspace(-2, 4, _FREQUENCIES), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = nn.Conv2d(12 * config.channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        last = widths[0]
        for level, width in enumerate(widths):
            steps = nn.ModuleList()
            if level:
                steps.append(nn.Conv2d(last, width, 3, stride=2, padding=1))
            steps.extend(_Block(width, width, embedding) for _ in range(config.blocks_of_levels[level]))
            self.down.append(steps)
            last = width
        self.middle = nn.ModuleList(
            [
                _Block(last, last, embedding),
                *([_Attention(last)] if config.attention else []),
                _Block(last, last, embedding),
            ]
        )
        joined = config.skips == "joined"
        if not joined:  # to the channels of the next finer level, before it has as many pixels
            self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in reversed(list(pairwise(widths))))
        for level in range(len(widths) - 1, -1, -1):
            width = widths[level]
            steps = nn.ModuleList(
                _Block(last + width if joined and i == 0 else width, width, embedding)
                for i in range(config.blocks_of_levels[level])
            )
            self.up.append(steps)
            last = width
        self.norm = _Norm(last)
        self.head = nn.Conv2d(last, 4 * config.channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        # As the images in `forward`: else every call reorders all weights, half the time where pixels are few.
        for weight in self.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """F for noisy images ``x`` ``(batch, channels, H, W)`` and ``c`` ``(batch,)``, shape of ``x``."""
        height, width = x.shape[-2:]
        unit = 2 ** len(self.config.multipliers)
        rows, columns = -height % unit, -width % unit
        if rows or columns:
            mode = "reflect" if rows < height and columns < width else "replicate"
            x = functional.pad(x, (0, columns, 0, rows), mode=mode)
        angle = c.to(x.dtype)[:, None] * self.frequencies.to(x.dtype)  # type: ignore[operator]
        emb = self.embed(torch.cat([angle.cos(), angle.sin()], 1))
        sigma = (4 * c.double()).exp().to(x.dtype)[:, None, None, None]
        noise = sigma / (1 + sigma**2).sqrt()
        fine = x - functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        seen = torch.cat([x, _bent(x / noise), _bent(fine / noise)], 1)
        # Channels of a pixel side by side, whatever the layout of the weights: convolutions are 1.2 times as fast.
        h = self.stem(functional.pixel_unshuffle(seen, 2).contiguous(memory_format=torch.channels_last))
        skips = []
        for steps in self.down:
            for step in steps:  # type: ignore[attr-defined]
                h = step(h, emb) if isinstance(step, _Block) else step(h)
            skips.append(h)
        for step in self.middle:
            h = step(h, emb) if isinstance(step, _Block) else step(h)
        for level, steps in enumerate(self.up):
            skip = skips.pop()
            if self.config.skips == "joined":
                if level:
                    h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
                h = torch.cat([h, skip], 1)
            elif level:  # the residual blocks of the coarsest level have its skip in them
                h = _mixed(self.narrow[level - 1], h)  # type: ignore[arg-type]
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest") + skip
            for step in steps:  # type: ignore[attr-defined]
                h = step(h, emb)
        out = functional.pixel_shuffle(self.head(modulated(h, *self.norm.columns, spare=True)), 2)
        return out[..., :height, :width]


@final
class _Norm(nn.Module):
    """Channels of every pixel to unit mean square, then a gain and a shift.

    A norm over groups of the whole image ties the noise of a dark background to the brightness of the object: of a
    bright square on black, 80 steps of training took 0.09 of the loss away with it, and 0.86 with this one. It also
    makes what the network does at a pixel independent of the size of the image.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    @property
    def columns(self) -> tuple[Tensor, Tensor]:
        """Gain and shift ``(width, 1, 1)``."""
        return self.gain[:, None, None], self.shift[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        gain, shift = self.columns
        return x * inverse_rms(x) * gain + shift


def _bent(v: Tensor) -> Tensor:
    """About v where that is small, at most 3 in size."""
    return v / (1 + (v / 3) ** 2).sqrt()


@final
class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _Norm(inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * outside)
        self.norm2, self.conv2 = _Norm(outside), nn.Conv2d(outside, outside, 3, padding=1)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, 1)
        h = self.conv1(modulated(x, *self.norm1.columns))
        gain, offset = self.norm2.columns
        h = self.conv2(modulated(h, gain * (1 + scale), offset * (1 + scale) + shift, spare=True))
        h += x if isinstance(self.skip, nn.Identity) else _mixed(self.skip, x)
        out: Tensor = h
        return out


@final
class _Attention(nn.Module):
    """Self-attention over the pixels of a level (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, math.gcd(width, 4 * _HEAD) // _HEAD)
        self.norm, self.qkv = _Norm(width), nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, width, rows, columns = x.shape
        qkv = _mixed(self.qkv, self.norm(x)).reshape(batch, 3, self.heads, width // self.heads, rows * columns)
        q, k, v = qkv.transpose(-1, -2).contiguous().unbind(1)
        h = functional.scaled_dot_product_attention(q, k, v)
        h = h.transpose(-1, -2).reshape(batch, width, rows, columns)
        out: Tensor = x + _mixed(self.out, h)
        return out


def _mixed(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution of 1 x 1 as the matrix that it is: torch has no fast kernel for it on a CPU."""
    mixed = functional.linear(x.movedim(1, -1), convolution.weight.flatten(1), convolution.bias)
    return mixed.movedim(-1, 1)
