"""Content hashes of the frozen objects a run is made of: equal content, equal text, whatever the process.

A checkpoint holds the fingerprints of operator, noise, prior, strategy and data: a run goes on from it only where all
of them are the same. Functions and classes count by the names of their modules too; see `checkpoint` for what that
means when a module moves.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_PLAIN = (bool, int, float, complex, str, bytes, Tensor, np.ndarray)


def fingerprint(value: object) -> str:
    """A short hash of a value: numbers, strings, tensors, arrays, containers, dataclasses, modules and functions.

    A function counts by its qualified name, code, defaults and closure, and by the numbers, strings and arrays among
    the globals that it names; an object with a ``fingerprint()`` of its own by that. Fields of a dataclass that are not
    arguments of its constructor are derived from those that are, and do not count.
    """
    digest = hashlib.blake2b(digest_size=10)
    _feed(digest, value, top=True, inside=())
    return digest.hexdigest()


def _feed(digest: Any, value: object, *, inside: tuple[int, ...], top: bool = False) -> None:
    """Feed a value as its type and a list of parts; every text is preceded by its length, every list closed."""
    _text(digest, type(value).__qualname__)
    if id(value) in inside:  # a function that names itself, a container in itself
        _text(digest, f"the one {len(inside) - inside.index(id(value))} levels up")
    else:
        for part in _parts(value, top):
            if isinstance(part, _Text):
                _text(digest, part.text)
            else:
                _feed(digest, part, inside=(*inside, id(value)))
    digest.update(b"|")


def _text(digest: Any, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    digest.update(len(data).to_bytes(8, "big"))
    digest.update(data)


@dataclasses.dataclass(frozen=True)
class _Text:
    """A part that is hashed as it stands."""

    text: str | bytes


def _parts(value: Any, top: bool) -> Iterator[object]:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield _Text(repr(value))
    elif isinstance(value, enum.Enum):
        yield _Text(value.name)
    elif isinstance(value, Tensor):
        yield from _tensor_parts(value.detach())
    elif isinstance(value, np.ndarray):
        yield _Text(f"{value.shape}{value.dtype}")
        yield value.tolist() if value.dtype.hasobject else _Text(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from (key, value[key])
    elif isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, (set, frozenset)):
        yield from sorted(value, key=repr)
    elif isinstance(value, type):
        yield _Text(f"{value.__module__}.{value.__qualname__}")
    elif isinstance(value, torch.nn.Module):
        yield _Text(_ADDRESS.sub("", repr(value)))
        yield dict(value.state_dict())
    elif not top and callable(own := getattr(value, "fingerprint", None)):
        yield _Text(str(own()))
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            if item.init:
                yield _Text(item.name)
                yield getattr(value, item.name)
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, FunctionType):
        yield from _function_parts(value)
    elif isinstance(value, CodeType):
        yield from _code_parts(value)
    elif isinstance(value, ModuleType):
        yield _Text(value.__name__)
    elif callable(value) and (name := getattr(value, "__qualname__", getattr(value, "__name__", ""))):
        yield _Text(f"{value.__module__}.{name}")  # a function of C, or one that wraps another
        yield from (getattr(value, "__wrapped__", None), _attributes(value))
    elif hasattr(value, "__dict__") or hasattr(value, "__slots__"):
        yield _attributes(value)
    else:
        yield _Text(_ADDRESS.sub("", repr(value)))


def _attributes(value: object) -> dict[str, object]:
    slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = {name for some in slots for name in ((some,) if isinstance(some, str) else some)}
    names |= set(getattr(value, "__dict__", ()))
    return {name: getattr(value, name) for name in names if not name.startswith("__") and hasattr(value, name)}


def _tensor_parts(value: Tensor) -> Iterator[object]:
    yield _Text(f"{tuple(value.shape)}{value.dtype}{value.layout}")
    if value.layout == torch.sparse_csr:
        yield from (value.crow_indices(), value.col_indices(), value.values())
    elif value.layout == torch.sparse_coo:
        whole = value.coalesce()
        yield from (whole.indices(), whole.values())
    elif value.numel():
        host = value.to_dense() if value.layout != torch.strided else value
        host = host.cpu().resolve_conj().resolve_neg().contiguous()
        yield _Text(host.reshape(-1).view(torch.uint8).numpy().tobytes())


def _function_parts(value: FunctionType) -> Iterator[object]:
    yield _Text(f"{value.__module__}.{value.__qualname__}")
    yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
    for cell in value.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a name that has no value yet
            yield None
    for name in _names(value.__code__):
        if isinstance(plain := value.__globals__.get(name), _PLAIN):
            yield from (name, plain)


def _code_parts(code: CodeType) -> Iterator[object]:
    yield _Text(code.co_code)
    yield from (code.co_names, code.co_varnames, code.co_freevars)
    yield from code.co_consts  # code of inner functions included


def _names(code: CodeType) -> list[str]:
    """The names that a function's code and the functions inside it mention, sorted."""
    inner = [name for const in code.co_consts if isinstance(const, CodeType) for name in _names(const)]
    return sorted({*code.co_names, *inner})
