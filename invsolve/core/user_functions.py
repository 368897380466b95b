"""Functions of users on tensors: code in numpy is called with arrays, and code for one signal is found out.

A function is called with tensors. One that is not for tensors (``np.sum(x, axis=1)``, ``M @ x`` of an array M,
``x.astype(...)``) raises TypeError or AttributeError for them, and is then called with arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.ownership import call

_NOT_FOR_TENSORS = (TypeError, AttributeError)


@final
class Either:
    """A function that is called with tensors or, once it was seen to be in numpy, with arrays; always with copies.

    What is raised is what it raises for tensors.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        module: str = getattr(function, "__module__", None) or type(function).__module__
        self.in_numpy = module.partition(".")[0] == "numpy"  # some of these take tensors too, with a warning

    def __call__(self, *tensors: Tensor) -> Any:
        if self.in_numpy:
            return _with_arrays(self.function, *tensors)
        try:
            return call(self.function, *tensors)
        except _NOT_FOR_TENSORS as error:
            try:
                found = _with_arrays(self.function, *tensors)
            except Exception as other:
                error.add_note(f"With arrays of numpy in place of torch tensors: {type(other).__name__}: {other}")
                raise error from None
        self.in_numpy = True
        return found


def _with_arrays(function: Callable[..., Any], *tensors: Tensor) -> Any:
    return function(*[v.detach().resolve_conj().resolve_neg().cpu().clone().numpy() for v in tensors])


def of_each(function: Callable[..., Any], *rows: Tensor) -> list[Any]:
    """What a function of one signal gives for each row; one row or more."""
    return [function(*row) for row in zip(*rows, strict=True)]


def stacked(values: list[Any]) -> Tensor | np.ndarray[Any, Any]:
    """Values of one shape as rows."""
    return torch.stack(values) if isinstance(values[0], Tensor) else np.stack([np.asarray(v) for v in values])


def takes_one(function: Callable[..., Any], shape: tuple[int, ...], *rows: Tensor) -> bool:
    """Whether a function that was to take rows takes one signal, and gives what has ``shape``.

    Not if it takes these rows without their derivatives: then it is those that failed.
    """
    plain = [v.detach() for v in rows]

    def gives(given: list[Tensor], wanted: tuple[int, ...]) -> bool:
        try:
            return bool(np.shape(Either(function)(*given)) == wanted)
        except Exception:  # whatever it raises, that is not it
            return False

    one = bool(len(plain[0])) and gives([v[0] for v in plain], shape)
    return one and not gives(plain, (len(plain[0]), *shape))
