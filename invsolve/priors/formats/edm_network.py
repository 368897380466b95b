"""The networks of NVlabs' EDM code, with their names, for weights that were trained with them.

"DhariwalUNet" is ADM (Dhariwal & Nichol 2021, arXiv 2105.05233), "SongUNet" DDPM++ or NCSN++ (Song et al. 2021, arXiv
2011.13456), all as in Karras et al. 2022 (arXiv 2206.00364).

The networks are our own. deepinv's `ADMUNet` and `NCSNpp` have the same names of tensors, but 32 groups in every norm
where EDM has at least four channels a group: they agree from 128 channels on (to 6e-10 in float64), compute something
else at 32 or 64 (half of the output), and cannot be made at 16 or 48. `NCSNpp` also ties the embedding of the noise,
the residual copies and the filter to each other, which files need not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from invsolve.priors.formats.base import check_size
from invsolve.priors.formats.blocks import attend, waves
from invsolve.priors.networks.weights import Shapes

STEM = re.compile(r"enc\.(\d+)x(\d+)_conv\.weight")
_HEAD = 64  # channels of an attention head of the ADM kind; the other kind has one head


@final
@dataclass(frozen=True, kw_only=True)
class EDMConfig:
    """The sizes of an EDM network, all of which the names and shapes of its tensors tell.

    Parameters
    ----------
    resolution : int
        Pixels a side, by which the levels are named.
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
        Frequencies of the noise level, and channels of its embedding.
    adm : bool
        ADM, or DDPM++ / NCSN++.
    residual : bool
        Whether smaller copies of the image join the encoder.
    fourier : bool
        Whether the frequencies are random.
    taps : int
        Of the filter that halves and doubles.
    augment : int
        Labels of the augmentation of training, which are left out here.
    """

    resolution: int
    inside: int
    outside: int
    stem: int
    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    waves: int
    embedding: int
    adm: bool
    residual: bool = False
    fourier: bool = False
    taps: int = 2
    augment: int = 0

    @classmethod
    def of(cls, shapes: Shapes) -> EDMConfig:
        """The configuration that tensors of these shapes have. Raises KeyError or ValueError if there is none."""
        stems = [m for k in shapes if (m := STEM.fullmatch(k))]
        top = max(int(m[1]) for m in stems)
        widths, attention, blocks, size = [], [], 0, top
        while size and f"enc.{size}x{size}_block0.conv0.weight" in shapes:
            here = f"enc.{size}x{size}_block"
            widths.append(shapes[f"{here}0.conv0.weight"][0])
            attention.append(f"{here}0.qkv.weight" in shapes)
            blocks = max(blocks, sum(1 for k in shapes if k.startswith(here) and k.endswith("conv0.weight")))
            size //= 2
        check_size("EDM", tuple(widths), blocks)
        adm = "out_conv.weight" in shapes
        last = "out_conv.weight" if adm else f"dec.{top}x{top}_aux_conv.weight"
        filters = [s for k, s in shapes.items() if k.endswith("resample_filter")]
        return cls(
            resolution=top,
            inside=shapes[stems[0][0]][1],
            outside=shapes[last][0],
            stem=shapes[stems[0][0]][0],
            widths=tuple(widths),
            attention=tuple(attention),
            blocks=blocks,
            waves=shapes["map_layer0.weight"][1],
            embedding=shapes["map_layer0.weight"][0],
            adm=adm,
            fourier="map_noise.freqs" in shapes,
            residual=any("aux_residual" in k for k in shapes),
            taps=filters[0][-1] if filters else 2,
            augment=shapes["map_augment.weight"][1] if "map_augment.weight" in shapes else 0,
        )


@final
class EDMNetwork(nn.Module):
    """``F(z, c)`` for ``z`` ``(batch, inside, H, W)`` and ``c`` ``(batch,)``, the c_noise of the preconditioning."""

    def __init__(self, config: EDMConfig) -> None:
        super().__init__()
        self.config, c = config, config
        if c.fourier:
            self.map_noise = _Frequencies(c.waves // 2)
        if c.augment:  # trained with labels of the augmentation, and used without, as when they were zero
            self.map_augment = nn.Linear(c.augment, c.waves, bias=False)
        self.map_layer0, self.map_layer1 = nn.Linear(c.waves, c.embedding), nn.Linear(c.embedding, c.embedding)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        names = [f"{c.resolution >> i}x{c.resolution >> i}" for i in range(len(c.widths))]
        self.enc[f"{names[0]}_conv"] = _Conv(c.inside, c.stem, 3)
        last, aux, skips = c.stem, c.inside, [c.stem]
        for i, (name, width) in enumerate(zip(names, c.widths, strict=True)):
            if i:
                self.enc[f"{name}_down"] = _Block(c, last, last, resample="down")
                if c.residual:
                    self.enc[f"{name}_aux_residual"] = _Conv(aux, last, 3, resample="down", taps=c.taps, fused=True)
                    aux = last
                skips.append(last)
            for j in range(c.blocks):
                self.enc[f"{name}_block{j}"] = _Block(c, last, width, attention=c.attention[i])
                last = width
                skips.append(last)
        for i, (name, width) in reversed(list(enumerate(zip(names, c.widths, strict=True)))):
            if i == len(names) - 1:
                self.dec[f"{name}_in0"] = _Block(c, last, last, attention=True)
                self.dec[f"{name}_in1"] = _Block(c, last, last)
            else:
                self.dec[f"{name}_up"] = _Block(c, last, last, resample="up")
            for j in range(c.blocks + 1):
                # DDPM++ attends once on the way up, ADM at every block
                here = c.attention[i] and (c.adm or j == c.blocks)
                self.dec[f"{name}_block{j}"] = _Block(c, last + skips.pop(), width, attention=here)
                last = width
        if c.adm:
            self.out_norm, self.out_conv = _norm(last, 1e-5), _Conv(last, c.outside, 3)
        else:
            self.dec[f"{names[0]}_aux_norm"] = _norm(last, 1e-6)
            self.dec[f"{names[0]}_aux_conv"] = _Conv(last, c.outside, 3)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        if self.config.adm:
            emb = torch.cat(waves(c, self.config.waves), 1)
        else:  # the sines come first here
            cos, sin = self.map_noise(c) if self.config.fourier else waves(c, self.config.waves, shift=1)
            emb = torch.cat([sin, cos], 1)
        emb = functional.silu(self.map_layer1(functional.silu(self.map_layer0(emb))))
        skips: list[Tensor] = []
        h = aux = z
        for name, part in self.enc.items():
            if "aux_residual" in name:
                h = aux = skips[-1] = (h + part(aux)) / math.sqrt(2)
            else:
                h = part(h, emb) if isinstance(part, _Block) else part(h)
                skips.append(h)
        for name, part in self.dec.items():
            if isinstance(part, _Block):
                h = part(torch.cat([h, skips.pop()], 1) if "_block" in name else h, emb)
            else:
                h = functional.silu(part(h)) if name.endswith("norm") else part(h)
        if self.config.adm:
            h = self.out_conv(functional.silu(self.out_norm(h)))
        return h


def _norm(width: int, eps: float) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, width // 4), width, eps=eps)  # at least four channels a group


@final
class _Frequencies(nn.Module):
    """Random Fourier features of the noise level (Song et al. 2021)."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(half))

    def forward(self, c: Tensor) -> tuple[Tensor, Tensor]:
        angle = c[:, None] * (2 * math.pi * self.freqs.to(c.dtype))  # type: ignore[operator]
        return angle.cos(), angle.sin()


