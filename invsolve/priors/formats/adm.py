"""Weights of OpenAI's guided-diffusion code and its descendants (DPS, ILVR, DiffPIR, InverseBench's faces).

The keys are ``time_embed.0.weight``, ``input_blocks.1.0.in_layers.0.weight``, ``middle_block...``,
``output_blocks...``, ``out.2.weight``; the network is that of Dhariwal & Nichol 2021 (arXiv 2105.05233).

The network is our own: deepinv's `DiffUNet` is two of its configurations (128 or 256 channels, fixed levels, attention
and heads) and computes in single precision alone, and guided-diffusion itself is not packaged. Tests compare with both:
3e-7 beside DiffUNet's weights in float32, and OpenAI's code as azula carries it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from invsolve.core.validation import check_choice, check_int
from invsolve.errors import FileError
from invsolve.priors.formats.base import CONDITIONAL, Blueprint, Layout, check_size, count
from invsolve.priors.formats.blocks import attend, waves
from invsolve.priors.learned.parameterization import Scheduled
from invsolve.priors.learned.schedules import DDPM
from invsolve.priors.networks.weights import Shapes

_GROUPS = 32
Split = Literal["heads first", "qkv first"]


@final
@dataclass(frozen=True, kw_only=True)
class ADMLayout(Layout):
    """guided-diffusion; predicts noise on DDPM's linear schedule of 1000 steps unless told otherwise.

    What the tensors do not say is stated here.

    Parameters
    ----------
    head_channels : int
        Width of an attention head, >= 1: 64 in most published networks.
    heads : int, optional
        Their number instead, if given: 4 in the network of 128 x 128 ImageNet.
    split : {"heads first", "qkv first"}
        How their channels are ordered: "qkv first" in the network of 64 x 64 ImageNet (``use_new_attention_order``).

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    name: ClassVar[str] = "adm"  # type: ignore[misc]
    head_channels: int = 64
    heads: int | None = None
    split: Split = "heads first"

    def __post_init__(self) -> None:
        check_int("ADMLayout", "head_channels", self.head_channels, minimum=1)
        if self.heads is not None:
            check_int("ADMLayout", "heads", self.heads, minimum=1)
        check_choice("ADMLayout", "split", self.split, ("heads first", "qkv first"))

    def matches(self, shapes: Shapes) -> bool:
        return "time_embed.0.weight" in shapes and "input_blocks.0.0.weight" in shapes

    def blueprint(self, shapes: Shapes, config: Mapping[str, Any]) -> Blueprint:
        if "label_emb.weight" in shapes:
            raise FileError(f"load: the network is {CONDITIONAL} (label_emb).")
        plan = ADMConfig.of(shapes, self)
        with torch.device("meta"):
            network = ADMNetwork(plan)
        prediction = Scheduled(what="noise", schedule=DDPM())
        return Blueprint(
            network=network, channels=plan.inside, prediction=prediction, multiple=2 ** (len(plan.widths) - 1)
        )


@final
@dataclass(frozen=True, kw_only=True)
class ADMConfig:
    """The sizes of an ADM network, all of which the shapes of its tensors tell.

    Parameters
    ----------
    inside, outside : int
        Channels of input and output.
    stem : int
        Channels of the first convolution.
    widths : tuple of int
        Channels of the levels.
    attention : tuple of bool
        Whether the blocks of a level attend.
    blocks : int
        Residual blocks of each level.
    waves, embedding : int
        Frequencies of the time, and channels of its embedding.
    scaled : bool
        Whether time scales and shifts, or only shifts.
    residual : bool
        Whether residual blocks or convolutions change the resolution.
    layout : ADMLayout
        Of the attention heads.
    """

    inside: int
    outside: int
    stem: int
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    waves: int
    embedding: int
    scaled: bool
    residual: bool
    layout: ADMLayout

    @classmethod
    def of(cls, shapes: Shapes, layout: ADMLayout) -> ADMConfig:
        """The configuration that tensors of these shapes have. Raises KeyError or ValueError if there is none."""
        parts = count(shapes, "output_blocks.")
        # The last block of a level on the way up also doubles the resolution: where that is first says how many it has.
        ends = [i for i in range(parts) if _doubles(shapes, i)]
        blocks = ends[0] if ends else parts - 1
        levels = parts // (blocks + 1)
        starts = [1 + i * (blocks + 1) for i in range(levels)]
        widths = tuple(shapes[f"input_blocks.{i}.0.out_layers.3.weight"][0] for i in starts)
        check_size("ADM", widths, blocks)
        if any(w % _GROUPS for w in widths):
            raise ValueError(f"widths {widths} are no multiples of {_GROUPS}")
        first = shapes["input_blocks.1.0.emb_layers.1.weight"]
        return cls(
            inside=shapes["input_blocks.0.0.weight"][1],
            outside=shapes["out.2.weight"][0],
            stem=shapes["input_blocks.0.0.weight"][0],
            widths=widths,
            blocks=blocks,
            attention=tuple(f"input_blocks.{i}.1.qkv.weight" in shapes for i in starts),
            waves=shapes["time_embed.0.weight"][1],
            embedding=first[1],
            scaled=first[0] == 2 * widths[0],
            residual=f"input_blocks.{blocks + 1}.0.op.weight" not in shapes,
            layout=layout,
        )


