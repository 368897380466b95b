"""A user's function of rows of signals: what it is called with, and what is said where it does not give rows."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from invsolve.core.arrays import as_tensor, several
from invsolve.core.user_functions import Either, of_each, stacked
from invsolve.core.validation import Shape, quoted
from invsolve.errors import invalid, invalid_type


def rows_of(owner: str, name: str, function: Callable[..., Any], x: Tensor, *, batched: bool = True) -> Tensor:
    """``function(x)`` as a tensor, of a function of rows or of one signal; of any shape: the caller looks at that."""
    if not callable(function):
        raise invalid_type(owner, name.partition("(")[0], "a function", quoted(function))
    if not isinstance(batched, bool):
        raise invalid_type(owner, "batched", "True or False", batched)
    either = Either(function)
    if batched:
        value = either(x)
    else:
        found = of_each(either, x)
        if len(shapes := {tuple(np.shape(v)) for v in found}) > 1:
            raise invalid(owner, name, "of one shape for every signal", " and ".join(map(str, sorted(shapes)[:2])))
        value = stacked(found)
    if isinstance(value, (numbers.Number, np.generic)):
        value = np.asarray(value)
    if (several(value) or isinstance(value, np.ndarray)) and not isinstance(value, Tensor):  # of code in numpy
        value = as_tensor(owner, name, value, dtype=x.dtype, device=x.device)
    if not isinstance(value, Tensor):
        raise invalid_type(owner, name, "a tensor, an array or a number", quoted(value))
    return value


def reduced(x: Tensor, value: Tensor, *, option: bool = True) -> tuple[Shape, str]:
    """What was given and the repair, where ``value`` has no row for each of ``x``; ``option``: there is ``batched``."""
    axes = ", ".join(map(str, range(1, x.ndim))) + ("," if x.ndim == 2 else "")
    ways = f"np.sum(x, axis=({axes}))" if x.ndim > 1 else "2 * x"
    repair = (
        f"x has all samples, {tuple(x.shape)}: reduce over the signal's axes only, as in {ways}, x.flatten(1).amax(1)."
        + (" A function of one sample takes batched=False." if option else "")
    )
    return tuple(value.shape), repair
