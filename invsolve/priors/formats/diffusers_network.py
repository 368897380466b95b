"""The network of diffusers' UNet2DModel, with its names, for weights that were trained with it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from invsolve.core.validation import check_choice, check_int
from invsolve.errors import FileError
from invsolve.priors.formats.blocks import attend, waves

# Of a level: whether pixels attend to each other, and what changes its resolution (None: as the configuration says).
_KINDS = {
    "DownBlock2D": (False, "conv"),
    "AttnDownBlock2D": (True, None),
    "ResnetDownsampleBlock2D": (False, "resnet"),
    "UpBlock2D": (False, "conv"),
    "AttnUpBlock2D": (True, None),
    "ResnetUpsampleBlock2D": (False, "resnet"),
}


@final
@dataclass(frozen=True, kw_only=True)
class DiffusersConfig:
    """Options of UNet2DModel under their names and with their defaults; ``embedding``: the width of that of time."""

    embedding: int
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True

    def __post_init__(self) -> None:
        owner = "load"
        for name in ("embedding", "in_channels", "out_channels", "layers_per_block", "norm_num_groups"):
            check_int(owner, name, getattr(self, name), minimum=1)
        for kind in (*self.down_block_types, *self.up_block_types):
            if kind not in _KINDS:
                raise FileError(f"load: blocks {kind} of diffusers are not known here.")
        if not len(self.down_block_types) == len(self.up_block_types) == len(self.block_out_channels):
            raise ValueError("down_block_types, up_block_types and block_out_channels differ in length")
        check_choice(owner, "mid_block_type", self.mid_block_type, ("UNetMidBlock2D", None))
        check_choice(owner, "resnet_time_scale_shift", self.resnet_time_scale_shift, ("default", "scale_shift"))
        check_choice(owner, "downsample_type", self.downsample_type, ("conv", "resnet"))
        check_choice(owner, "upsample_type", self.upsample_type, ("conv", "resnet"))

    @property
    def scaled(self) -> bool:
        return self.resnet_time_scale_shift == "scale_shift"


@final
class DiffusersNetwork(nn.Module):
    """``(z, k)`` to what is predicted: ``z`` ``(batch, in_channels, H, W)``, ``k`` ``(batch,)`` in steps."""

    def __init__(self, config: DiffusersConfig) -> None:
        super().__init__()
        self.config, c, widths = config, config, config.block_out_channels
        self.conv_in = nn.Conv2d(c.in_channels, widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(widths[0], c.embedding), "linear_2": nn.Linear(c.embedding, c.embedding)}
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        last, skips = widths[0], [widths[0]]
        for i, (kind, width) in enumerate(zip(c.down_block_types, widths, strict=True)):
            attention, way = _KINDS[kind]
            inside = [last, *[width] * (c.layers_per_block - 1)]
            way = "" if i == len(widths) - 1 else way or c.downsample_type
            self.down_blocks.append(_Level(c, inside, width, attention, "down", way))
            skips += [width] * (c.layers_per_block + bool(way))
            last = width
        self.mid_block = _Middle(c, last) if c.mid_block_type else None
        for i, (kind, width) in enumerate(zip(c.up_block_types, reversed(widths), strict=True)):
            attention, way = _KINDS[kind]
            inside = [(last if j == 0 else width) + skips.pop() for j in range(c.layers_per_block + 1)]
            way = "" if i == len(widths) - 1 else way or c.upsample_type
            self.up_blocks.append(_Level(c, inside, width, attention, "up", way))
            last = width
        self.conv_norm_out = nn.GroupNorm(c.norm_num_groups, last, eps=c.norm_eps)
        self.conv_out = nn.Conv2d(last, c.out_channels, 3, padding=1)

    def forward(self, z: Tensor, k: Tensor) -> Tensor:
        c, time = self.config, self.time_embedding
        cos, sin = waves(k, c.block_out_channels[0], shift=c.freq_shift)
        emb = time["linear_1"](torch.cat([cos, sin] if c.flip_sin_to_cos else [sin, cos], 1))
        emb = functional.silu(time["linear_2"](functional.silu(emb)))
        h = self.conv_in(2 * z - 1 if c.center_input_sample else z)
        skips = [h]
        for level in self.down_blocks:
            h = level(h, emb, skips)
        if self.mid_block is not None:
            h = self.mid_block(h, emb)
        for level in self.up_blocks:
            h = level(h, emb, skips)
        out: Tensor = self.conv_out(functional.silu(self.conv_norm_out(h)))
        return out


@final
class _Level(nn.Module):
    """Residual blocks of one resolution, then, unless ``way`` is empty, the step to the next."""

    def __init__(self, c: DiffusersConfig, inside: list[int], width: int, attention: bool, side: str, way: str) -> None:
        super().__init__()
        self.side = side
        self.resnets = nn.ModuleList(_Residual(c, n, width) for n in inside)
        self.attentions = nn.ModuleList(_Attention(c, width) for _ in inside if attention)
        step: nn.Module = _Residual(c, width, width, side) if way == "resnet" else _Resample(c, width, side)
        if way:
            setattr(self, f"{side}samplers", nn.ModuleList([step]))

    def forward(self, x: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        for i, block in enumerate(self.resnets):
            x = block(x if self.side == "down" else torch.cat([x, skips.pop()], 1), emb)
            x = self.attentions[i](x) if len(self.attentions) else x
            if self.side == "down":
                skips.append(x)
        for step in getattr(self, f"{self.side}samplers", ()):
            x = step(x, emb)
            if self.side == "down":
                skips.append(x)
        return x


@final
class _Middle(nn.Module):
    def __init__(self, c: DiffusersConfig, width: int) -> None:
        super().__init__()
        factor = float(c.mid_block_scale_factor)
        groups = c.attn_norm_num_groups or (None if c.scaled else c.norm_num_groups)
        self.resnets = nn.ModuleList(_Residual(c, width, width, factor=factor) for _ in range(2))
        there = [_Attention(c, width, groups=groups, normed=groups is not None, factor=factor)] * c.add_attention
        self.attentions = nn.ModuleList(there)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.resnets[0](x, emb)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x, emb)
        return out


@final
class _Resample(nn.Module):
    def __init__(self, c: DiffusersConfig, width: int, side: str) -> None:
        super().__init__()
        self.side, self.padding = side, c.downsample_padding
        down = side == "down"
        self.conv = nn.Conv2d(width, width, 3, stride=2 if down else 1, padding=self.padding if down else 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.side == "up":
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        elif self.padding == 0:  # one row and column behind, none before
            x = functional.pad(x, (0, 1, 0, 1))
        out: Tensor = self.conv(x)
        return out


@final
class _Residual(nn.Module):
    def __init__(self, c: DiffusersConfig, inside: int, outside: int, side: str = "", factor: float = 1.0) -> None:
        super().__init__()
        self.side, self.factor, self.scaled = side, factor, c.scaled
        self.norm1 = nn.GroupNorm(c.norm_num_groups, inside, eps=c.norm_eps)
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.time_emb_proj = nn.Linear(c.embedding, 2 * outside if c.scaled else outside)
        self.norm2 = nn.GroupNorm(c.norm_num_groups, outside, eps=c.norm_eps)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inside, outside, 1) if inside != outside else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # emb: after its SiLU
        h = functional.silu(self.norm1(x))
        if self.side == "down":
            x, h = functional.avg_pool2d(x, 2), functional.avg_pool2d(h, 2)
        elif self.side == "up":
            x, h = (functional.interpolate(v, scale_factor=2.0, mode="nearest") for v in (x, h))
        h, told = self.conv1(h), self.time_emb_proj(emb)[:, :, None, None]
        if self.scaled:
            scale, shift = told.chunk(2, 1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + told)
        h = self.conv2(functional.silu(h))
        out: Tensor = ((x if self.conv_shortcut is None else self.conv_shortcut(x)) + h) / self.factor
        return out


@final
class _Attention(nn.Module):
    def __init__(
        self, c: DiffusersConfig, width: int, *, groups: int | None = None, normed: bool = True, factor: float = 1.0
    ) -> None:
        super().__init__()
        each = c.attention_head_dim or width
        if width % each:
            raise ValueError(f"attention_head_dim {each} does not divide {width} channels")
        self.heads, self.factor = width // each, factor
        if normed:
            self.group_norm = nn.GroupNorm(groups or c.norm_num_groups, width, eps=c.norm_eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        h = (self.group_norm(flat) if hasattr(self, "group_norm") else flat).mT
        pixels = math.prod(x.shape[2:])
        q, k, v = (f(h).mT.reshape(len(x), self.heads, -1, pixels) for f in (self.to_q, self.to_k, self.to_v))
        h = self.to_out[0](attend(q, k, v).reshape(flat.shape).mT).mT
        out: Tensor = (h.reshape(x.shape) + x) / self.factor
        return out
