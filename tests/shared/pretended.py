"""A pretended accelerator: tensors with values that are on another device, where arithmetic rounds otherwise.

A tensor on it is a tensor of the CPU in a wrapper, whose device is called "meta" (torch's own, which autograd takes
without a driver). Every operation of torch that meets one runs on what is inside, so that all of `solve` runs: reads,
derivatives, decisions. As on a GPU, tensors of two devices in one operation are refused, but for numbers (no axis) and
indices; results of arithmetic differ in their last digits, and singular vectors and eigenvectors may have the other sign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten
MOVES = {"_to_copy", "copy_"}
TAKE_HOST_INDICES = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
# What rounds. Comparisons, copies, views and sorts do not; what is exact (an integer, 0) stays so.
ROUNDING = set(
    "add sub rsub mul div reciprocal sqrt rsqrt exp expm1 log log1p tanh sigmoid sin cos pow sum mean mm bmm addmm baddbmm "
    "mv dot vdot addmv addcmul addcdiv lerp var std linalg_vector_norm convolution _fft_c2c _fft_r2c _fft_c2r cumsum "
    "logsumexp _softmax _log_softmax erf erfc erfinv special_ndtri special_log_ndtr lgamma digamma silu "
    "linalg_cholesky_ex linalg_solve_triangular cholesky_inverse atan2 hypot softplus sgn angle i0 special_i0e special_i1e "
    "convolution_backward silu_backward tanh_backward _softmax_backward_data native_group_norm "
    "native_group_norm_backward special_erfcx".split()
)


class Elsewhere(Tensor):
    """A tensor on the pretended device."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> Elsewhere:
        inside = inside.resolve_conj().resolve_neg()  # what torch has put off is not seen through a wrapper
        out: Elsewhere = torch.Tensor._make_wrapper_subclass(
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=DEVICE,
        )
        out.inside = inside
        return out

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of `pretended`")

    def __repr__(self) -> str:
        return f"Elsewhere({self.inside})"


class Rounding:
    """Last digits of results, and signs of vectors, as another device may have them."""

    def __init__(self, seed: int) -> None:
        self.rng = torch.Generator().manual_seed(seed)

    def _off(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()) or not value.numel():
            return value
        real = value.real if value.is_complex() else value
        share = torch.randint(-1, 2, real.shape, generator=self.rng).to(real.dtype)
        moved = value * (1 + 2 * torch.finfo(real.dtype).eps * share)  # to two units in the last place
        parts = torch.view_as_real(value) if value.is_complex() else value[..., None]
        exact = (parts == parts.round()).all(-1)
        return torch.where(exact, value, moved)

    def __call__(self, func: Any, out: Any) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in ("_linalg_eigh", "linalg_eigh"):
            values, vectors = out[0], out[1]
            sign = 1.0 - 2.0 * torch.randint(0, 2, (vectors.shape[-1],), generator=self.rng).to(vectors.dtype)
            return (self._off(values), vectors * sign if vectors.numel() else vectors, *out[2:])
        if name in ("_linalg_svd", "linalg_svd"):
            left, values, right = out
            sign = 1.0 - 2.0 * torch.randint(0, 2, (values.shape[-1],), generator=self.rng).to(left.dtype)
            k = len(sign)
            left, right = left.clone(), right.clone()
            if left.numel() and right.numel():
                left[..., :k] *= sign
                right[..., :k, :] *= sign[:, None]
            return left, self._off(values), right
        if name.rstrip("_") not in ROUNDING:
            return out
        if name.endswith("_"):
            return out.copy_(self._off(out))
        return type(out)(map(self._off, out)) if isinstance(out, (tuple, list)) else self._off(out)


class _Dispatch(TorchDispatchMode):
    def __init__(self, rounding: Rounding | None, calls: Counter[str]) -> None:
        super().__init__()
        self.rounding, self.calls = rounding, calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = any(isinstance(t, Elsewhere) for t in given)
        target = kwargs.get("device")
        made = target is not None and torch.device(target).type == DEVICE.type
        if not there and not made:
            return func(*args, **kwargs)
        self.calls[name] += 1
        if there and name not in MOVES:
            host = [t for t in given if not isinstance(t, Elsewhere) and t.ndim]
            if host and not (name in TAKE_HOST_INDICES and all(t.dtype in (torch.int64, torch.bool) for t in host)):
                raise RuntimeError(
                    f"{name}: Expected all tensors to be on the same device, {host[0].shape} is on the CPU"
                )
        if target is not None:
            kwargs["device"] = CPU
        stays = there and (target is None or made)
        inner_args, inner_kwargs = tree_map(_inside, (args, kwargs))
        if name == "copy_":
            inner_args[0].copy_(*inner_args[1:], **inner_kwargs)
            return args[0]
        out = func(*inner_args, **inner_kwargs)
        if self.rounding is not None and stays:
            out = self.rounding(func, out)
        if not (stays or made):
            return (
                out.clone()
                if isinstance(out, Tensor) and any(out is t.inside for t in given if isinstance(t, Elsewhere))
                else out
            )
        wrapped = tree_map(lambda t: Elsewhere(t) if isinstance(t, Tensor) else t, out)
        if name in ("_conj", "_neg_view"):  # not a view here
            return wrapped
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped


def _inside(value: Any) -> Any:
    return value.inside if isinstance(value, Elsewhere) else value


class _Function(TorchFunctionMode):
    """What torch does not let subclasses do, or does without its dispatcher."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and not isinstance(args[0], Tensor):
            if (device := kwargs.get("device")) is not None and torch.device(device).type == DEVICE.type:
                return func(*args, **kwargs | {"device": CPU}).to(DEVICE)
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(DEVICE)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Elsewhere):  # lists of rows
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            return func(args[0], index if isinstance(args[1], tuple) else index[0], *args[2:])
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], Elsewhere):
            raise TypeError("can't convert a tensor of another device to numpy. Use Tensor.cpu() first")
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].detach().cpu().tolist()
        return func(*args, **kwargs)


@contextmanager
def pretended(seed: int | None = 0) -> Iterator[Counter[str]]:
    """Inside it tensors may be moved to `DEVICE`; ``seed``: of its rounding, None for that of the CPU."""
    calls: Counter[str] = Counter()
    autocast = torch.autocast

    def of_the_cpu(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return autocast("cpu" if device_type == DEVICE.type else device_type, *args, **kwargs)

    with (
        patch.object(torch, "autocast", of_the_cpu),
        _Function(),
        _Dispatch(None if seed is None else Rounding(seed), calls),
    ):
        yield calls


def home(value: Any) -> Any:
    """On the CPU."""
    return tree_map(lambda t: t.detach().cpu() if isinstance(t, Tensor) else t, value)
