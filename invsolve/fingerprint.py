"""Content hashes of the frozen objects a run is made of: equal content, equal text, whatever the process."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def fingerprint(value: object) -> str:
    """A short hash of a value: numbers, strings, tensors, arrays, containers, dataclasses, modules and functions.

    A function counts by its qualified name, code and closure; an object with a ``fingerprint()`` of its own by that.
    """
    digest = hashlib.blake2b(digest_size=10)
    _feed(digest, value, top=True)
    return digest.hexdigest()


def _feed(digest: Any, value: object, *, top: bool = False) -> None:
    digest.update(type(value).__qualname__.encode())
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        digest.update(repr(value).encode())
    elif isinstance(value, enum.Enum):
        digest.update(value.name.encode())
    elif isinstance(value, Tensor):
        host = value.detach().cpu()
        if host.layout != torch.strided:
            host = host.to_dense()
        digest.update(f"{tuple(host.shape)}{host.dtype}".encode())
        digest.update(host.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if host.numel() else b"")
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.shape}{value.dtype}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _feed(digest, item)
    elif isinstance(value, torch.nn.Module):
        _feed(digest, {k: v for k, v in value.state_dict().items()})
    elif not top and callable(own := getattr(value, "fingerprint", None)):
        digest.update(str(own()).encode())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            digest.update(item.name.encode())
            _feed(digest, getattr(value, item.name))
    elif callable(value) and hasattr(value, "__code__"):
        digest.update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}".encode())
        digest.update(value.__code__.co_code)
        _feed(digest, [c for c in value.__code__.co_consts if isinstance(c, (int, float, str))])
        for cell in getattr(value, "__closure__", None) or ():
            _feed(digest, cell.cell_contents)
    elif hasattr(value, "__dict__"):
        _feed(digest, {k: v for k, v in vars(value).items() if not k.startswith("__")})
    else:
        digest.update(repr(value).encode())
