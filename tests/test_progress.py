"""Progress meters: what they print, how often, and that they never take the solve down with them."""

from __future__ import annotations

import builtins
import io

import pytest

from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.progress import NoProgress, Progress, TextProgress, TqdmProgress, duration, metered


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_text_is_throttled_and_the_last_line_always_comes():
    clock, stream = Clock(), io.StringIO()
    meter = TextProgress(stream, 1.0, clock=clock)
    meter.init(100)
    for done in range(1, 101):
        clock.now += 0.1  # 10 s for 100 steps
        meter.step(done, 100)
    meter.close()
    lines = stream.getvalue().splitlines()
    # A line each second (each 10 or, by rounding of 0.1, 11 steps), the last step, and nothing twice.
    assert 10 <= len(lines) <= 11
    assert lines[-1] == "100 %, 100 of 100 steps, 10 s"
    assert sum(line.startswith("100 %") for line in lines) == 1


def test_text_predicts_the_rest_from_this_run_only():
    clock, stream = Clock(), io.StringIO()
    meter = TextProgress(stream, 0.0, clock=clock)
    meter.init(100)
    for done in (60, 65, 70):  # resumed at 60; then 5 steps in 2 s
        clock.now += 2.0
        meter.step(done, 100)
    meter.close()
    assert stream.getvalue().splitlines() == [
        "60 %, 60 of 100 steps, 2 s",
        "65 %, 65 of 100 steps, 4 s, about 14 s left",
        "70 %, 70 of 100 steps, 6 s, about 12 s left",
    ]


def test_text_says_at_close_where_an_interrupted_run_stopped():
    clock, stream = Clock(), io.StringIO()
    with pytest.raises(KeyboardInterrupt), metered(TextProgress(stream, 1e9, clock=clock), 10) as step:
        clock.now += 1.0
        step(3, 10)
        raise KeyboardInterrupt
    assert stream.getvalue() == "30 %, 3 of 10 steps, 1 s\n"


def test_a_second_run_starts_anew():
    clock, stream = Clock(), io.StringIO()
    meter = TextProgress(stream, 1e9, clock=clock)
    for _ in range(2):
        meter.init(2)
        clock.now += 1.0
        meter.step(1, 2)
        meter.step(2, 2)
        meter.close()
    assert stream.getvalue() == "100 %, 2 of 2 steps, 1 s\n" * 2


def test_text_goes_to_standard_error_by_default(capsys):
    meter = TextProgress()
    meter.init(1)
    meter.step(1, 1)
    meter.close()
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("100 %, 1 of 1 steps")


def test_a_closed_stream_does_not_end_the_solve():
    stream = io.StringIO()
    stream.close()
    meter = TextProgress(stream, 0.0)
    meter.init(2)
    meter.step(1, 2)
    meter.close()
    assert meter._printed == 1  # it did try


def test_a_meter_is_closed_when_init_fails():
    class Broken(Progress):
        closed = False

        def init(self, total: int) -> None:
            raise OSError("no terminal")

        def step(self, done: int, total: int) -> None:
            raise AssertionError("never reached")

        def close(self) -> None:
            self.closed = True

    meter = Broken()
    with pytest.raises(OSError, match="no terminal"), metered(meter, 3):
        raise AssertionError("never reached")
    assert meter.closed


def test_no_progress_is_silent(capsys):
    with metered(NoProgress(), 5) as step:
        step(1, 5)
    assert capsys.readouterr() == ("", "")


def test_tqdm_counts_also_when_it_starts_high_or_the_total_grows():
    stream = io.StringIO()
    with metered(TqdmProgress(stream), 10) as step:
        step(4, 10)
        step(12, 12)
    assert "12/12" in stream.getvalue()


def test_tqdm_step_before_init_and_close_twice():
    stream = io.StringIO()
    meter = TqdmProgress(stream)
    meter.step(1, 2)
    meter.close()
    meter.close()
    assert "1/2" in stream.getvalue()


def test_tqdm_missing_is_named_with_the_repair(monkeypatch):
    real = builtins.__import__

    def without_tqdm(name, *args, **kwargs):
        if name.split(".")[0] == "tqdm":
            raise ImportError("No module named 'tqdm'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tqdm)
    with pytest.raises(
        UnsupportedError, match=r"TqdmProgress: needs the package tqdm. Install it \(pip install tqdm\)"
    ):
        TqdmProgress()


def test_bad_intervals_are_refused():
    with pytest.raises(InputError, match=r"TextProgress: `min_interval` must be non-negative, got -1"):
        TextProgress(min_interval=-1)
    with pytest.raises(InputTypeError, match=r"`min_interval` must be a real number, got '1 s'"):
        TextProgress(min_interval="1 s")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.012, "0.012 s"),
        (9.4, "9.4 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (7322.0, "2 h 2 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words
