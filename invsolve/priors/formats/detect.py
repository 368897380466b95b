"""A prior from other people's weights: the layout is found by the names of the tensors, and checked to the last one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from invsolve.core.validation import Kind, Shape, check_choice, check_dims
from invsolve.errors import FileError, InvsolveError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.formats.adm import ADMLayout
from invsolve.priors.formats.base import Blueprint, Layout
from invsolve.priors.formats.diffusers import DiffusersLayout, Unstated
from invsolve.priors.formats.edm import EDMLayout
from invsolve.priors.formats.reading import read_folder, read_tensors
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.learned.parameterization import Prediction
from invsolve.priors.learned.wrappers import from_network
from invsolve.priors.networks.weights import LARGEST, key_differences

LAYOUTS: tuple[Layout, ...] = (EDMLayout(), ADMLayout(), DiffusersLayout())


@final
@dataclass(frozen=True, kw_only=True)
class Stated:
    """What a caller of `load` says of foreign weights; see there."""

    layout: Layout | None = None
    shape: Sequence[int] | None = None
    kind: Kind | None = None
    prediction: Prediction | None = None
    offset: Tensor | float | None = None
    unit: float | None = None
    sigma_range: tuple[float, float] | None = None
    mean: Tensor | float | None = None
    scale: float | None = None
    detail: float | None = None
    law: GaussianLaw | None = None

    @property
    def given(self) -> list[str]:
        """The names of what was stated."""
        return [k for k, v in vars(self).items() if v is not None]


def load_foreign(path: str, stated: Stated) -> NetworkPrior:
    """The prior of a weight file or of a folder of diffusers. Raises FileError, or InputError for what was stated."""
    if stated.layout is not None and not isinstance(stated.layout, Layout):
        raise invalid_type("load", "layout", "EDMLayout(), ADMLayout(...) or DiffusersLayout()", stated.layout)
    if stated.prediction is not None and not isinstance(stated.prediction, Prediction):
        raise invalid_type("load", "prediction", "EDM(...), Direct() or Scheduled(...)", stated.prediction)
    config: dict[str, Any] = {}
    file = path
    if Path(path).is_dir():
        file, config = read_folder(Path(path))
    elif (Path(path).parent / "config.json").is_file() and Path(path).name.startswith("diffusion_pytorch_model"):
        file, config = path, read_folder(Path(path).parent)[1]
    tensors = read_tensors(file)
    layout, plan = _plan(file, tensors, config, stated)
    tensors = {layout.renamed(k): v for k, v in tensors.items()}
    network = plan.network
    wanted = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    if text := key_differences(wanted, {k: tuple(v.shape) for k, v in tensors.items()}):
        raise FileError(f"load: {file!r} has the layout {layout.name!r}, but not its tensors: {text}.")
    for key, value in tensors.items():
        if not value.is_floating_point() or value.layout != torch.strided:
            raise FileError(f"load: {file!r} holds {key} as {value.dtype}, {value.layout}: expected dense floats.")
        if not bool(value.isfinite().all()):
            raise FileError(f"load: {file!r} holds NaN or infinite values, in {key} first.")
    network.load_state_dict({k: v.float().contiguous() for k, v in tensors.items()}, assign=True)
    return _prior(file, layout, replace(plan, network=layout.called(network)), stated)


def _plan(file: str, tensors: dict[str, Tensor], config: dict[str, Any], stated: Stated) -> tuple[Layout, Blueprint]:
    if sum(v.numel() for v in tensors.values()) > LARGEST:
        raise FileError(f"load: {file!r} holds more than {LARGEST} numbers.")
    plain = {k: tuple(v.shape) for k, v in tensors.items()}
    layout = stated.layout or next((x for x in LAYOUTS if x.matches(plain)), None)
    if layout is None:
        edm2 = " It looks like EDM2, which is not known." if "emb_fourier.freqs" in plain else ""
        known = ", ".join(x.name for x in LAYOUTS)
        raise FileError(
            f"load: {file!r} has none of the layouts that are known ({known}); its tensors begin with "
            f"{', '.join(sorted(plain)[:5])}.{edm2} Build the network yourself and use iv.priors.from_network."
        )
    shapes = {layout.renamed(k): v for k, v in plain.items()}
    if stated.prediction is not None:  # what a scheduler says does not matter then, nor whether it can be read
        config = {part: options for part, options in config.items() if part != "scheduler"}
    try:
        return layout, layout.blueprint(shapes, config)
    except FileError as error:
        raise FileError(f"{error} ({file!r})") from error
    except (InvsolveError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise FileError(f"load: {file!r} is no network of the layout {layout.name!r}: {why}.") from error


def _prior(file: str, layout: Layout, plan: Blueprint, stated: Stated) -> NetworkPrior:
    kind: Kind = stated.kind or "real"
    check_choice("load", "kind", kind, ("real", "complex"))
    shape, channels = _shape(plan, kind, stated.shape)
    prediction = stated.prediction or plan.prediction
    if isinstance(prediction, Unstated):
        raise invalid(
            "load",
            "prediction",
            "stated: there is no scheduler beside the network",
            "None",
            'For example Scheduled(what="noise", schedule=DDPM()).',
        )
    return from_network(
        plan.network,
        prediction,
        shape=shape,
        kind=kind,
        channels=channels,
        offset=0.0 if stated.offset is None else stated.offset,
        unit=1.0 if stated.unit is None else stated.unit,
        sigma_range=stated.sigma_range,
        mean=stated.mean,
        scale=stated.scale,
        detail=stated.detail,
        law=stated.law,
        card={"file": os.path.basename(file), "layout": layout.name},
    )


def _shape(plan: Blueprint, kind: Kind, given: Sequence[int] | None) -> tuple[Shape, str]:
    """The shape of signals, and what becomes of the channel axis; checked against the network."""
    n = plan.channels
    if kind == "complex" and n != 2:
        raise invalid("load", "kind", f"'real' for a network of {n} channels", "'complex'")
    hidden = kind == "complex" or n == 1
    if given is None:
        if plan.resolution is None:
            raise invalid("load", "shape", "stated: the file does not say which images it was trained on", "None")
        return (plan.resolution if hidden else (n, *plan.resolution)), "hidden" if hidden else "first"
    shape = check_dims("load", "shape", given)
    grid = shape[-2:]
    axes = {2: hidden, 3: kind == "real" and shape[0] == n}
    if not axes.get(len(shape), False):
        wanted = ["(H, W)"] * hidden + [f"({n}, H, W)"] * (kind == "real")
        raise invalid("load", "shape", f"{' or '.join(wanted)} for {kind} signals and a network of {n} channels", shape)
    if any(size % plan.multiple for size in grid):
        raise invalid("load", "shape", f"a grid of multiples of {plan.multiple}", shape)
    return shape, "hidden" if len(shape) == 2 else "first"
