"""Checkpoints: the state of a run as safetensors with JSON beside it, restored bit for bit; nothing is unpickled.

`Checkpoint` is what a user gives. A run turns its state (dataclasses of tensors and numbers) into named tensors with
`flatten_state`, writes them with `save_state`, and comes back through `load_state`, `check_fingerprint` (is it this
run's?) and `fill_state`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from invsolve.core.files import atomic_write
from invsolve.core.validation import check_int, check_positive
from invsolve.errors import CheckpointError, FileError, invalid, invalid_type

# A run is recognised by fingerprints, which hash the names of modules. So the number grows when modules move: a
# checkpoint of before would be taken for one of another run.
_FORMAT = "invsolve-checkpoint-2"
_EARLIER = ("invsolve-checkpoint-1",)
_COMPLEX = {"complex64": torch.complex64, "complex128": torch.complex128}
_NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
_KINDS = "a tensor, bool, float, int of 64 bits, None, or a dataclass, tuple, list or dict of such"
State = TypeVar("State")


@final
@dataclass(frozen=True)
class Checkpoint:
    """Where and how often `solve` writes its state; a run that finds its own checkpoint goes on from it.

    Parameters
    ----------
    path : str or path
        The file.
    every_steps : int, optional
        Write after so many steps, >= 1; None (the default): whatever their number.
    every_seconds : float, optional
        Write after so many seconds, > 0; 30 by default. Whichever comes first; None switches one of them off, not both.

    Raises
    ------
    InputError, InputTypeError
        If an option is out of its range, or both are None.

    Examples
    --------
    >>> Checkpoint("run.ckpt", every_steps=10)
    Checkpoint(path='run.ckpt', every_steps=10, every_seconds=30.0)
    """

    path: str | os.PathLike[str]
    _: KW_ONLY
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
        """True when it is time to write, ``steps`` and ``seconds`` after the last time.

        >>> Checkpoint("run.ckpt", every_steps=10).due(9, 31.0)
        True
        """
        by_steps = self.every_steps is not None and steps >= self.every_steps
        return by_steps or (self.every_seconds is not None and seconds >= self.every_seconds)


def save_state(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write named tensors of any dtype and shape, and ``meta`` (what JSON can hold), atomically."""
    from safetensors.torch import save

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
    atomic_write(path, lambda file: file.write(save(plain, metadata=header)), owner="checkpoint")


