"""Priors in files of our own: weights and all else that the prior is, as safetensors. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invsolve.core.files import atomic_write, to_be_read, with_extension
from invsolve.core.torch_state import in_defined_state
from invsolve.core.transforms import Transform
from invsolve.core.validation import check_choice, check_finite
from invsolve.errors import FileError, InvsolveError, UnsupportedError, invalid, invalid_type
from invsolve.gaussian.law import DenseModes, GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.priors.learned.field_header import field_header, field_of
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.learned.parameterization import EDM, BesideLaw, Prediction
from invsolve.priors.networks import NeuralOperator, NeuralOperatorConfig, UNet, UNetConfig
from invsolve.priors.networks.weights import LARGEST, key_differences

_FORMAT = "invsolve-prior-1"
SHIPPED = "invsolve.priors.trained"


@in_defined_state
def save_prior(prior: NetworkPrior, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
    """Write a prior on one of our networks with its normalisation, law and card, atomically, as safetensors.

    Parameters
    ----------
    prior : NetworkPrior
        On an `iv.priors.networks.UNet` or `NeuralOperator`, with `EDM` or `BesideLaw` predictions.
    path : str or PathLike
        Of the file, which is replaced if it exists; a name without extension gets .safetensors.
    dtype : torch.dtype, optional
        Of the weights in the file; they are read back in the prior's precision. ``torch.float16`` halves the file.

    Returns
    -------
    pathlib.Path
        The file that was written.

    Raises
    ------
    UnsupportedError
        For networks, predictions and laws that the file cannot name: save their state yourself, and load it into your
        own module.
    InputTypeError, InputError
        If ``prior`` is no NetworkPrior, ``dtype`` is not of floating point, ``path`` is no path to a file, or its name
        promises another format.
    WriteError
        If the file cannot be written.
    """
    from safetensors.torch import save

    if not isinstance(prior, NetworkPrior):
        repair = "Others are made of a few numbers: keep the lines that make them, or a pickle."
        raise invalid_type("save_prior", "prior", "a NetworkPrior", prior, repair)
    path = with_extension("save_prior", path, (".safetensors",), "safetensors")
    if dtype is not None and not dtype.is_floating_point:
        raise invalid("save_prior", "dtype", "of floating point", str(dtype))
    if not isinstance(prior.network, (UNet, NeuralOperator)) or not isinstance(prior.prediction, (EDM, BesideLaw)):
        raise UnsupportedError(
            f"save_prior: only an iv.priors.networks.UNet or NeuralOperator with EDM or BesideLaw predictions has a "
            f"file format, not {type(prior.network).__name__} with {type(prior.prediction).__name__}. Save "
            "network.state_dict()."
        )
    assert isinstance(prior.offset, Tensor) and isinstance(prior.mean, Tensor)
    tensors = {f"network.{k}": v if dtype is None else v.to(dtype) for k, v in prior.network.state_dict().items()}
    tensors |= {"offset": _real(prior.offset), "mean": _real(prior.mean)}
    about: dict[str, Any] = {
        "network": asdict(prior.network.config),
        "architecture": type(prior.network).__name__,
        "field": field_header(prior.field),
        "prediction": type(prior.prediction).__name__,
        "sigma_data": prior.prediction.sigma_data if isinstance(prior.prediction, EDM) else 1.0,
        "shape": list(prior.shape),
        "kind": prior.kind,
        "channels": prior.channels,
        "unit": prior.unit,
        "scale": prior.scale,
        "detail": prior.detail,
        "sigma_range": list(prior.sigma_range),
        "keep": prior.keep,
        "card": dict(prior.card),
        "law": None,
        "precision": str(prior.dtype).removeprefix("torch."),
    }
    if (law := prior.law) is not None and prior.field is None:  # else the field states it
        tensors |= {"law.mean": _real(law.mean), "law.variances": law.variances}
        if isinstance(law.modes, DenseModes) and law.modes.scale is None:
            about["law"] = "low rank"
            tensors["law.matrix"] = law.modes.matrix
        elif isinstance(law.modes, SpectralModes) and law.modes.colour is None:
            about["law"] = law.modes.transform.name
        else:
            raise UnsupportedError(f"save_prior: a law in {type(law.modes).__name__} has no file format.")
    plain = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    header = {"format": _FORMAT, "prior": json.dumps(about)}
    atomic_write(path, lambda file: file.write(save(plain, metadata=header)), owner="save_prior")
    return Path(path)


def read_own(path: str) -> NetworkPrior:
    """The prior in a file of `save_prior`. Raises FileError naming what is wrong with it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise FileError(
                    f"load: {path!r} is a safetensors file, but not a prior of this version of invsolve "
                    f"(format {header.get('format')!r}, expected {_FORMAT!r})."
                )
            about = json.loads(header["prior"])
            network = _empty(about, path)
            _check_keys(network, {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}, about, path)
            tensors = {k: file.get_tensor(k).clone() for k in file.keys()}
        made = _prior(about, network, tensors)
    except FileError:
        raise
    except (SafetensorError, OSError) as error:
        raise FileError(f"load: {path!r} is no safetensors file, or is cut short or damaged: {error}.") from error
    except (
        InvsolveError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        RecursionError,
        IndexError,
    ) as error:
        raise FileError(f"load: the header of {path!r} does not describe a prior: {error}") from error
    return made


