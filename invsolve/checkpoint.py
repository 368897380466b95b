"""Checkpoints: the state of a run as safetensors with JSON beside it, restored bit for bit; nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from invsolve.checks import check_int, check_positive
from invsolve.errors import CheckpointError, FileError, invalid, invalid_type
from invsolve.files import atomic_write

_FORMAT = "invsolve-checkpoint-1"
_COMPLEX = {"complex64": torch.complex64, "complex128": torch.complex128}
State = TypeVar("State")


@final
@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where and how often `solve` writes its state: after ``every_steps`` steps or ``every_seconds`` > 0 seconds.

    Whichever comes first; None switches one of them off, not both. A run that finds its own checkpoint goes on from it.
    """

    path: str | os.PathLike[str]
    every_steps: int | None = None
    every_seconds: float | None = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, (str, os.PathLike)):
            raise invalid_type("Checkpoint", "path", "a path", self.path)
        if self.every_steps is None and self.every_seconds is None:
            raise invalid("Checkpoint", "every_steps", "given, or `every_seconds`", "None for both")
        if self.every_steps is not None:
            check_int("Checkpoint", "every_steps", self.every_steps, minimum=1)
        if self.every_seconds is not None:
            check_positive("Checkpoint", "every_seconds", self.every_seconds)

    def due(self, steps: int, seconds: float) -> bool:
        """Is it time to write, ``steps`` and ``seconds`` after the last time?

        >>> Checkpoint(path="run.ckpt", every_steps=10).due(9, 31.0)
        True
        """
        by_steps = self.every_steps is not None and steps >= self.every_steps
        return by_steps or (self.every_seconds is not None and seconds >= self.every_seconds)


def save_state(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write named tensors of any dtype and shape, and ``meta`` (what JSON can hold), atomically."""
    from safetensors.torch import save_file

    try:
        text = json.dumps(dict(meta))
    except (TypeError, ValueError) as error:
        raise invalid_type("save_state", "meta", "what JSON can hold", str(error)) from error
    plain: dict[str, Tensor] = {}
    complex_names: dict[str, str] = {}
    for name, value in tensors.items():
        host = value.detach().cpu().resolve_conj().resolve_neg()
        if host.is_complex():  # not every release of safetensors knows both complex dtypes
            complex_names[name] = str(host.dtype).removeprefix("torch.")
            host = torch.view_as_real(host)
        # A copy where memory is shared with another tensor: safetensors refuses to write it twice.
        plain[name] = host.clone(memory_format=torch.contiguous_format)
    header = {"format": _FORMAT, "meta": text, "complex": json.dumps(complex_names)}
    atomic_write(path, lambda temporary: save_file(plain, temporary, metadata=header))


def load_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and meta of a file of `save_state`. FileError says what is wrong with any other file."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileError(f"load_state: there is no file {name!r}.")
    try:
        with safe_open(name, framework="pt") as file:  # checks header, offsets and length before any tensor is read
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise FileError(f"load_state: {name!r} is a safetensors file, but not a checkpoint of this version of "
                                f"invsolve (format {header.get('format')!r}, expected {_FORMAT!r}).")
            # Copies: the tensors of an open file are views of a mapping that would fault if the file shrank.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}
        meta, complex_names = json.loads(header["meta"]), json.loads(header["complex"])
        if not isinstance(meta, dict):
            raise ValueError("its meta is not a mapping")
        for key, dtype in complex_names.items():
            tensors[key] = torch.view_as_complex(tensors[key]).to(_COMPLEX[dtype])
    except FileError:
        raise
    except (SafetensorError, OSError) as error:
        raise FileError(f"load_state: {name!r} is no checkpoint, or is cut short or damaged: {error}.") from error
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise FileError(f"load_state: the header of the checkpoint {name!r} is damaged: {error}.") from error
    return tensors, meta


def flatten_state(state: object, prefix: str = "state") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state, and its other leaves, by path: ``state.x``, ``state.past.0``, ...

    A state is a tensor, None, a bool, int, float or str, or a dataclass, tuple, list or str-keyed dict of states. The
    second mapping is what JSON can hold: put it into ``meta``.
    """
    tensors: dict[str, Tensor] = {}
    leaves: dict[str, Any] = {}
    _flatten(state, prefix, tensors, leaves)
    return tensors, leaves


def _flatten(state: object, path: str, tensors: dict[str, Tensor], leaves: dict[str, Any]) -> None:
    if isinstance(state, Tensor):
        tensors[path] = state
    elif state is None or type(state) in (bool, int, float, str):
        leaves[path] = state
    elif (children := _children(state)) is not None:
        leaves[path] = f"{type(state).__name__} of {len(children)}"  # the structure, compared on the way back
        for key, child in children.items():
            _flatten(child, f"{path}.{key}", tensors, leaves)
    else:
        raise invalid_type("flatten_state", path, "a tensor, number, string, None, dataclass, tuple, list or dict", state)


def _children(state: object) -> dict[str, Any] | None:
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.init}
    if isinstance(state, (tuple, list)):
        return {str(i): child for i, child in enumerate(state)}
    if isinstance(state, dict) and all(isinstance(key, str) for key in state):
        return dict(state)
    return None


