"""The exceptions of the package: one small hierarchy, one wording.

Every refusal names the argument, what was expected, what was given and, where one is known, the repair.
"""

from __future__ import annotations


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


class CheckpointError(InvsolveError, ValueError):
    """A checkpoint belongs to another run; the message names the difference."""


class SolveError(InvsolveError, RuntimeError):
    """A solve ended without success and ``throw=True``. ``result`` holds what was obtained, good rows included."""

    result: object = None


def invalid(owner: str, name: str, expected: str, given: object, repair: str = "") -> InputError:
    """The one wording of a refused value: ``raise invalid("solve", "noise", "positive", -1.0)``."""
    return InputError(_words(owner, name, expected, given, repair))


def invalid_type(owner: str, name: str, expected: str, given: object, repair: str = "") -> InputTypeError:
    """The one wording of a refused type; a value is named by its type, a type or dtype by itself."""
    shown = given if isinstance(given, str) else type(given).__name__
    return InputTypeError(_words(owner, name, expected, shown, repair))


def _words(owner: str, name: str, expected: str, given: object, repair: str) -> str:
    text = f"{owner}: `{name}` must be {expected}, got {given}."
    return f"{text} {repair}" if repair else text
