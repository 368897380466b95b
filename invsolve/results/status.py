"""Why a solve ended, and rows that failed."""

from __future__ import annotations

import enum
import math

import torch
from torch import Tensor


class Status(enum.Enum):
    """Why a solve ended: a sentence for a person, with what to try next.

    ``status.value`` is the sentence; ``result.status is iv.Status.SUCCESS`` is what a program asks.
    """

    SUCCESS = "Every sample is finite; whether they are those of the posterior, `result.certified` says."
    SOME_FAILED = (
        "Some samples became NaN or infinite; they are kept as NaN, excluded from every statistic and counted. "
        "Look at result.failed; try smaller steps, float64, or check the scale of the prior against the data."
    )
    TEMPERED = (
        "The run ended before the data counted in full: the samples are those of a tempered posterior, with a power of "
        "the likelihood below 1, whose std is too large and whose mean is too near to the prior's. `print(result)` "
        "names the power; try a larger budget, more num_steps or a faster operator."
    )
    ALL_FAILED = (
        "Every sample became NaN or infinite, so there is no posterior to look at. "
        "Check the noise level and the scale of the prior against the data, whether the likelihood is positive for any "
        "signal of the prior, or try float64 and smaller steps."
    )

    @classmethod
    def from_failures(cls, failed: Tensor, power: Tensor | None = None) -> Status:
        """The status that failed rows (a bool tensor) and the ``power`` of the likelihood of every row stand for."""
        if number := int(failed.sum()):
            return cls.ALL_FAILED if number == failed.numel() else cls.SOME_FAILED
        return cls.SUCCESS if power is None or not bool((power < 1).any()) else cls.TEMPERED  # NaN: not of chains


def blanked(samples: Tensor, failed: Tensor) -> Tensor:
    """Samples ``(rows, ...)`` with every entry NaN in the rows that ``failed``; of complex ones, both parts."""
    nothing = complex(math.nan, math.nan) if samples.is_complex() else math.nan
    return torch.where(failed.view(-1, *([1] * (samples.ndim - 1))), nothing, samples)
