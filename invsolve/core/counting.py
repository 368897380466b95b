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

_open: ContextVar[tuple[Counter[str], ...]] = ContextVar("invsolve_tally", default=())  # the innermost last


def count(what: str, rows: int) -> None:
    """Add ``rows`` to the running tally, if there is one."""
    if tallies := _open.get():
        tallies[-1][what] += rows


@contextmanager
def tally() -> Iterator[Counter[str]]:
    """Collect counts; a nested tally also reports to the one around it.

    >>> with tally() as calls:
    ...     count("denoise", 4)
    >>> calls["denoise"]
    4
    """
    counter: Counter[str] = Counter()
    outer = _open.get()
    token = _open.set((*outer, counter))
    try:
        yield counter
    finally:
        _open.reset(token)
        if outer:
            outer[-1].update(counter)


def running(counter: Counter[str]) -> int:
    """All calls since a tally that is still open began, those of nested ones that are open among them."""
    tallies = _open.get()
    first = next(k for k, other in enumerate(tallies) if other is counter)
    return sum(other.total() for other in tallies[first:])
