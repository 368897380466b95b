"""torch's elementary functions, called once before any of them runs on several threads."""

from __future__ import annotations

import torch

# Those that torch hands to MKL's vector functions, for contiguous float32 and float64.
FUNCTIONS = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "sin", "sqrt", "tan",
    "tanh", "trunc",
)  # fmt: skip


def settle() -> None:
    """Call every function of `FUNCTIONS` on this thread, in about a millisecond.

    MKL 2024.2, which torch brings, looks its kernel up during a function's first call. Where several threads make that
    call at once (more than 2048 entries), one of them may compute its part with the least accurate kernel that MKL has:
    on Intel's processors the first `exp` of a process is now and then off by 7e-5 (pytorch/pytorch#188792).
    """
    for dtype in (torch.float32, torch.float64):
        x = torch.full((8,), 0.5, dtype=dtype, device="cpu")
        for name in FUNCTIONS:
            getattr(torch, name)(x)