def is_own(path: str) -> bool:
    """Whether the header of a safetensors file says that it is ours, of whatever version."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return "prior" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def shipped() -> tuple[str, ...]:
    """The names of the priors that come with the package, for `load`.

    Returns
    -------
    tuple of str
        In alphabetical order.
    """
    folder = resources.files(SHIPPED)
    names = (f.name for f in folder.iterdir())
    return tuple(sorted(n.removesuffix(".safetensors") for n in names if n.endswith(".safetensors")))


def path_of(name: str | os.PathLike[str]) -> str:
    """The file or folder that is meant by a path or by the name of a prior that ships."""
    if not isinstance(name, (str, os.PathLike)):
        raise invalid_type("load", "name", "the name of a prior that ships, or a path", name)
    text = os.fspath(name)
    if Path(text).is_file():
        return text
    names = shipped()
    if text in names:
        return str(resources.files(SHIPPED) / f"{text}.safetensors")
    if (named := to_be_read(text, ".safetensors")) != text:
        return str(named)
    if Path(text).is_dir():
        return text
    raise FileError(
        f"load: there is no file or folder {text!r}, and no prior of that name ships: there are "
        f"{', '.join(names) or 'none'}."
    )


def _empty(about: Mapping[str, Any], path: str) -> UNet | NeuralOperator:
    """The network without memory for its weights."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["network"].items()}
    name = about.get("architecture", "UNet")  # the first files did not say
    check_choice("load", "architecture", name, ("UNet", "NeuralOperator"))
    config = UNetConfig(**fields) if name == "UNet" else NeuralOperatorConfig(**fields)
    if isinstance(config, UNetConfig):
        deep = max(*config.blocks_of_levels, 4 * len(config.multipliers))
        largest = config.width * max(config.multipliers)
    else:
        deep, largest = config.layers, max(config.width, config.modes)
    if largest > 2**14 or deep > 64 or config.channels > 2**12:
        raise FileError(f"load: {path!r} states an absurd network: {config}.")
    with torch.device("meta"):
        network = UNet(config) if isinstance(config, UNetConfig) else NeuralOperator(config)
    if sum(p.numel() for p in network.parameters()) > LARGEST or prod(about["shape"]) > LARGEST:
        raise FileError(f"load: {path!r} states an absurd size: {config}, signals {about['shape']}.")
    return network


def _check_keys(
    network: UNet | NeuralOperator, found: Mapping[str, tuple[int, ...]], about: Mapping[str, Any], path: str
) -> None:
    shape, pair = tuple(about["shape"]), (2,) if about["kind"] == "complex" else ()
    wanted = {f"network.{k}": tuple(v.shape) for k, v in network.state_dict().items()}
    wanted |= {"mean": (*shape, *pair)}
    if about["law"] is not None:
        count = (prod(shape),) if about["law"] == "low rank" else shape
        wanted |= {"law.mean": (*shape, *pair), "law.variances": count}
    if about["law"] == "low rank":
        wanted["law.matrix"] = (prod(shape), prod(shape))
    wanted["offset"] = found.get("offset", ()) if found.get("offset") in (pair, (*shape, *pair)) else pair
    if text := key_differences(wanted, found):
        raise FileError(f"load: {path!r} does not hold the weights that its header states: {text}.")


def _prior(about: Mapping[str, Any], network: UNet | NeuralOperator, tensors: Mapping[str, Tensor]) -> NetworkPrior:
    dtype = {"float32": torch.float32, "float64": torch.float64}[about["precision"]]
    made = UNet(network.config) if isinstance(network, UNet) else NeuralOperator(network.config)
    network = made.to(dtype)
    weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    network.load_state_dict({k: check_finite("load", k, v) for k, v in weights.items()})
    shape, is_complex = tuple(about["shape"]), about["kind"] == "complex"

    def value(key: str) -> Tensor:
        t = tensors[key]
        return torch.view_as_complex(t.contiguous()) if is_complex else t

    law = None
    if about["law"] is not None:
        variances = tensors["law.variances"]
        if about["law"] == "low rank":
            modes: DenseModes | SpectralModes = DenseModes(shape=shape, matrix=tensors["law.matrix"])
        else:
            modes = SpectralModes(transform=Transform(name=about["law"], shape=shape, dtype=dtype))
        if not bool((variances >= 0).all()) or not bool(variances.isfinite().all()):
            raise invalid("load", "law.variances", "finite and non-negative", float(variances.min()))
        law = GaussianLaw(mean=value("law.mean"), modes=modes, variances=variances)
    return NetworkPrior(
        network=network.eval(),
        shape=shape,
        kind=about["kind"],
        channels=about["channels"],
        offset=value("offset"),
        unit=about["unit"],
        scale=about["scale"],
        detail=about["detail"],
        law=law,
        field=field_of(about.get("field"), dtype),
        mean=value("mean"),
        sigma_range=(about["sigma_range"][0], about["sigma_range"][1]),
        keep=about.get("keep"),
        card=about["card"],
        prediction=_prediction(about),
    )


def _prediction(about: Mapping[str, Any]) -> Prediction:
    name = about.get("prediction", "EDM")  # the first files did not say
    check_choice("load", "prediction", name, ("EDM", "BesideLaw"))
    return BesideLaw() if name == "BesideLaw" else EDM(sigma_data=about["sigma_data"])


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