@final
class _Conv(nn.Module):
    """A convolution, before it a smoothing filter that halves or doubles the image; ``kernel`` 0: that alone.

    ``fused``: the filter comes after the convolution.
    """

    def __init__(
        self, inside: int, outside: int, kernel: int, *, resample: str = "", taps: int = 2, fused: bool = False
    ) -> None:
        super().__init__()
        self.resample, self.fused = resample, fused
        if kernel:
            self.weight = nn.Parameter(torch.randn(outside, inside, kernel, kernel) / (kernel * math.sqrt(inside)))
            self.bias = nn.Parameter(torch.zeros(outside))
        else:
            self.weight = self.bias = None  # type: ignore[assignment]
        if resample:
            row = torch.tensor([math.comb(taps - 1, i) for i in range(taps)], dtype=torch.float32)
            self.register_buffer("resample_filter", (torch.outer(row, row) / row.sum() ** 2)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        pad = 0 if self.weight is None else self.weight.shape[-1] // 2
        if not self.resample:
            return functional.conv2d(x, self.weight, self.bias, padding=pad)
        f: Tensor = self.resample_filter  # type: ignore[assignment]
        half = (f.shape[-1] - 1) // 2
        if self.fused:
            x = functional.conv2d(x, self.weight, padding=pad + half)
            x = functional.conv2d(x, f.expand(x.shape[1], -1, -1, -1), stride=2, groups=x.shape[1])
            return x + self.bias[:, None, None]
        each = f.expand(x.shape[1], -1, -1, -1)
        if self.resample == "down":
            x = functional.conv2d(x, each, stride=2, padding=half, groups=x.shape[1])
        else:
            x = functional.conv_transpose2d(x, 4 * each, stride=2, padding=half, groups=x.shape[1])
        return x if self.weight is None else functional.conv2d(x, self.weight, self.bias, padding=pad)


@final
class _Block(nn.Module):
    """A residual block, with attention after it."""

    def __init__(
        self, config: EDMConfig, inside: int, outside: int, *, resample: str = "", attention: bool = False
    ) -> None:
        super().__init__()
        self.adm, eps = config.adm, 1e-5 if config.adm else 1e-6
        self.gain = 1.0 if config.adm else math.sqrt(0.5)
        self.norm0, self.norm1 = _norm(inside, eps), _norm(outside, eps)
        self.conv0 = _Conv(inside, outside, 3, resample=resample, taps=config.taps)
        self.affine = nn.Linear(config.embedding, 2 * outside if config.adm else outside)
        self.conv1 = _Conv(outside, outside, 3)
        self.skip = None
        if inside != outside or resample:
            kernel = 0 if config.adm and inside == outside else 1
            self.skip = _Conv(inside, outside, kernel, resample=resample, taps=config.taps)
        self.heads = 0 if not attention else outside // _HEAD if config.adm else 1
        if self.heads:
            self.norm2 = _norm(outside, eps)
            self.qkv, self.proj = _Conv(outside, 3 * outside, 1), _Conv(outside, outside, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(functional.silu(self.norm0(x)))
        told = self.affine(emb)[:, :, None, None]
        if self.adm:
            scale, shift = told.chunk(2, 1)
            h = self.norm1(h) * (1 + scale) + shift
        else:
            h = self.norm1(h + told)
        h = self.conv1(functional.silu(h))
        x = (h + (x if self.skip is None else self.skip(x))) * self.gain
        if self.heads:
            batch, width, *_ = x.shape
            # channels are (head, channel of the head, which of q, k and v)
            qkv = self.qkv(self.norm2(x)).reshape(batch, self.heads, width // self.heads, 3, -1)
            x = (x + self.proj(attend(*qkv.unbind(3)).reshape(x.shape))) * self.gain
        return x
