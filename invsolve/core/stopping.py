"""Work in one piece that a budget ends: it asks now and then, and whoever began it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_over: ContextVar[Callable[[], bool] | None] = ContextVar("invsolve_stopping", default=None)


class OutOfTime(Exception):  # noqa: N818  # no fault: who ends the work catches it
    """Work was ended by `ended_by`."""


@contextmanager
def ended_by(over: Callable[[], bool]) -> Iterator[None]:
    """End the work inside, by `OutOfTime`, as soon as it asks and this is over.

    >>> with ended_by(lambda: False):
    ...     ask()
    """
    token = _over.set(over)
    try:
        yield
    finally:
        _over.reset(token)


def ask() -> None:
    """Raise `OutOfTime` if the work is over."""
    over = _over.get()
    if over is not None and over():
        raise OutOfTime