def fill_state(
    template: State, tensors: Mapping[str, Tensor], leaves: Mapping[str, Any], prefix: str = "state"
) -> State:
    """A state of the structure of ``template`` with the values of `flatten_state`, on the template's devices.

    Raises CheckpointError naming the first entry that is missing or of another structure, shape or dtype.
    """
    filled: State = _fill(template, prefix, tensors, leaves)
    return filled


def _fill(template: Any, path: str, tensors: Mapping[str, Tensor], leaves: Mapping[str, Any]) -> Any:
    if isinstance(template, Tensor):
        found = tensors.get(path)
        if found is None:
            raise CheckpointError(f"checkpoint: `{path}` must be a tensor, got none in the file.")
        want, have = (tuple(template.shape), template.dtype), (tuple(found.shape), found.dtype)
        if want != have:
            raise CheckpointError(f"checkpoint: `{path}` must be of shape {want[0]} and {want[1]}, got {have[0]} and {have[1]}.")
        return found.to(template.device, copy=True)
    if path not in leaves:
        given = "a tensor" if path in tensors else "nothing"
        raise CheckpointError(f"checkpoint: `{path}` must be a {type(template).__name__}, got {given} in the file.")
    found_leaf = leaves[path]
    if (children := _children(template)) is not None:
        want_text = f"{type(template).__name__} of {len(children)}"
        if found_leaf != want_text:
            raise CheckpointError(f"checkpoint: `{path}` must be a {want_text}, got {found_leaf!r} in the file.")
        values = {key: _fill(child, f"{path}.{key}", tensors, leaves) for key, child in children.items()}
        if isinstance(template, dict):
            return values
        if isinstance(template, tuple) and hasattr(template, "_fields"):  # a named tuple
            return type(template)(*values.values())
        if isinstance(template, (tuple, list)):
            return type(template)(values.values())
        return dataclasses.replace(template, **values)
    if type(found_leaf) is not type(template):
        raise CheckpointError(f"checkpoint: `{path}` must be a {type(template).__name__}, got {found_leaf!r} in the file.")
    return found_leaf


def check_fingerprint(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise CheckpointError naming the entries (y, operator, noise, prior, ...) in which a checkpoint is another run's."""
    names = [*expected, *(name for name in found if name not in expected)]
    different = [name for name in names if found.get(name) != expected.get(name)]
    if different:
        shown = "; ".join(f"{n}: {found.get(n, 'absent')} in the file, {expected.get(n, 'absent')} now" for n in different)
        raise CheckpointError(
            f"checkpoint: `{'`, `'.join(different)}` must be those of the run that wrote the file, got others ({shown}). "
            "Give the same arguments to go on with that run, or another path (or delete the file) to start anew."
        )
