"""Tensors of weight files by name. Nothing is unpickled but tensors and plain containers, by torch's own reader."""

from __future__ import annotations

import json
import pickletools
import re
import warnings
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invsolve.errors import FileError

# What checkpoints hold the weights under: averaged ones first, as whoever trained them would sample with them.
_INSIDE = ("ema", "ema_model", "model_ema", "net", "model", "state_dict")
_WRAPPERS = ("model.", "module.", "_orig_mod.", "unet.")  # what keys begin with when the network was wrapped
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_JSON = 2**24  # bytes of a configuration
_OPCODES = 10**6  # of a pickle that are looked at to name what it asks for


def read_tensors(path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that ``torch.save`` wrote, with the names of the network alone.

    Raises FileError for files that are neither, are damaged, or need objects other than tensors to be unpickled.
    """
    with open(path, "rb") as file:
        begin = file.read(4)
    # A zip archive of torch, or a bare pickle; the length of a safetensors header begins with neither.
    tensors = _of_torch(path) if begin[:2] == b"PK" or begin[:1] == b"\x80" else _of_safetensors(path)
    while prefix := next((p for p in _WRAPPERS if tensors and all(k.startswith(p) for k in tensors)), ""):
        tensors = {k[len(prefix) :]: v for k, v in tensors.items()}
    return tensors


def read_folder(folder: Path) -> tuple[str, dict[str, Any]]:
    """The weight file of a folder of diffusers, and its configurations by the part that they belong to."""
    inner = folder / "unet" if (folder / "unet").is_dir() else folder
    weights = next((inner / n for n in _WEIGHTS if (inner / n).is_file()), None)
    if weights is None:
        shards = " (weights in several files are not)" if list(inner.glob("*.index.json")) else ""
        raise FileError(
            f"load: the folder {str(folder)!r} has no {' or '.join(_WEIGHTS)}: folders of diffusers with "
            f"an unconditional network are known{shards}."
        )
    return str(weights), {
        part: found
        for part, path in (
            ("unet", inner / "config.json"),
            ("scheduler", inner.parent / "scheduler" / "scheduler_config.json"),
        )
        if (found := _json(path)) is not None
    }


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    if path.stat().st_size > _JSON:
        raise FileError(f"load: {str(path)!r} is too large for a configuration.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"load: {str(path)!r} is no JSON: {error}.") from error
    if not isinstance(found, dict):
        raise FileError(f"load: {str(path)!r} holds no configuration.")
    return found


def _of_safetensors(path: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FileError(f"load: {path!r} is no safetensors file, or is cut short or damaged: {error}.") from error


def _of_torch(path: str) -> dict[str, Tensor]:
    try:
        # An open file: of a path, torch would look at the suffix rather than at what is inside.
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # of pickles in a protocol that torch does not write
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of torch's reader: a damaged archive ends in errors of many kinds
        # torch names what a pickle asks for, among advice to trust it; of other protocols it says nothing.
        asked = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)", str(error))
        if name := next((g for g in asked.groups() if g), "") if asked else _global(path):
            raise FileError(
                f"load: {path!r} is a pickle that asks for `{name}`, which is code: it is not opened. Whoever trusts "
                "it can convert it: torch.save(network.state_dict(), path)."
            ) from error
        words = "" if "weights_only" in str(error) else f": {str(error).splitlines()[0]}"
        raise FileError(f"load: {path!r} is no file of torch.save, or is cut short or damaged{words}.") from error
    for _ in range(2):  # {"ema": {...}}, {"state_dict": {"model": ...}}
        if isinstance(found, Mapping) and not _is_state(found):
            inner = (found[k] for k in _INSIDE if isinstance(found.get(k), Mapping))
            found = next(inner, found)
    if not isinstance(found, Mapping) or not _is_state(found):
        held = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else type(found).__name__
        raise FileError(f"load: {path!r} holds no state of a network: {held or 'nothing'}.")
    return dict(found)


def _global(path: str) -> str:
    """The first object, other than tensors and containers, that a bare pickle asks for; '' if none is found.

    The pickle is read, not run.
    """
    texts: list[str] = []
    try:
        with open(path, "rb") as file:
            for op, value, _ in islice(pickletools.genops(file), _OPCODES):
                if op.name == "GLOBAL":
                    name = str(value).replace(" ", ".")
                elif op.name == "STACK_GLOBAL":
                    name = ".".join(texts[-2:])
                else:
                    texts = [*texts[-1:], value] if isinstance(value, str) else texts
                    continue
                if not name.startswith(("collections.", "torch._utils.", "_codecs.")):
                    return name
    except Exception:  # of pickletools: not a pickle, or a damaged one
        return ""
    return ""


def _is_state(found: Mapping[Any, Any]) -> bool:
    return bool(found) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
