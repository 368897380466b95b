"""Folders of Hugging Face's diffusers with an unconditional image network: UNet2DModel and its scheduler.

The folder holds ``unet/config.json``, ``unet/diffusion_pytorch_model.safetensors`` or ``.bin``, and
``scheduler/scheduler_config.json``; a folder with ``config.json`` alone needs a ``prediction``. The network (Ho et al.
2020, arXiv 2006.11239) is diffusers' own, which has to be installed (``pip install 'invsolve[diffusers]'``). Names of
tensors, both configurations and what they mean are read here: no code of a file or of a hub is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, final

import torch
from torch import nn

from invsolve.errors import FileError
from invsolve.priors.formats.base import Blueprint, Layout, check_size
from invsolve.priors.formats.diffusers_network import Called, DiffusersConfig, make_unet
from invsolve.priors.formats.diffusers_scheduler import prediction_of
from invsolve.priors.learned.parameterization import Prediction
from invsolve.priors.networks.weights import Shapes

# Names of attention in files older than diffusers 0.15, and today's.
_OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
# Changes nothing of what the network computes once it is trained.
_WITHOUT_EFFECT = {"dropout", "num_train_timesteps"}


@final
@dataclass(frozen=True, kw_only=True)
class DiffusersLayout(Layout):
    """UNet2DModel of diffusers, on what the scheduler beside it says that it predicts."""

    name: ClassVar[str] = "diffusers"  # type: ignore[misc]

    def matches(self, shapes: Shapes) -> bool:
        return "conv_in.weight" in shapes and any(k.startswith("down_blocks.0.") for k in shapes)

    def renamed(self, key: str) -> str:
        for old, new in _OLD.items():
            key = key.replace(old, new) if ".attentions." in key else key
        return key

    def blueprint(self, shapes: Shapes, config: Mapping[str, Any]) -> Blueprint:
        if "unet" not in config:
            raise FileError("load: tensors of diffusers without their config.json: give the folder that holds both.")
        plan = network_config(config["unet"], shapes)
        size = config["unet"].get("sample_size")
        return Blueprint(
            network=make_unet(plan),
            channels=plan.in_channels,
            multiple=2 ** (len(plan.block_out_channels) - 1),
            prediction=prediction_of(config["scheduler"]) if "scheduler" in config else Unstated(),
            resolution=None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1]),
        )

    def called(self, network: nn.Module) -> nn.Module:
        return Called(network)


@final
class Unstated(Prediction):
    """Nobody has said what the network predicts."""

    def denoise(self, *given: object) -> torch.Tensor:
        raise AssertionError("a prior without a prediction is never made")  # pragma: no cover


def network_config(given: Mapping[str, Any], shapes: Shapes) -> DiffusersConfig:
    """The part of ``config.json`` that shapes the network; an option that is not known here is refused by its name."""
    known = {f.name for f in fields(DiffusersConfig)}
    plain = {k: v for k, v in given.items() if not k.startswith("_")}
    if (name := given.get("_class_name", "UNet2DModel")) != "UNet2DModel":
        raise FileError(f"load: a network {name} of diffusers: only UNet2DModel is known here.")
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items() if k in known}
    time = plain.get("time_embedding_type", "positional")
    conditional = plain.get("class_embed_type") or plain.get("num_class_embeds")
    if time != "positional" or conditional or plain.get("act_fn", "silu") not in ("silu", "swish"):
        raise FileError(
            f"load: a network of diffusers with time_embedding_type {time!r}, act_fn "
            f"{plain.get('act_fn', 'silu')!r} and class labels {conditional!r}: only 'positional', 'silu' "
            "and None are known here."
        )
    rest = set(plain) - known - _WITHOUT_EFFECT
    rest -= {"time_embedding_type", "act_fn", "class_embed_type", "num_class_embeds", "sample_size"}
    if unknown := sorted(k for k in rest if plain[k] is not None):
        raise FileError(f"load: config.json states options that are not known here: {', '.join(unknown)}.")
    options["time_embedding_dim"] = shapes["time_embedding.linear_1.weight"][0]  # the configuration may leave it out
    plan = DiffusersConfig(**options)
    check_size("diffusers", plan.block_out_channels, plan.layers_per_block)
    return plan
