"""Times and memory of maps: the least of interleaved rounds, and the peak of a process of its own."""

from __future__ import annotations

import gc
import importlib
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def clock(threads: int) -> float:
    """Seconds: of the CPU on one thread, where other work on the machine does not count; on more, of the wall."""
    return time.process_time() if threads == 1 else time.perf_counter()


def interleaved(
    calls: Sequence[Callable[[], object]], rounds: int, repeats: Sequence[int], threads: int
) -> list[float]:
    """The least seconds of each call, over rounds in which each is called ``repeats`` times in its turn."""
    best = [math.inf] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            for _ in range(repeats[i]):
                started = clock(threads)
                call()
                best[i] = min(best[i], clock(threads) - started)
    return best


def peak(module: str, function: str, *arguments: Any, threads: int) -> float:
    """MiB that ``module.function(*arguments)`` takes at most, beyond what was there when it gave back what to run.

    The function prepares (imports what is needed) and returns the function that is measured; in a fresh process.
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(_peak, (module, function, arguments, threads))


def _peak(module: str, function: str, arguments: tuple[Any, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    run = getattr(importlib.import_module(module), function)(*arguments)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    kept = run()
    taken = _resident("VmHWM") - before
    del kept
    return taken


def _resident(what: str) -> float:
    """MiB of this process, by Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
