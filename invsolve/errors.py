"""The exceptions of the package: one small hierarchy, one wording.

Every refusal names the argument, what was expected, what was given and, where one is known, the repair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InvsolveError(Exception):
    """Base of every exception that the package raises on purpose."""


class InputError(InvsolveError, ValueError):
    """An argument has the right type and a wrong value: shape, range, NaN, unknown name."""


class InputTypeError(InvsolveError, TypeError):
    """An argument has the wrong type or dtype."""


class UnsupportedError(InvsolveError, ValueError):
    """The operator, noise or prior cannot give what the strategy needs; the message says which would do."""


class OperatorError(InvsolveError, ValueError):
    """An operator does not keep its contract (adjoint, shapes, linearity)."""


class FileError(InvsolveError, ValueError):
    """A file is not what its name promises; nothing of it was used."""


class WriteError(FileError, OSError):
    """A file could not be written: the disk is full, it is read-only, ... What was there before is as it was."""


class CheckpointError(InvsolveError, ValueError):
    """A checkpoint belongs to another run; the message names the difference."""


class SolveError(InvsolveError, RuntimeError):
    """A solve ended without success and ``throw=True``. ``result`` holds what was obtained, good rows included."""

    result: object = None


@contextmanager
def on_interrupt(words: Callable[[], str], *, unless_said: bool = False) -> Iterator[None]:
    """A Ctrl-C inside ends in one line that says what was saved and how to go on; it stays a KeyboardInterrupt.

    Parameters
    ----------
    words : callable
        Gives the line.
    unless_said : bool
        Leave a line that something inside has said; False by default.

    Yields
    ------
    None
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if not (error.args and unless_said):
            error.args = (words(),)
        raise


def invalid(owner: str, name: str, expected: str, given: object, repair: str = "") -> InputError:
    """The one wording of a refused value, as an exception to be raised.

    Parameters
    ----------
    owner : str
        Who refuses: a public function or class.
    name : str
        The argument.
    expected : str
        What it must be, after "must be".
    given : object
        What it was, as it is to be printed.
    repair : str
        The likely repair, a sentence; none by default.

    Returns
    -------
    InputError

    Examples
    --------
    >>> raise invalid("solve", "noise", "positive", -1.0)
    Traceback (most recent call last):
    invsolve.errors.InputError: solve: `noise` must be positive, got -1.0.
    """
    return InputError(_words(owner, name, expected, given, repair))


def invalid_type(owner: str, name: str, expected: str, given: object, repair: str = "") -> InputTypeError:
    """The one wording of a refused type, as an exception to be raised.

    Parameters
    ----------
    owner : str
        Who refuses: a public function or class.
    name : str
        The argument.
    expected : str
        What it must be, after "must be".
    given : object
        What it was: a value is named by its type, a string (a type, a dtype) by itself.
    repair : str
        The likely repair, a sentence; none by default.

    Returns
    -------
    InputTypeError
    """
    shown = given if isinstance(given, str) else type(given).__name__
    if callable(misplaced := getattr(given, "_misplaced", None)):  # a distribution, in the place of a number
        repair = misplaced(owner, name) or repair
    return InputTypeError(_words(owner, name, expected, shown, repair))


def _words(owner: str, name: str, expected: str, given: object, repair: str) -> str:
    text = f"{owner}: `{name}` must be {expected}, got {given}."
    return f"{text} {repair}" if repair else text
