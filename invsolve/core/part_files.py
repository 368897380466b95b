"""Files too large for memory, written piece by piece beside their target and renamed at the end.

``x.h5`` grows as ``x.h5.part``, of its final size from the start, so that a full disk is noticed first. Behind its end
stands a line of JSON: what it is a part of, and how much is written. The same call after an interruption goes on from
there; a part of something else is refused. The target appears whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from invsolve.core.files import check_target
from invsolve.errors import FileError, WriteError, invalid

try:
    import fcntl
except ImportError:  # not on Windows: there two writers of one file are not noticed
    fcntl = None  # type: ignore[assignment]

_TRAILER = 1024  # bytes of the line behind the end


@final
@dataclass(kw_only=True, eq=False)
class PartFile:
    """What `part_file` gives: `write` pieces, then say with `reached` how many are there."""

    handle: int
    size: int
    about: Mapping[str, object]
    done: int

    def write(self, offset: int, content: bytes) -> None:
        """Put bytes at ``offset``."""
        left = memoryview(content)
        os.lseek(self.handle, offset, os.SEEK_SET)
        while left:
            left = left[os.write(self.handle, left) :]

    def reached(self, done: int) -> None:
        """All up to ``done`` is written, on the disk too."""
        os.fsync(self.handle)
        self.done = done
        line = json.dumps({**self.about, "done": done}).encode()
        self.write(self.size, line.ljust(_TRAILER))


@contextmanager
def part_file(
    path: str | os.PathLike[str], *, owner: str, head: Mapping[int, bytes], size: int, about: Mapping[str, object]
) -> Iterator[PartFile]:
    """A file of ``size`` bytes, with the bytes ``head`` at these offsets; ``about`` (JSON) says what it is to hold.

    It takes its place ``path``, which must be free, when the block ends without an exception; else the part is kept.

    Raises what `check_target` raises, InputError if ``path`` is taken or its part is of something else, FileError if
    another process writes it, WriteError if it cannot be written.
    """
    check_target(owner, "path", path, regular=True)
    target = Path(path)
    if os.path.lexists(target):
        raise invalid(owner, "path", "free", f"{str(target)!r}, which exists", "Delete it, or give another name.")
    part = target.with_name(f"{target.name}.part")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(part, flags, 0o666)
        try:
            _lock(handle, owner, part)
            file = PartFile(handle=handle, size=size, about=about, done=0)
            if os.fstat(handle).st_size:
                file.done = _found(handle, owner, part, size, about)
            else:
                _begin(file, part, head)
            yield file
            os.ftruncate(handle, size)
            os.fsync(handle)
        finally:
            os.close(handle)
        os.rename(part, target)
    except OSError as error:
        if isinstance(error, WriteError):
            raise
        reason = error.strerror or str(error)
        raise WriteError(f"{owner}: {str(part)!r} could not be written: {reason[:1].lower()}{reason[1:]}.") from error


def _begin(file: PartFile, part: Path, head: Mapping[int, bytes]) -> None:
    total = file.size + _TRAILER
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.handle, 0, total)
        else:
            os.ftruncate(file.handle, total)
        for offset, content in head.items():
            file.write(offset, content)
        file.reached(0)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _found(handle: int, owner: str, part: Path, size: int, about: Mapping[str, object]) -> int:
    """How much of the part that is there is written."""
    repair = "Give its arguments to go on with it, or delete it."
    wanted = f"without a part of other data beside it ({about})"
    shown = repr(str(part))
    length = os.fstat(handle).st_size
    os.lseek(handle, max(length - _TRAILER, 0), os.SEEK_SET)
    try:
        held = json.loads(os.read(handle, _TRAILER))
        done = held.pop("done")
    except (ValueError, AttributeError, KeyError, TypeError):
        raise invalid(owner, "path", wanted, f"{shown}, which is damaged or no part", repair) from None
    same = held == json.loads(json.dumps(dict(about))) and length == size + _TRAILER
    if not same or type(done) is not int or done < 0:
        raise invalid(owner, "path", wanted, f"{shown} of {held}", repair)
    return done


def _lock(handle: int, owner: str, part: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileError(f"{owner}: {str(part)!r} is being written by another process.") from None
