"""Checks at the public border: each returns the checked value, or raises with the one wording of `errors`.

Every check begins with ``owner`` (the public function or class that was called) and ``name`` (its argument), which
become the message: ``solve: `seed` must be an integer, got 1.5.`` What is refused by its type or dtype is an
InputTypeError, what is refused by its value an InputError. Checks are made once, where a value comes in: the functions
inside (with a leading underscore) get checked values and do not look again, because a look at a tensor stalls a GPU.

Words: ``kind`` is "real" or "complex"; a ``Shape`` is a tuple of integers without the batch axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from invsolve.errors import invalid, invalid_type

Kind = Literal["real", "complex"]
Shape = tuple[int, ...]


def check_shape(owner: str, name: str, value: Tensor, shape: Shape, repair: str = "") -> Tensor:
    """Raise unless ``value`` is a tensor of shape ``(batch, *shape)``; ``repair``: where its axes are not to blame."""
    if not isinstance(value, Tensor):
        raise invalid_type(owner, name, "a torch.Tensor", value, f"Convert it: torch.as_tensor({name}).")
    if value.ndim != len(shape) + 1 or tuple(value.shape[1:]) != shape:
        want = ", ".join(map(str, ("batch", *shape)))
        hint = axes_hint(name, value.shape, shape) or repair
        raise invalid(owner, name, f"of shape ({want})", tuple(value.shape), hint)
    return value


def axes_hint(name: str, given: Sequence[int], shape: Shape) -> str:
    """The line that makes an array of shape ``given`` one of ``shape``, or a batch of such, by its axes alone.

    Empty where none does. Channels that come last, as in photographs and coil data, are the usual case.
    """
    given, size = tuple(given), math.prod(shape)
    if given == shape:
        return f"Add a batch axis: {name}[None]."
    rows = math.prod(given) // size if size else 0
    for target in (shape, (rows, *shape)):
        if math.prod(given) == math.prod(target) > 0 and _long(given) == _long(target):
            return f"Axes of length 1 are too many or too few: {name}.reshape{target} fits."
    for axis in range(min(2, len(given) - 1)):
        moved = (*given[:axis], given[-1], *given[axis:-1])
        if shape in (moved, moved[1:]):
            batch = f", a batch of {moved[0]}" if moved != shape else ""
            line = f"np.moveaxis({name}, -1, {axis}), or {name}.movedim(-1, {axis}) of a tensor"
            return f"With the last axis moved to the {'second' if axis else 'first'} place it fits{batch}: {line}."
    return ""


def _long(shape: Shape) -> Shape:
    return tuple(n for n in shape if n != 1)


def channel_axis(shape: Shape) -> int | None:
    """The first or last of three axes, if it has 2 to 4 entries and both others have more: colours, not space."""
    for axis in (-1, 0) if len(shape) == 3 else ():
        others = shape[:-1] if axis else shape[1:]
        if 2 <= shape[axis] <= 4 and min(others) > 4:
            return axis % 3
    return None


def check_spatial(owner: str, name: str, value: object, shape: Shape, none: float) -> None:
    """Refuse one number for all axes where one of them is an axis of channels, which it would mix.

    ``none`` is the number that leaves an axis as it is.
    """
    axis = channel_axis(shape)
    if axis is None:
        return
    each = ", ".join(str(none) if a == axis else str(value) for a in range(3))
    space = tuple(n for a, n in enumerate(shape) if a != axis)
    batch = "np.moveaxis(photo, -1, 0)" if axis else "photo"
    raise invalid(
        owner,
        name,
        f"given for each axis of {shape}, of which axis {axis} looks like channels",
        f"{value} for all of them",
        f"Take the channels for a batch: in_shape={space}, y={batch}. Or one an axis: ({each}) leaves them apart.",
    )


def check_kind(owner: str, name: str, value: Tensor, kind: Kind) -> Tensor:
    """Raise unless ``value`` is floating ('real') or complex ('complex')."""
    if kind == "complex" and not value.is_complex():
        raise invalid_type(owner, name, "complex", str(value.dtype), f"Convert it: torch.complex({name}, 0 * {name}).")
    if kind == "real" and not value.is_floating_point():
        hint = f"Convert it: {name}.float()."
        if value.is_complex():
            hint = "Build the operator or prior with kind='complex'."
        raise invalid_type(owner, name, "real floating point", str(value.dtype), hint)
    return value


def check_finite(owner: str, name: str, value: Tensor, repair: str = "") -> Tensor:
    """Raise if ``value`` holds NaN or Inf, and say how many and where the first is."""
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        first = tuple(bad.nonzero()[0].tolist())
        raise invalid(
            owner,
            name,
            "finite",
            f"{int(bad.sum())} NaN or infinite values, the first at index {first}",
            repair,
        )
    return value


def check_positive(owner: str, name: str, value: object, *, zero: bool = False) -> float:
    """A finite real number > 0 (>= 0 with ``zero``), as float."""
    number = check_number(owner, name, value)
    if number < 0 or (number == 0 and not zero):
        raise invalid(owner, name, "non-negative" if zero else "positive", number)
    return number


def check_number(owner: str, name: str, value: object) -> float:
    """A finite real number, as float; 0-d tensors are accepted, bools and strings are not."""
    plain = value.item() if isinstance(value, (Tensor, np.ndarray, np.generic)) and value.ndim == 0 else value
    if isinstance(plain, (bool, Tensor, np.ndarray)) or not hasattr(plain, "__float__"):
        raise invalid_type(owner, name, "a real number", quoted(value))
    try:
        number = float(plain)
    except OverflowError:  # an integer beyond the largest float
        number = math.inf
    if not math.isfinite(number):
        raise invalid(owner, name, "finite", number)
    return number


def check_int(owner: str, name: str, value: object, *, minimum: int | None = None) -> int:
    """An integer (not a bool, not 3.0), at least ``minimum``."""
    number = as_integer(value)
    if number is None:
        raise invalid_type(owner, name, "an integer", quoted(value))
    if minimum is not None and number < minimum:
        raise invalid(owner, name, f"at least {minimum}", number)
    return number


def as_integer(value: object) -> int | None:
    """The integer that a value is, or None: bools, floats and arrays with axes are none."""
    plain = value.item() if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0 else value
    if isinstance(plain, (bool, Tensor, np.ndarray)) or not hasattr(plain, "__index__"):
        return None
    return int(plain.__index__())


def quoted(value: object) -> object:
    """A string in quotes, so that a message tells ``'0.1'`` from ``0.1``; other values as they are."""
    return repr(value) if isinstance(value, str) else value


def check_dims(owner: str, name: str, value: object) -> Shape:
    """A shape: a tuple of positive integers."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        raise invalid_type(owner, name, "a tuple of integers", quoted(value), _as_shape(value))
    dims = tuple(value)
    if any(hasattr(n, "__array__") and getattr(n, "ndim", 0) for n in dims):
        raise invalid_type(owner, name, "a tuple of integers", "arrays", "Are two arguments in each other's place?")
    return tuple(check_int(owner, f"{name}[{i}]", n, minimum=1) for i, n in enumerate(dims))


def _as_shape(value: object) -> str:
    if as_integer(value) is None:
        return "Are two arguments in each other's place?" if isinstance(value, float) else ""
    return f"Write ({value},) for one axis, ({value}, {value}) for two."


def check_choice(owner: str, name: str, value: object, choices: Iterable[object]) -> None:
    """One of a few named options."""
    options = list(choices)
    try:
        known = value in options
    except (RuntimeError, ValueError):  # an array: its comparison has no single truth
        known = False
    if not known:
        raise invalid(owner, name, "one of " + ", ".join(repr(c) for c in options), repr(value))


_COMPONENT = {torch.complex64: torch.float32, torch.complex128: torch.float64}


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The real dtype of one component: complex64 -> float32."""
    return _COMPONENT.get(dtype, dtype)


def kind_dtype(dtype: torch.dtype, kind: Kind) -> torch.dtype:
    """The dtype with the precision of ``dtype`` and the given kind."""
    return real_dtype(dtype).to_complex() if kind == "complex" else real_dtype(dtype)
