"""UNet2DModel of diffusers itself, made of options that are checked here.

diffusers is imported when a file needs it.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from invsolve.core.validation import check_choice, check_int
from invsolve.errors import FileError

_BLOCKS = {
    "DownBlock2D",
    "AttnDownBlock2D",
    "ResnetDownsampleBlock2D",
    "UpBlock2D",
    "AttnUpBlock2D",
    "ResnetUpsampleBlock2D",
}


@final
@dataclass(frozen=True, kw_only=True)
class DiffusersConfig:
    """Options of UNet2DModel under their names and with their defaults, as far as they are known here."""

    time_embedding_dim: int
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
        for name in ("time_embedding_dim", "in_channels", "out_channels", "layers_per_block", "norm_num_groups"):
            check_int(owner, name, getattr(self, name), minimum=1)
        for kind in (*self.down_block_types, *self.up_block_types):
            if kind not in _BLOCKS:
                raise FileError(f"load: blocks {kind} of diffusers are not known here.")
        if not len(self.down_block_types) == len(self.up_block_types) == len(self.block_out_channels):
            raise ValueError("down_block_types, up_block_types and block_out_channels differ in length")
        check_choice(owner, "mid_block_type", self.mid_block_type, ("UNetMidBlock2D", None))
        check_choice(owner, "resnet_time_scale_shift", self.resnet_time_scale_shift, ("default", "scale_shift"))
        check_choice(owner, "downsample_type", self.downsample_type, ("conv", "resnet"))
        check_choice(owner, "upsample_type", self.upsample_type, ("conv", "resnet"))
        if not self.attention_head_dim:  # one head; diffusers would divide by 0
            object.__setattr__(self, "attention_head_dim", None)
        if each := self.attention_head_dim:  # diffusers makes heads of another width where it does not divide
            levels = (
                *zip(self.down_block_types, self.block_out_channels, strict=True),
                *zip(self.up_block_types, reversed(self.block_out_channels), strict=True),
            )
            widths = [width for kind, width in levels if kind.startswith("Attn")]
            if self.mid_block_type and self.add_attention:
                widths.append(self.block_out_channels[-1])
            if uneven := [width for width in widths if width % each]:
                raise ValueError(f"attention_head_dim {each} does not divide {uneven[0]} channels")


def make_unet(config: DiffusersConfig) -> nn.Module:
    """The network that diffusers makes of ``config``, without memory for its weights: on torch's meta device.

    Raises FileError, which says what to install, if there is no diffusers, and ValueError if it refuses the options.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own imports
            from diffusers import UNet2DModel
    except (ImportError, RuntimeError) as error:  # where a part of it is missing, it raises the second
        raise FileError(
            "load: networks of diffusers are read with the package diffusers, which cannot be imported "
            f"({error}): pip install 'invsolve[diffusers]'."
        ) from error
    try:
        with torch.device("meta"):  # not around the import, whose own tensors would have no memory either
            network: nn.Module = UNet2DModel(**asdict(config))
    except Exception as error:  # whatever diffusers raises for options of a file
        raise ValueError(f"diffusers makes no network of its options: {error}") from error
    return network


@final
class Called(nn.Module):
    """A network of diffusers as ``(z, k)`` to a tensor: ``z`` ``(batch, channels, H, W)``, ``k`` ``(batch,)`` in steps.

    It also keeps ``to`` from being theirs, which logs advice about half precision at every call.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, k: Tensor) -> Tensor:
        """What is predicted, in the shape of ``z``."""
        out: Any = self.network(z, k, return_dict=False)
        value: Tensor = out[0]
        return value
