"""What keeps the C library from giving a step's memory back to the system, and asking for it again in the next one."""

from __future__ import annotations

from functools import cache

import torch

# glibc learns its thresholds from the largest mapped block that was freed, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD).
_LARGEST = 31 * 2**20


@cache
def keep_memory() -> None:
    """Let glibc keep up to 62 MiB that were freed; once in a process, in microseconds, without touching memory.

    By default it returns the top of its heap as soon as twice the largest block seen lies free there. A loop over
    tensors of some megabytes then faults thousands of pages a step, each zeroed by the kernel: measured up to 4.8 of
    6.5 ms a step at 8x256x256. A block of nearly the largest size that glibc learns from, freed at once, ends that.
    Elsewhere (macOS, Windows, musl, another malloc) this is an allocation that nobody uses.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
