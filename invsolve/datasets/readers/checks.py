"""What is looked at before anything is read: that a file is a file, and that its numbers can be what it says.

Files come from elsewhere. Sizes are those that a file *declares*; they are compared with the bytes that are there, and
with a limit, before memory is asked for. Every refusal names the file, the data set and the rule.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from invsolve.errors import FileError, InvsolveError, UnsupportedError

LIMIT = 4 * 2**30  # bytes of one reading, unless the caller says another
RANK = 8
_DEFLATE = 1032  # bytes of which deflate can make one, at most
_SUSPICIOUS = 200  # ... and beyond which no measurement is compressed
_SMALL = 2**24  # bytes below which it may be all the same
_TEXT = 2**20  # of headers
_KINDS = {"f": "real", "c": "complex", "i": "whole", "u": "whole", "b": "boolean"}


@final
@dataclass(frozen=True)
class Source:
    """A file that is read, and how many bytes of it may be at once."""

    path: str
    limit: int = LIMIT
    owner: str = "iv.open"

    def refuse(self, what: str, rule: str) -> FileError:
        """What is wrong with ``what`` in the file, as an exception to be raised."""
        return FileError(f"{self.owner}: {self.path!r}, {what}: {rule}.")

    @property
    def size(self) -> int:
        """How many bytes the file has."""
        return os.stat(self.path).st_size

    def beside(self, path: str, what: str) -> Source:
        """Another file that belongs to this one by its name: in the same folder, no link that leads out of it."""
        folder = Path(os.path.realpath(self.path)).parent
        if Path(os.path.realpath(path)).parent != folder:
            raise self.refuse(what, f"{os.path.basename(path)!r} is a link that leads out of the folder")
        return regular(path, self.limit, self.owner)

    def numbers(self, what: str, shape: Sequence[int], dtype: np.dtype[Any], kinds: str = "fciub") -> int:
        """The bytes of an array that the file declares. Refuses what is no array of numbers below the limit."""
        shape = tuple(int(n) for n in shape)
        if dtype.kind not in kinds or dtype.kind not in _KINDS or dtype.itemsize > 16:
            wanted = " or ".join(dict.fromkeys(_KINDS[k] for k in kinds))
            raise self.refuse(what, f"has values of type {dtype}, where {wanted} numbers are read")
        if dtype.itemsize == 16 and dtype.kind == "f":
            raise self.refuse(what, f"has values of type {dtype}, which differs between machines")
        if len(shape) > RANK:
            raise self.refuse(what, f"has {len(shape)} axes, where at most {RANK} are read")
        if any(n < 1 for n in shape):
            raise self.refuse(what, f"has shape {shape}, without any value")
        size = math.prod(shape) * dtype.itemsize
        if size > self.limit:
            raise self.too_large(what, size)
        return size

    def too_large(self, what: str, size: int) -> FileError:
        """That something is above the limit."""
        rule = f"declares {size:,} bytes, above the limit of {self.limit:,}; {self.owner}(path, limit=...) raises it"
        return self.refuse(what, rule)

    def expansion(self, what: str, stored: int, size: int) -> None:
        """Refuse compressed bytes that cannot be, or are suspected not to be, ``size`` bytes of a measurement."""
        if size > stored * _DEFLATE + 64:
            raise self.refuse(what, f"declares {size:,} bytes, more than {stored:,} compressed ones can hold")
        if size > max(_SMALL, stored * _SUSPICIOUS):
            rule = f"expands from {stored:,} to {size:,} bytes, more than {_SUSPICIOUS} times: no measurement does"
            raise self.refuse(what, rule)

    def inflate(self, what: str, content: bytes, size: int) -> bytes:
        """What zlib's stream holds, which must be ``size`` bytes; never more are made."""
        engine = zlib.decompressobj()
        try:
            made = engine.decompress(content, size + 1)
        except zlib.error as error:
            raise self.refuse(what, f"is damaged: {error}") from error
        if len(made) != size:
            held = "more" if len(made) > size else f"{len(made):,}"
            raise self.refuse(what, f"declares {size:,} bytes where its compressed stream holds {held}")
        return made

    def read(self, what: str, offset: int, size: int) -> bytes:
        """Bytes of the file itself."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self.refuse(what, f"has bytes {offset:,} to {offset + size:,}, the file ends at {self.size:,}")
        with open(self.path, "rb") as file:
            file.seek(offset)
            found = file.read(size)
        if len(found) != size:
            raise self.refuse(what, "was cut short while it was read")
        return found

    def text(self, what: str, size: int) -> None:
        """Refuse a header that no scanner writes."""
        if size > _TEXT:
            raise self.refuse(what, f"has {size:,} bytes, where headers of at most {_TEXT:,} are read")

    @contextlib.contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """Whatever a library says of a damaged file becomes a refusal."""
        try:
            yield
        except InvsolveError:
            raise
        except (Exception, RecursionError) as error:
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise self.refuse(what, f"is damaged or not what it seems: {words}") from error


def regular(path: str | os.PathLike[str], limit: int, owner: str = "iv.open") -> Source:
    """A file that is there, and no pipe or device, which would be waited for."""
    source = Source(os.fspath(path), limit, owner)
    try:
        mode = os.stat(source.path).st_mode
    except (OSError, ValueError) as error:
        raise source.refuse("the file", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        raise source.refuse("the file", "is no regular file")
    if not os.access(source.path, os.R_OK):
        raise source.refuse("the file", "may not be read by you")
    return source


@final
class Bounded:
    """A file that gives what is there: a request of 4 GiB to a file of 1 kB makes 1 kB of memory, not 4 GiB."""

    def __init__(self, source: Source) -> None:
        self.name = source.path
        self._file = open(source.path, "rb")
        self._size, self._limit = source.size, source.limit

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self._limit:
            raise ValueError(f"an entry of {wanted:,} bytes is above the limit of {self._limit:,}")
        return self._file.read(wanted)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Bounded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def optional(package: str, format: str, owner: str = "iv.open") -> Any:
    """A package of the extra ``io``, imported where it is used."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UnsupportedError(f"{owner}: {format} needs the package {package}: pip install 'invsolve[io]'.") from error


Rows = Callable[[Sequence[int]], Any]  # reads some slices (n, ...) of a file when they are asked for
