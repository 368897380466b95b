"""Around defects and habits of torch and of the libraries it brings: memory that glibc returns, MKL's first calls.

Each function says what was measured, and where.
"""

from __future__ import annotations

import warnings
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


# Those that torch hands to MKL's vector functions, for contiguous float32 and float64.
FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "sin", "sqrt", "tan",
    "tanh", "trunc",
)  # fmt: skip


def warm_up_mkl() -> None:
    """Call every function of `FUNCTIONS` on this thread, in about a millisecond.

    MKL 2024.2, which torch brings, looks its kernel up during a function's first call. Where several threads make that
    call at once (more than 2048 entries), one of them may compute its part with the least accurate kernel that MKL has:
    on Intel's processors the first `exp` of a process is now and then off by 7e-5 (pytorch/pytorch#188792).
    """
    for dtype in (torch.float32, torch.float64):
        x = torch.full((8,), 0.5, dtype=dtype, device="cpu")
        for name in FUNCTIONS:
            getattr(torch, name)(x)


@cache
def load_forward_mode() -> None:
    """The first forward-mode derivative loads a part of torch that warns about torch's own deprecations: once, here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.func.jvp(torch.sin, (torch.zeros(1),), (torch.ones(1),))
