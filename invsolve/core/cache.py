"""A folder of tensors that can be made anew: found by a key, checked before they are used, limited in size.

It is that of the platform for such files, or what the environment variable ``INVSOLVE_CACHE`` says: a folder, or "off".
A file is never trusted: what is not of exactly the sizes that are asked for, or was changed, counts as missing and is
written again. Files appear whole (`core.files`), so that any number of processes may use the folder at once. Where it
cannot be read or written, nothing is lost but time, and nothing is said.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.files import atomic_write
from invsolve.errors import InvsolveError

LIMIT = 2**31  # bytes of all files together
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.int32: "I32", torch.int64: "I64"}
_HEADER = 4096  # bytes that a file has beside its tensors, at most
_OURS = re.compile(r"\.?[a-z]+-[0-9a-f]{20}(\.[0-9a-f]{12})?\.safetensors")
_LEFT = 3600.0  # seconds after which a temporary file is what a process that ended has left
Layout = Mapping[str, tuple[torch.dtype, int]]  # name to precision and number of entries: vectors only


def folder() -> Path | None:
    """Where the files are; None where nothing is kept."""
    said = os.environ.get("INVSOLVE_CACHE")
    if said is not None:
        if said.strip().lower() in ("", "0", "off"):
            return None
    try:
        if said is not None:
            return Path(said).expanduser()
        home = Path.home()
    except RuntimeError:  # no such user
        return None
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "invsolve"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "invsolve" / "Cache"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else home / ".cache") / "invsolve"


@final
@dataclass(frozen=True, kw_only=True)
class Kept:
    """One file of the folder: tensors of a ``kind`` (letters) under a ``key`` (20 hexadecimal digits).

    A process writes ``MOST`` files at most: many operators of one run (a scalar that is inferred) are not met again.
    """

    MOST: ClassVar[int] = 16
    written: ClassVar[int] = 0

    kind: str
    key: str
    limit: int = LIMIT

    @property
    def path(self) -> Path | None:
        where = folder()
        return None if where is None else where / f"{self.kind}-{self.key}.safetensors"

    def read(self, layout: Layout) -> dict[str, Tensor] | None:
        """The tensors, if the file holds these and nothing else, undamaged; None otherwise."""
        path = self.path
        if path is None:
            return None
        size = sum(dtype.itemsize * count for dtype, count in layout.values())
        try:
            if not path.is_file():  # to open a pipe is to wait for whoever writes into it
                return None
            with open(path, "rb") as file:
                length = os.fstat(file.fileno()).st_size
                if not size < length <= size + _HEADER:
                    return None
                content = np.empty(length, dtype=np.uint8)
                if file.readinto(content.data) != length:
                    return None
            found = _parsed(content, {**layout, "check": (torch.int64, 1)})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # not there, no rights, another format
            return None
        if not torch.equal(found.pop("check"), _check(found)):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # when it was used: the oldest go first
        return found

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep vectors, and remove files of ours that were not used for the longest, until all are within the limit."""
        path, size = self.path, sum(t.nbytes for t in tensors.values())
        if path is None or size + _HEADER > self.limit or Kept.written >= Kept.MOST:
            return
        Kept.written += 1
        with contextlib.suppress(OSError, InvsolveError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
            content["check"] = _check(content)
            atomic_write(path, lambda file: _put(file, content), durable=False)
            self._shrink(path.parent)

    def _shrink(self, where: Path) -> None:
        files = []
        for path in where.iterdir():
            if _OURS.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    state = path.stat()
                    files.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in files)
        for used, size, path in sorted(files, key=lambda f: f[0]):
            left = path.name.startswith(".") and used < time.time() - _LEFT
            if total > self.limit or left:
                total -= size
                path.unlink(missing_ok=True)


def _put(file: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """Write vectors as safetensors: the length of the header, the header as JSON, the numbers; the widest first."""
    header, end = {}, 0
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    for name, t in ordered:
        header[name] = {"dtype": _DTYPES[t.dtype], "shape": [len(t)], "data_offsets": [end, end + t.nbytes]}
        end += t.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, t in ordered:
        file.write(t.numpy().data)


def _parsed(content: np.ndarray[Any, np.dtype[np.uint8]], layout: Layout) -> dict[str, Tensor]:
    """The vectors of a safetensors file, where they lie; ValueError, KeyError or TypeError if it is no such file."""
    begin = 8 + int.from_bytes(content[:8].tobytes(), "little")
    if begin + sum(dtype.itemsize * count for dtype, count in layout.values()) != len(content):
        raise ValueError("the size of the file")
    header = json.loads(content[8:begin].tobytes())
    found = {}
    for name, (dtype, count) in layout.items():
        first, last = header[name]["data_offsets"]
        if header[name] != {"dtype": _DTYPES[dtype], "shape": [count], "data_offsets": [first, last]}:
            raise ValueError(name)
        part = content[begin + first : begin + last]
        if first < 0 or len(part) != count * dtype.itemsize or (begin + first) % dtype.itemsize:
            raise ValueError(name)
        found[name] = torch.from_numpy(part).view(dtype)
    return found


def _check(tensors: Mapping[str, Tensor]) -> Tensor:
    """A check sum of names and contents: against damage, not against malice."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.numpy().data, zlib.crc32(name.encode(), value))
    return torch.tensor([value], dtype=torch.int64, device="cpu")
