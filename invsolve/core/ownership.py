"""Whose a tensor is: what an object is made of is its own, and code of others works on copies.

Operators, priors, noise models, strategies and their parts are frozen, and remember what they derive from the tensors
they are made of (transforms of kernels, transposed matrices, factors). So these tensors are copied when the object is
made (`Owner`): what the caller does to his afterwards changes nothing.

Code that is not ours, such as a simulator, a denoiser or a subclass of one of our classes, may work in place, on
tensors or on the numpy arrays that share their memory, and may write its answer into the same buffer at every call. It
is handed copies, and of what it returns a copy is kept (`call`, `lending`). A copy costs microseconds, and is a small
part of whatever makes something of every value. What cannot be copied, such as the data that a strategy is handed with
its problem, is looked at afterwards (`version`).
"""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

_sharing: ContextVar[bool] = ContextVar("_sharing", default=False)


class Owner:
    """Base of frozen dataclasses whose tensors are copied when they are made, before ``__post_init__`` sees them.

    Arrays, and tensors in lists, tuples and dicts count too. Objects that are made on the way (in ``__post_init__`` of
    ours, by `made` and `replaced`) share the tensors of the first.

    The methods of a subclass that are named in ``_lends`` are called with copies, and what they return is copied, where
    the subclass is not ours.
    """

    _lends: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        ours, own = is_ours(cls), vars(cls)
        if "__post_init__" in own:
            cls.__post_init__ = _owning(own["__post_init__"], ours)  # type: ignore[method-assign]
        for name in () if ours else cls._lends:
            if isinstance(own.get(name), types.FunctionType):
                setattr(cls, name, lending(own[name]))

    def __post_init__(self) -> None:
        _own(self)


def is_ours(value: object) -> bool:
    """Whether a class or an object's class is the package's own."""
    module: str = (value if isinstance(value, type) else type(value)).__module__
    return module.partition(".")[0] == __name__.partition(".")[0]


def made(make: Callable[..., T], *args: Any, **options: Any) -> T:
    """``make(*args, **options)`` without copies: of tensors that nobody else holds."""
    token = _sharing.set(True)
    try:
        return make(*args, **options)
    finally:
        _sharing.reset(token)


def replaced(value: T, **changes: Any) -> T:
    """``dataclasses.replace`` without copies: for tensors of ``value``, or that nobody else holds."""
    out: T = made(dataclasses.replace, value, **changes)
    return out


def kept(value: Tensor) -> Tensor:
    """A tensor of the caller as an object that is no `Owner` keeps it: copied, unless by `replaced`."""
    return value if _sharing.get() else copied_tensor(value)


def copied(value: Any) -> Any:
    """The value with its tensors and arrays copied, those in lists, tuples and dicts too; all else as it is."""
    if isinstance(value, Tensor):
        return copied_tensor(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):
        inside = [copied(v) for v in value]
        return value if all(a is b for a, b in zip(inside, value, strict=True)) else type(value)(inside)
    if type(value) is dict:
        return {k: copied(v) for k, v in value.items()}
    return value


def copied_tensor(value: Tensor) -> Tensor:
    """A copy that is differentiable as the original is; what is expanded stays so, and takes as little memory."""
    if value.layout != torch.strided or 0 not in value.stride() or not value.numel():
        return value.clone()
    lean = value
    for axis, (length, stride) in enumerate(zip(value.shape, value.stride(), strict=True)):
        if stride == 0 and length > 1:
            lean = lean.narrow(axis, 0, 1)
    return lean.clone().expand(value.shape)


def version(value: Tensor) -> int:
    """A number that grows whenever torch changes the tensor in place."""
    return 0 if value.is_inference() else value._version


def lent(value: T) -> T:
    """A copy of a tensor to write into, entry by entry; all else as it is."""
    return value.clone() if isinstance(value, Tensor) else value  # type: ignore[return-value]


def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """``function(*args, **options)`` of a user: with copies of the tensors, and a copy of what it returns."""
    if options:
        options = {name: lent(v) for name, v in options.items()}
    found = function(*[lent(v) for v in args], **options)
    return found.clone() if isinstance(found, Tensor) else _returned(found)


def lending(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as `call` would call it."""

    @functools.wraps(function)
    def lend(*args: Any, **options: Any) -> Any:
        return call(function, *args, **options)

    return lend


def _returned(found: Any) -> Any:
    if type(found) is tuple:
        return tuple(lent(v) if isinstance(v, Tensor) else _returned(v) for v in found)
    return lending(found) if isinstance(found, types.FunctionType) else found


def _own(value: Any) -> None:
    if _sharing.get() or not dataclasses.is_dataclass(value):
        return
    for field in dataclasses.fields(value):
        if field.init and (copy := copied(was := getattr(value, field.name))) is not was:
            object.__setattr__(value, field.name, copy)


def _owning(check: Callable[..., None], ours: bool) -> Callable[..., None]:
    if getattr(check, "_owning", False):  # a class that was made twice, as dataclasses with slots are
        return check

    @functools.wraps(check)
    def post_init(self: Any, *args: Any) -> None:
        _own(self)
        token = _sharing.set(ours or _sharing.get())
        try:
            check(self, *args)
        finally:
            _sharing.reset(token)

    post_init._owning = True  # type: ignore[attr-defined]
    return post_init
