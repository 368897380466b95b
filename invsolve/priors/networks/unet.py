"""A small U-Net that works on pixel-unshuffled images: most of its work is done at half the resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from invsolve.checks import check_choice, check_int
from invsolve.errors import invalid, invalid_type

_GROUPS = 8
_FREQUENCIES = 16  # of the embedding of the noise level
_HEAD = 32  # channels of an attention head


@final
@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """``channels`` of the image; ``width`` of the finest level, a multiple of 8, times ``multipliers`` of the levels.

    Each level has ``blocks`` residual blocks on the way down and as many on the way up, at 1/2, 1/4, ... of the
    resolution of the image; ``attention``: whether pixels of the coarsest level see each other. The default has 2.7
    million parameters.
    """

    channels: int = 1
    width: int = 48
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: bool = True

    def __post_init__(self) -> None:
        owner = "UNetConfig"
        check_int(owner, "channels", self.channels, minimum=1)
        check_int(owner, "blocks", self.blocks, minimum=1)
        if check_int(owner, "width", self.width, minimum=_GROUPS) % _GROUPS:
            raise invalid(owner, "width", f"a multiple of {_GROUPS}", self.width)
        if not isinstance(self.multipliers, (tuple, list)) or not self.multipliers:
            raise invalid_type(owner, "multipliers", "a tuple of integers", self.multipliers)
        levels = tuple(check_int(owner, f"multipliers[{i}]", m, minimum=1) for i, m in enumerate(self.multipliers))
        object.__setattr__(self, "multipliers", levels)
        check_choice(owner, "attention", self.attention, (True, False))


@final
class UNet(nn.Module):
    """``F(x, c)`` for images ``x`` ``(batch, channels, H, W)`` of any size and noise levels ``c`` ``(batch,)``.

    Sizes that do not divide are padded by reflection inside, and cropped again. The last convolution starts at zero, so
    that an untrained network returns zero. Residual blocks with group norms and a scale and shift by the noise level
    (Dhariwal & Nichol 2021, arXiv 2105.05233), nearest-neighbour upsampling, skips joined by concatenation.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * m for m in config.multipliers]
        embedding = 4 * config.width
        self.register_buffer(
            "frequencies", 2.0 ** torch.linspace(-2, 4, _FREQUENCIES), persistent=False
        )
        self.embed = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = nn.Conv2d(4 * config.channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        last = widths[0]
        for level, width in enumerate(widths):
            steps = nn.ModuleList()
            if level:
                steps.append(nn.Conv2d(last, width, 3, stride=2, padding=1))
            steps.extend(_Block(width, width, embedding) for _ in range(config.blocks))
            self.down.append(steps)
            last = width
        self.middle = nn.ModuleList(
            [_Block(last, last, embedding), *([_Attention(last)] if config.attention else []),
             _Block(last, last, embedding)]
        )
        for level in range(len(widths) - 1, -1, -1):
            width = widths[level]
            steps = nn.ModuleList(
                _Block((last if i == 0 else width) + (width if i == 0 else 0), width, embedding)
                for i in range(config.blocks)
            )
            self.up.append(steps)
            last = width
        self.norm = nn.GroupNorm(_GROUPS, last)
        self.head = nn.Conv2d(last, 4 * config.channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        unit = 2 ** len(self.config.multipliers)
        rows, columns = -height % unit, -width % unit
        if rows or columns:
            mode = "reflect" if rows < height and columns < width else "replicate"
            x = functional.pad(x, (0, columns, 0, rows), mode=mode)
        angle = c.to(x.dtype)[:, None] * self.frequencies.to(x.dtype)  # type: ignore[operator]
        emb = self.embed(torch.cat([angle.cos(), angle.sin()], 1))
        h = self.stem(functional.pixel_unshuffle(x, 2))
        skips = []
        for steps in self.down:
            for step in steps:  # type: ignore[attr-defined]
                h = step(h, emb) if isinstance(step, _Block) else step(h)
            skips.append(h)
        for step in self.middle:
            h = step(h, emb) if isinstance(step, _Block) else step(h)
        for steps in self.up:
            skip = skips.pop()
            if h.shape[-1] != skip.shape[-1]:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
            h = torch.cat([h, skip], 1)
            for step in steps:  # type: ignore[attr-defined]
                h = step(h, emb)
        out = functional.pixel_shuffle(self.head(functional.silu(self.norm(h))), 2)
        return out[..., :height, :width]


@final
class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(_GROUPS, inside), nn.Conv2d(inside, outside, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * outside)
        self.norm2, self.conv2 = nn.GroupNorm(_GROUPS, outside), nn.Conv2d(outside, outside, 3, padding=1)
        self.skip = nn.Conv2d(inside, outside, 1) if inside != outside else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.film(emb)[:, :, None, None].chunk(2, 1)
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h) * (1 + scale) + shift))
        out: Tensor = self.skip(x) + h
        return out


@final
class _Attention(nn.Module):
    """Self-attention over the pixels of a level (Vaswani et al. 2017, arXiv 1706.03762)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, math.gcd(width, 4 * _HEAD) // _HEAD)
        self.norm, self.qkv = nn.GroupNorm(_GROUPS, width), nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, width, rows, columns = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, width // self.heads, rows * columns)
        q, k, v = qkv.transpose(-1, -2).contiguous().unbind(1)
        h = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.out(h.transpose(-1, -2).reshape(batch, width, rows, columns))
        return out