def load_state(path: str | os.PathLike[str], *, meta_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU; none where they are not wanted) and meta of a file of `save_state`.

    Raises FileError, which says what is wrong, for any other file, and for one of an earlier format.
    """
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileError(f"load_state: there is no file {name!r}.")
    try:
        with safe_open(name, framework="pt") as file:  # checks header, offsets and length before any tensor is read
            header = file.metadata() or {}
            if header.get("format") in _EARLIER:
                raise FileError(
                    f"load_state: the checkpoint {name!r} was written by an earlier layout of invsolve (format "
                    f"{header['format']!r}, now {_FORMAT!r}), whose modules had other names, so that it cannot be told "
                    "which run it belongs to. Start anew (another path, or delete the file), or go on with the version "
                    "of invsolve that wrote it."
                )
            if header.get("format") != _FORMAT:
                raise FileError(
                    f"load_state: {name!r} is a safetensors file, but not a checkpoint of this version of "
                    f"invsolve (format {header.get('format')!r}, expected {_FORMAT!r})."
                )
            # Copies: the tensors of an open file are views of a mapping that would fault if the file shrank.
            tensors = {} if meta_only else {key: file.get_tensor(key).clone() for key in file.keys()}
        meta, complex_names = json.loads(header["meta"]), json.loads(header["complex"])
        if not isinstance(meta, dict):
            raise ValueError("its meta is not a mapping")
        for key, dtype in ({} if meta_only else complex_names).items():
            tensors[key] = torch.view_as_complex(tensors[key]).to(_COMPLEX[dtype])
    except FileError:
        raise
    except (SafetensorError, OSError) as error:
        raise FileError(f"load_state: {name!r} is no checkpoint, or is cut short or damaged: {error}.") from error
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError) as error:
        raise FileError(f"load_state: the header of the checkpoint {name!r} is damaged: {error}.") from error
    return tensors, meta


def flatten_state(state: object, prefix: str = "state") -> dict[str, Tensor]:
    """The leaves of a state as tensors, by path: ``state.x``, ``state.past.0``, ...

    A state is a tensor, None, a bool, a float, an int of 64 bits, or a dataclass, tuple, list or str-keyed dict of it.
    Numbers become 0-d tensors of int64, float64 or bool, which hold them exactly; None leaves nothing.
    """
    tensors: dict[str, Tensor] = {}
    _flatten(state, prefix, tensors)
    return tensors


def _flatten(state: object, path: str, tensors: dict[str, Tensor]) -> None:
    if isinstance(state, Tensor):
        tensors[path] = state
    elif type(state) in _NUMBERS and (type(state) is not int or -(2**63) <= state < 2**63):
        tensors[path] = torch.tensor(state, dtype=_NUMBERS[type(state)], device="cpu")
    elif (children := _children(state)) is not None:
        for key, child in children.items():
            _flatten(child, f"{path}.{key}", tensors)
    elif state is not None:
        raise invalid_type("flatten_state", path, _KINDS, type(state).__name__)


def _children(state: object) -> dict[str, Any] | None:
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return {f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.init}
    if isinstance(state, (tuple, list)):
        return {str(i): child for i, child in enumerate(state)}
    if isinstance(state, dict) and all(isinstance(key, str) for key in state):
        return dict(state)
    return None


def fill_state(template: State, tensors: Mapping[str, Tensor], prefix: str = "state") -> State:
    """A state of the structure of ``template`` with the values of `flatten_state`, on the template's devices.

    Raises CheckpointError naming the first entry that is missing, left over, or of another shape or dtype.
    """
    used: set[str] = set()
    filled: State = _fill(template, prefix, tensors, used)
    left = sorted(k for k in tensors if (k == prefix or k.startswith(f"{prefix}.")) and k not in used)
    if left:
        raise CheckpointError(f"checkpoint: `{left[0]}` must be absent, as in this state, got a tensor in the file.")
    return filled


def _fill(template: Any, path: str, tensors: Mapping[str, Tensor], used: set[str]) -> Any:
    if template is None:
        return None
    if isinstance(template, Tensor) or type(template) in _NUMBERS:
        like = (
            template if isinstance(template, Tensor) else torch.empty((), dtype=_NUMBERS[type(template)], device="cpu")
        )
        want = f"a tensor of shape {tuple(like.shape)} and {like.dtype}"
        if (found := tensors.get(path)) is None:
            raise CheckpointError(f"checkpoint: `{path}` must be {want}, got none in the file.")
        if found.shape != like.shape or found.dtype != like.dtype:
            raise CheckpointError(f"checkpoint: `{path}` must be {want}, got {tuple(found.shape)} and {found.dtype}.")
        used.add(path)
        return found.to(like.device, copy=True) if like is template else found.item()
    if (children := _children(template)) is None:
        raise invalid_type("fill_state", path, _KINDS, type(template).__name__)
    values = {key: _fill(child, f"{path}.{key}", tensors, used) for key, child in children.items()}
    if isinstance(template, dict):
        return values
    if isinstance(template, tuple) and hasattr(template, "_fields"):  # a named tuple
        return type(template)(*values.values())
    if isinstance(template, (tuple, list)):
        return type(template)(values.values())
    return dataclasses.replace(template, **values)


def check_fingerprint(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise CheckpointError naming the entries (y, operator, prior, ...) in which a checkpoint is another run's."""
    names = [*expected, *(name for name in found if name not in expected)]
    different = [name for name in names if found.get(name) != expected.get(name)]
    if different:
        named = ", ".join(f"`{name}`" for name in different)
        pairs = [(name, found.get(name, "absent"), expected.get(name, "absent")) for name in different]
        shown = "; ".join(f"{name}: {old} in the file, {new} now" for name, old, new in pairs)
        raise CheckpointError(
            f"checkpoint: {named} must be as in the run that wrote the file, got other values ({shown}). "
            "Give the same arguments to go on with that run, or another path (or delete the file) to start anew."
        )
