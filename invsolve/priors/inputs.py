"""Checks of what a prior is given: signals, noise levels, problems."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.core.arrays import as_given
from invsolve.core.validation import Kind, Shape, check_kind, check_number, check_shape, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.problem import Problem

_CONVERT = "Convert it, or the prior: prior.to(dtype=...)."
_MOVE = "Move it, or the prior: prior.to(device)."


def check_signal(
    owner: str, name: str, x: Tensor, shape: Shape, kind: Kind, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise unless ``x`` is ``(batch, *shape)``, of this kind, precision and device."""
    check_kind(owner, name, check_shape(owner, name, x, shape), kind)
    if kind_dtype(x.dtype, "real") != dtype:
        raise invalid_type(owner, name, f"of precision {dtype}", str(x.dtype), _CONVERT)
    if x.device != device:
        raise invalid(owner, name, f"on device {device}", x.device, _MOVE)


def noise_level(owner: str, x: Tensor, sigma: Tensor | float, dtype: torch.dtype) -> Tensor:
    """A noise level as a tensor, 0-d or with as many axes as ``x``; raise unless it is a number > 0 or fits ``x``."""
    sigma = as_given(owner, "sigma", sigma, dtype=dtype, device=x.device)
    if not isinstance(sigma, Tensor):
        level = check_number(owner, "sigma", sigma)
        if level <= 0:
            raise invalid(owner, "sigma", "positive and finite", level)
        # Filled there: a copy from the host would stall a GPU.
        return torch.full((), level, dtype=dtype, device=x.device)
    if sigma.is_complex() or not (sigma.is_floating_point() or sigma.ndim == 0):
        raise invalid_type(owner, "sigma", "real floating point", str(sigma.dtype))
    sigma = sigma.to(x.device, dtype)
    if sigma.ndim == 0:
        return sigma
    if sigma.ndim == x.ndim:
        if not all(a in (1, b) for a, b in zip(sigma.shape, x.shape, strict=True)):
            raise invalid(owner, "sigma", f"broadcastable against {tuple(x.shape)}", tuple(sigma.shape))
        return sigma
    if tuple(sigma.shape) == (len(x),):
        return sigma.view(-1, *([1] * (x.ndim - 1)))
    raise invalid(owner, "sigma", f"0-d, of shape ({len(x)},) or with {x.ndim} axes", tuple(sigma.shape))


def check_problem(
    owner: str, problem: Problem, shape: Shape, kind: Kind, dtype: torch.dtype, device: torch.device
) -> None:
    """Raise unless the problem is one of signals of this shape and kind, its data of this precision and device."""
    A, y = problem.operator, problem.data
    if tuple(A.in_shape) != tuple(shape):
        raise invalid(owner, "A", f"an operator on signals of shape {tuple(shape)}", tuple(A.in_shape))
    if A.in_kind != kind:
        raise invalid(owner, "A", f"an operator on {kind} signals", f"one on {A.in_kind} signals")
    if kind_dtype(y.dtype, "real") != dtype:
        raise invalid_type(owner, "y", f"of precision {dtype}", str(y.dtype), _CONVERT)
    if y.device != device:
        raise invalid(owner, "y", f"on device {device}", y.device, _MOVE)
