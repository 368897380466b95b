"""Progress meters: what `solve` reports to while it runs. The default is silence; ``progress=True`` shows a bar.

A meter of your own subclasses `Progress`.
"""

from __future__ import annotations

import abc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, TextIO, final

from invsolve.core.public_names import found_later
from invsolve.core.validation import check_positive, quoted
from invsolve.errors import UnsupportedError, invalid_type


class Progress(abc.ABC):
    """What a progress meter does: ``init`` once, ``step`` after steps, ``close`` always, exceptions included.

    An exception raised in ``step`` ends the solve.
    """

    @abc.abstractmethod
    def init(self, total: int) -> None:
        """The run begins; ``total`` steps are expected."""

    def expect(self, seconds: float) -> None:  # noqa: B027  # meters of users need not know of it
        """Told after ``init`` how long the run will take, about, where that is known; ignored unless overridden."""

    @abc.abstractmethod
    def step(self, done: int, total: int) -> None:
        """``done`` of ``total`` steps are done: it may start above 0 (a resumed run), and ``total`` may grow."""

    @abc.abstractmethod
    def close(self) -> None:
        """The run has ended, or failed."""


@contextmanager
def metered(progress: Progress, total: int) -> Iterator[Callable[[int, int], None]]:
    """A meter for the body of a ``with``: ``init`` now, ``close`` at the end whatever happens.

    Parameters
    ----------
    progress : Progress
        The meter.
    total : int
        Steps that are expected.

    Yields
    ------
    callable
        ``progress.step``, called with (done, total).

    Examples
    --------
    >>> with metered(NoProgress(), 10) as step:
    ...     step(1, 10)
    """
    try:
        progress.init(total)
        yield progress.step
    finally:
        progress.close()


def as_progress(owner: str, progress: object) -> Progress:
    """A meter, from what `solve` takes for one.

    Parameters
    ----------
    owner : str
        Who asks, for the message.
    progress : Progress, bool or None
        A meter; True for the bar of tqdm, or lines of text where tqdm is not installed; False or None for silence.

    Returns
    -------
    Progress

    Raises
    ------
    InputTypeError
        If it is none of these.
    """
    if isinstance(progress, Progress):
        return progress
    if progress is None or progress is False:
        return NoProgress()
    if progress is True:
        return TextProgress() if find_spec("tqdm") is None else TqdmProgress()
    raise invalid_type(owner, "progress", "True, False or an iv.progress meter", quoted(progress))


@final
class NoProgress(Progress):
    """Says nothing."""

    def init(self, total: int) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def close(self) -> None:
        pass


@final
class TextProgress(Progress):
    """Lines of text: one per ``min_interval`` seconds, and the last.

    A stream that is closed or broken silences the meter; it does not end the solve.

    Parameters
    ----------
    stream : text file, optional
        Where to; standard error by default.
    min_interval : float
        Seconds between lines, >= 0.
    clock : callable
        Gives seconds.

    Raises
    ------
    InputError, InputTypeError
        If ``min_interval`` is negative or no number.
    """

    def __init__(
        self, stream: TextIO | None = None, min_interval: float = 2.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._interval = check_positive("TextProgress", "min_interval", min_interval, zero=True)
        self._clock = clock
        self._begin()

    def _begin(self, total: int = 0) -> None:
        self._start = self._printed_at = self._clock()
        self._first: tuple[int, float] | None = None  # steps done and time at the first report: a resume starts high
        self._done, self._total, self._printed = 0, total, 0

    def init(self, total: int) -> None:
        self._begin(total)

    def expect(self, seconds: float) -> None:
        self._say(f"about {duration(seconds)} expected")

    def step(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        now = self._clock()
        if self._first is None:
            self._first = (done, now)
        if done >= total or now - self._printed_at >= self._interval:
            self._print(now)

    def close(self) -> None:
        if self._done > self._printed:
            self._print(self._clock())

    def _print(self, now: float) -> None:
        done, total = self._done, self._total
        self._printed, self._printed_at = done, now
        line = f"{100 * done / max(total, 1):.0f} %, {done} of {total} steps, {duration(now - self._start)}"
        if done < total and self._first is not None and done > self._first[0]:
            each = (now - self._first[1]) / (done - self._first[0])
            line += f", about {duration(each * (total - done))} left"
        self._say(line)

    def _say(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        try:
            print(line, file=stream, flush=True)
        except (OSError, ValueError):  # a broken pipe, a closed file
            pass


@final
class TqdmProgress(Progress):
    """The bar of tqdm.

    Parameters
    ----------
    stream : text file, optional
        Where to; standard error by default.

    Raises
    ------
    UnsupportedError
        If tqdm is not installed.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise UnsupportedError(
                "TqdmProgress: needs the package tqdm. Install it (pip install tqdm), or use TextProgress()."
            ) from error
        self._tqdm: Any = tqdm
        self._stream = stream
        self._bar: Any = None

    def init(self, total: int) -> None:
        self.close()
        self._bar = self._tqdm(total=total, file=self._stream, unit="step")

    def expect(self, seconds: float) -> None:
        if self._bar is not None:
            self._bar.set_description(f"about {duration(seconds)} expected")

    def step(self, done: int, total: int) -> None:
        if self._bar is None:
            self.init(total)
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        bar, self._bar = self._bar, None
        if bar is not None:
            bar.close()


def duration(seconds: float) -> str:
    """Seconds in words of the right size.

    Parameters
    ----------
    seconds : float
        >= 0.

    Returns
    -------
    str

    Examples
    --------
    >>> duration(0.25), duration(75.0), duration(7322.0)
    ('0.25 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    days = round(seconds / 86400)
    return f"{days} days" if days < 730 else f"{days / 365.25:,.0f} years"


__getattr__ = found_later(__name__)
