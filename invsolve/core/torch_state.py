"""The state of torch in which public calls run, whatever the caller's: no inference mode, no autocast.

Inside `torch.inference_mode` (in which Lightning validates) there are no derivatives, and what is made there can never
be part of a graph; inside `torch.autocast` matrix products come back in 16 bits. Neither may change a posterior. Of the
caller's state stays whether gradients are recorded. The default dtype and device are left alone too, because the code
of users may build on them: nothing here does, every tensor is made with its own. A network that wants autocast enters
it in its ``forward``.

`Defined` is the base of classes whose public methods run so, those of users' subclasses too; `in_defined_state` does it
for a function. Where the state is as it should be, that costs a fraction of a microsecond.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import isfunction
from typing import Any, ClassVar, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import from_numpy, normal, plain
from invsolve.core.signatures import explain

P = ParamSpec("P")
R = TypeVar("R")

_AUTOCAST = tuple(d for d in ("cpu", "cuda", "xpu", "mps", "mtia", "hpu", "xla") if torch.amp.is_autocast_available(d))
_SPECIAL = ("__call__", "__init__", "__post_init__")


@contextmanager
def defined_state() -> Iterator[None]:
    """Inside it inference mode and autocast are off; gradients are recorded if the caller's are."""
    recorded = torch.is_grad_enabled()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # which enables gradients
        stack.enter_context(torch.set_grad_enabled(recorded))
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def in_defined_state(function: Callable[P, R]) -> Callable[P, R]:
    """A public function, run in `defined_state`; numbers of numpy become Python's."""
    inner = _defined(function)

    @functools.wraps(function)
    def defined(*args: P.args, **kwargs: P.kwargs) -> R:
        return inner(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})

    return defined


def _defined(function: Callable[P, R]) -> Callable[P, R]:
    """A method, run in `defined_state`."""
    return functools.wraps(function)(defined_closure(function))


def defined_closure(function: Callable[P, R]) -> Callable[P, R]:
    """A function that a public call makes and returns, run in `defined_state`: a pullback, which takes no name."""

    def defined(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            if torch.is_inference_mode_enabled() or torch._C._is_any_autocast_enabled():
                with defined_state():
                    return function(*args, **kwargs)
            return function(*args, **kwargs)
        except TypeError as error:
            explain(error, function)
            raise

    return defined


@contextmanager
def for_new_weights() -> Iterator[None]:
    """Inside it networks are made in float32 on the CPU whatever the defaults; torch's generator ends as it was."""
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)


class Defined:
    """A class whose public methods, cached properties and construction run in `defined_state`, its subclasses' too.

    Fields of dataclasses that are stated to be tensors may be given as numpy arrays, which become tensors of their
    dtype, and as tensors made in inference mode, which are copied out of it; numbers of numpy become Python's.
    """

    _takes_arrays: ClassVar[bool] = True  # or it converts them itself

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in list(vars(cls).items()):
            if name.startswith("_") and name not in _SPECIAL:
                continue
            if isinstance(value, functools.cached_property):
                value.func = _defined(value.func)
            elif isinstance(value, (classmethod, staticmethod)):
                setattr(cls, name, type(value)(_defined(value.__func__)))
            elif isfunction(value):
                setattr(cls, name, _defined(_after_fields(value) if name == "__post_init__" else value))

    def __post_init__(self) -> None:
        """Called by the constructor of a dataclass, also of one that has no other."""
        _take_fields(self)
        if (following := getattr(super(), "__post_init__", None)) is not None:  # another base's
            following()

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files have what it is made of; what was derived from that and kept is derived again."""
        cls = type(self)
        return {k: v for k, v in vars(self).items() if not isinstance(getattr(cls, k, None), functools.cached_property)}


def _after_fields(post_init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(post_init)
    def checked(self: Any, *args: Any) -> None:
        _take_fields(self)
        post_init(self, *args)

    return checked


def _spelt(annotation: Any) -> str:
    """The annotation of a field as text; `noise.entrywise.Parameter` is a tensor or a number."""
    return str(annotation).replace("Parameter", "float | Tensor")


def _is_array(value: Any) -> bool:
    """Whether a tensor can be made of it; one with masked integers has no NaN for them."""
    if not isinstance(value, np.ndarray):
        return False
    return value.dtype.kind in "fc" or value.dtype.kind in "biu" and not isinstance(value, np.ma.MaskedArray)


def _take_fields(self: Any) -> None:
    fields = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
    values = [vars(self).get(field.name) for field in fields]
    device = next((value.device for value in values if isinstance(value, Tensor)), None)  # arrays come to the tensors
    for field, value in zip(fields, values, strict=True):
        if isinstance(value, Tensor):
            object.__setattr__(self, field.name, normal(value))
        elif isinstance(value, np.generic) or isinstance(value, np.ndarray) and value.ndim == 0:
            object.__setattr__(self, field.name, value.item())
        elif self._takes_arrays and _is_array(value) and "Tensor" in _spelt(field.type):
            object.__setattr__(self, field.name, from_numpy(value).to(device))


__all__ = ["Defined", "defined_closure", "defined_state", "for_new_weights", "in_defined_state"]