def _doubles(shapes: Shapes, i: int) -> bool:
    here = f"output_blocks.{i}."
    return any(f"{here}{j}.in_layers.2.weight" in shapes or f"{here}{j}.conv.weight" in shapes for j in (1, 2))


@final
class ADMNetwork(nn.Module):
    """``(z, k)`` to what is predicted: ``z`` ``(batch, inside, H, W)``, ``k`` ``(batch,)`` in steps, fractions too."""

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config, c = config, config
        self.time_embed = nn.Sequential(nn.Linear(c.waves, c.embedding), nn.SiLU(), nn.Linear(c.embedding, c.embedding))
        self.input_blocks = nn.ModuleList([_Steps([nn.Conv2d(c.inside, c.stem, 3, padding=1)])])
        last, skips = c.stem, [c.stem]
        for level, width in enumerate(c.widths):
            if level:
                down = _Residual(c, last, last, resample="down") if c.residual else _Resample(last, "down")
                self.input_blocks.append(_Steps([down]))
                skips.append(last)
            for _ in range(c.blocks):
                self.input_blocks.append(_Steps(self._pair(last, width, level)))
                last = width
                skips.append(last)
        middle = [_Residual(c, last, last), _Attention(last, c.layout), _Residual(c, last, last)]
        self.middle_block = _Steps(middle)
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(c.widths))):
            for j in range(c.blocks + 1):
                steps = self._pair(last + skips.pop(), width, level)
                last = width
                if level and j == c.blocks:
                    steps.append(_Residual(c, last, last, resample="up") if c.residual else _Resample(last, "up"))
                self.output_blocks.append(_Steps(steps))
        self.out = nn.Sequential(nn.GroupNorm(_GROUPS, last), nn.SiLU(), nn.Conv2d(last, c.outside, 3, padding=1))

    def _pair(self, inside: int, outside: int, level: int) -> list[nn.Module]:
        block: list[nn.Module] = [_Residual(self.config, inside, outside)]
        return [*block, _Attention(outside, self.config.layout)] if self.config.attention[level] else block

    def forward(self, z: Tensor, k: Tensor) -> Tensor:
        emb = self.time_embed(torch.cat(waves(k, self.config.waves), 1))
        h, skips = z, []
        for steps in self.input_blocks:
            h = steps(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for steps in self.output_blocks:
            h = steps(torch.cat([h, skips.pop()], 1), emb)
        out: Tensor = self.out(h)
        return out


@final
class _Steps(nn.ModuleList):
    def __init__(self, steps: Iterable[nn.Module]) -> None:
        super().__init__(steps)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for step in self:
            x = step(x, emb) if isinstance(step, _Residual) else step(x)
        return x


def _resampled(x: Tensor, way: str) -> Tensor:
    if way == "down":
        return functional.avg_pool2d(x, 2)
    return functional.interpolate(x, scale_factor=2.0, mode="nearest") if way == "up" else x


@final
class _Resample(nn.Module):
    """Half or twice the resolution by a convolution."""

    def __init__(self, width: int, way: Literal["up", "down"]) -> None:
        super().__init__()
        self.way = way
        if way == "down":
            self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)
        else:
            self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x) if self.way == "down" else self.conv(_resampled(x, "up"))
        return out


@final
class _Residual(nn.Module):
    """norm, SiLU, [resample], convolution; time; norm, SiLU, convolution; beside them the skip."""

    def __init__(self, config: ADMConfig, inside: int, outside: int, *, resample: str = "") -> None:
        super().__init__()
        self.scaled, self.way = config.scaled, resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, inside), nn.SiLU(), nn.Conv2d(inside, outside, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(config.embedding, 2 * outside if self.scaled else outside))
        # The place of the dropout of training stays, so that the convolution keeps its number.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, outside), nn.SiLU(), nn.Identity(), nn.Conv2d(outside, outside, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(_resampled(act(norm(x)), self.way))
        told = self.emb_layers(emb)[:, :, None, None]
        if self.scaled:
            norm, act, _, conv = self.out_layers
            scale, shift = told.chunk(2, 1)
            h = conv(act(norm(h) * (1 + scale) + shift))
        else:
            h = self.out_layers(h + told)
        out: Tensor = self.skip_connection(_resampled(x, self.way)) + h
        return out


@final
class _Attention(nn.Module):
    def __init__(self, width: int, layout: ADMLayout) -> None:
        super().__init__()
        self.heads = layout.heads or width // layout.head_channels
        if self.heads < 1 or width % self.heads:
            raise FileError(
                f"load: attention over {width} channels has no heads as {layout} says. State it: "
                "layout=ADMLayout(heads=...)."
            )
        self.split = layout.split
        self.norm, self.qkv = nn.GroupNorm(_GROUPS, width), nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        each = (self.heads, 3) if self.split == "heads first" else (3, self.heads)
        qkv = self.qkv(self.norm(flat)).reshape(len(x), *each, x.shape[1] // self.heads, -1)
        q, k, v = qkv.unbind(2 if self.split == "heads first" else 1)
        out: Tensor = x + self.proj_out(attend(q, k, v).reshape(flat.shape)).reshape(x.shape)
        return out
