"""Counting what a solve costs, without wrapping the objects that are counted.

`Operator` and `Prior` report each public call here with `count`; inside ``with tally() as calls:`` the reports add up,
outside they are dropped. Counts are in rows: one batched call on 8 rows is 8. They end in ``result.nfe`` and
``result.operator_calls``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[Counter[str] | None] = ContextVar("invsolve_tally", default=None)


def count(what: str, rows: int) -> None:
    """Add ``rows`` to the running tally, if there is one."""
    if (counter := _current.get()) is not None:
        counter[what] += rows


@contextmanager
def tally() -> Iterator[Counter[str]]:
    """Collect counts; a nested tally also reports to the one around it.

    >>> with tally() as calls:
    ...     count("denoise", 4)
    >>> calls["denoise"]
    4
    """
    counter: Counter[str] = Counter()
    outer = _current.get()
    token = _current.set(counter)
    try:
        yield counter
    finally:
        _current.reset(token)
        if outer is not None:
            outer.update(counter)
