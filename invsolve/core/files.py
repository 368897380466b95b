"""Files appear whole or not at all: built in memory, written beside their target, flushed, then renamed over it.

Only this module touches the disk. Libraries that write formats (HDF5 above all, which takes the process with it where a
file cannot grow) write to memory, so that a full disk is an exception like any other.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from invsolve.errors import WriteError, invalid, invalid_type

_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}
_THROUGH = (stat.S_IFIFO, stat.S_IFCHR)  # what bytes may be written to as they are


def atomic_write(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    *,
    owner: str = "atomic_write",
    durable: bool = True,
) -> None:
    """Make ``path`` what ``write(file)`` writes; an exception, a full disk or a kill leaves an old file as it was.

    ``file`` is in memory. The bytes go to a temporary file in the same folder (a rename is atomic only within one file
    system), which takes the place of ``path``. A symbolic link is followed. A file that is replaced keeps its mode and
    owner; a new one has what the umask leaves. Pipes and character devices are written to as they are. With ``durable``
    the bytes are on the disk when it returns; without it a loss of power may leave a file of other bytes, which its
    reader has to notice.

    Raises what `check_target` raises, for a caller ``owner``, before ``write`` is called; WriteError when the bytes
    cannot be written.
    """
    check_target(owner, "path", path)
    file = io.BytesIO()
    write(file)
    content = file.getbuffer()
    try:
        if _kind(path) in _THROUGH:
            _write_through(path, content)
        else:
            _replace(Path(os.path.realpath(path)), content, durable)
    except OSError as error:
        raise _unwritten(owner, path, error) from error


def check_target(owner: str, name: str, path: object, *, regular: bool = False) -> None:
    """Refuse, for a caller ``owner``, a ``path`` that could not be written, or with ``regular`` not be read back.

    Raises InputTypeError or InputError when ``path`` is no path, is a folder, a socket or a block device, or its folder
    is missing; WriteError when it is read-only.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise invalid_type(owner, name, "a path", path)
    shown = repr(os.fspath(path))
    try:
        kind = _kind(path)
        if kind == stat.S_IFDIR:
            raise invalid(owner, name, "a file", f"the folder {shown}")
        if kind in _SPECIAL and (regular or kind not in _THROUGH):
            raise invalid(owner, name, "a file", f"{_SPECIAL[kind]}, {shown}")
        if kind is None and not Path(os.path.realpath(path)).parent.is_dir():
            raise invalid(owner, name, "in a folder that exists", shown, "Make the folder.")
        # Root may write to any file: what counts is that its owner took the right to write away.
        if kind is not None and not (os.stat(path).st_mode & 0o222 and os.access(path, os.W_OK)):
            raise PermissionError(errno.EACCES, "the file is read-only")
    except OSError as error:
        raise _unwritten(owner, path, error) from error


# What files of these names hold, which nothing here writes.
_OTHER = {
    ".npz": "numpy.savez(path, samples=result.samples.cpu())",
    ".npy": "numpy.save(path, result.samples.cpu())",
    ".pt": "torch.save(result.samples, path)",
    ".pth": "torch.save(result.samples, path)",
    ".mat": "scipy.io.savemat(path, {'samples': result.samples.numpy()})",
    ".csv": "numpy.savetxt(path, result.samples.flatten(1).cpu(), delimiter=',')",
}
_NAMES = (".nc", ".h5", ".hdf5", ".json", ".safetensors", ".zarr", ".pkl", ".pickle", ".ckpt", ".txt", ".tif", ".png")


def with_extension(owner: str, path: Any, own: Sequence[str], what: str) -> Any:
    """The file that a caller ``owner`` who writes ``what`` writes: a name without extension gets the first of ``own``.

    Unless there is something of that name. One that is known to promise another format is refused; ``own`` are those
    that promise it, and those that promise nothing are taken too.
    """
    if not isinstance(path, (str, os.PathLike)):
        return path  # `check_target` says so
    extension = os.path.splitext(os.fspath(path))[1].lower()
    if not extension and os.path.basename(os.fspath(path)) and not os.path.lexists(path):
        return os.fspath(path) + own[0]
    if extension in own or extension not in (*_OTHER, *_NAMES):
        return path
    repair = f"For that: {_OTHER[extension]}." if extension in _OTHER and owner == "Result.save" else ""
    raise invalid(owner, "path", f"named {own[0]}, for it writes {what}", repr(os.fspath(path)), repair)


def to_be_read(path: Any, extension: str) -> Any:
    """The file that a reader means by a name: with the extension that `with_extension` gave it, if only that is there.

    >>> to_be_read("a name that nothing has", ".nc")
    'a name that nothing has'
    """
    if not isinstance(path, (str, os.PathLike)) or os.path.lexists(path):
        return path
    named = os.fspath(path) + extension
    return named if os.path.isfile(named) else path


def append_line(path: Path, line: str) -> None:
    """Append a line of text to a log. Raises WriteError when it cannot be."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise _unwritten("append_line", path, error) from error


def write_or_warn(write: Callable[[], None], consequence: str) -> str | None:
    """Run ``write``, whose file work in progress can do without: where it cannot be written, warn and return the words.

    ``consequence`` is a sentence: what happens now.
    """
    try:
        write()
    except WriteError as error:
        words = f"{error} {consequence}"
        warnings.warn(words, RuntimeWarning, stacklevel=3)
        return words
    return None


def _kind(path: str | os.PathLike[str]) -> int | None:
    """The type of what ``path`` leads to; None if there is nothing."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except FileNotFoundError:
        return None


def _unwritten(owner: str, path: object, error: OSError) -> WriteError:
    reason = error.strerror or str(error)
    return WriteError(f"{owner}: {str(path)!r} could not be written: {reason[:1].lower()}{reason[1:]}.")


def _replace(target: Path, content: memoryview, durable: bool) -> None:
    # Short, so that a long name does not grow past the limit of the file system.
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(6)}{target.suffix[-20:]}")
    try:
        old = target.stat()
    except FileNotFoundError:
        old = None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        # Of a new file the user's umask takes its part; one that is replaced is nobody else's before it has its mode.
        handle = os.open(temporary, flags, 0o666 if old is None else 0o600)
        try:
            if old is not None and os.name == "posix":
                with contextlib.suppress(OSError):  # of another user: only root may give files away
                    os.fchown(handle, old.st_uid, old.st_gid)
                os.fchmod(handle, stat.S_IMODE(old.st_mode))
            _write_all(handle, content)
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durable and os.name == "posix":  # the rename itself must survive a loss of power
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_through(path: str | os.PathLike[str], content: memoryview) -> None:
    """To a pipe that is being read (one that nobody reads is refused, not waited for) or a device."""
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.set_blocking(handle, True)
        _write_all(handle, content)
    finally:
        os.close(handle)


def _write_all(handle: int, content: memoryview) -> None:
    while content:
        content = content[os.write(handle, content) :]
