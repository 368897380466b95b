"""Files appear whole or not at all: written beside their target, flushed to the disk, then renamed over it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from invsolve.errors import invalid, invalid_type


def atomic_write(path: str | os.PathLike[str], write: Callable[[Path], None]) -> None:
    """Make ``path`` what ``write(temporary)`` writes; an exception or a kill leaves an old file as it was.

    The temporary file lies in the same folder (a rename is atomic only within one file system) and keeps the suffix. A
    symbolic link is followed. Raises InputTypeError or InputError when ``path`` is no path, is a folder, or its folder
    is missing, before ``write`` is called.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise invalid_type("atomic_write", "path", "a path", path)
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise invalid("atomic_write", "path", "a file", f"the folder {os.fspath(path)!r}")
    if not target.parent.is_dir():
        raise invalid("atomic_write", "path", "in a folder that exists", repr(os.fspath(path)), "Make the folder.")
    # Short, so that a long name does not grow past the limit of the file system.
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(6)}{target.suffix[-20:]}")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # the user's umask applies
        write(temporary)
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the rename itself must survive a loss of power
        _flush(target.parent, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
