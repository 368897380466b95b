"""Bridges to deepinv: its physics as operators, and operators as its physics."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.fingerprint import fingerprint
from invsolve.core.ownership import call
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, kind_dtype
from invsolve.errors import OperatorError, invalid, invalid_type
from invsolve.operators.base import LinearOperator, Operator

Channel = Literal["add", "keep"]


def _deepinv() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deepinv's own imports
        import deepinv

    return deepinv


@cache
def _classes() -> Any:
    """``deepinv.physics``: asked for at every use of `observed`."""
    return _deepinv().physics


@in_defined_state
def from_deepinv(
    physics: Any,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    *,
    in_kind: Kind = "real",
    out_kind: Kind = "real",
    in_channel: Channel | None = None,
    out_channel: Channel | None = None,
) -> Operator:
    """Make an operator of a ``deepinv.physics.Physics``; linear, with its own adjoint, if it is a ``LinearPhysics``.

    deepinv images carry a channel axis, shapes here need not: ``in_channel`` and ``out_channel`` say what becomes of
    it. The noise model of the physics is not used: give ``noise`` to `invsolve.solve`. The precision is that of the
    physics' buffers; ``to`` copies the physics. Of inpainting and Cartesian
    MRI, what is masked is not `observed`.

    Parameters
    ----------
    physics : deepinv.physics.Physics
        The forward model.
    in_shape, out_shape : sequence of int
        The shapes of signal and data here.
    in_kind, out_kind : {'real', 'complex'}
        The kinds of signal and data; real by default.
    in_channel, out_channel : {'add', 'keep'}, optional
        ``"add"``: a shape ``(H, W)`` here is deepinv's ``(1, H, W)``, or for complex signals its ``(2, H, W)`` (real
        and imaginary part). ``"keep"`` (real only): the shape is the same, ``(3, H, W)`` for colours, ``(m,)`` for a
        vector. By default "add" for complex signals and for real ones of one or two axes, "keep" for three axes and
        more; so a real volume ``(D, H, W)`` needs ``"add"``.

    Returns
    -------
    Operator
        A `LinearOperator` for a ``LinearPhysics``.

    Raises
    ------
    InputTypeError
        For anything but a Physics.
    InputError
        If a choice is not one of those above.
    OperatorError
        At a call, if the physics returns another shape.
    """
    deepinv = _deepinv()
    if not isinstance(physics, deepinv.physics.Physics):
        raise invalid_type("from_deepinv", "physics", "a deepinv.physics.Physics", physics)
    check_choice("from_deepinv", "in_kind", in_kind, ("real", "complex"))
    check_choice("from_deepinv", "out_kind", out_kind, ("real", "complex"))
    shapes = check_dims("from_deepinv", "in_shape", in_shape), check_dims("from_deepinv", "out_shape", out_shape)
    cls = DeepinvLinear if isinstance(physics, deepinv.physics.LinearPhysics) else DeepinvOperator
    return cls(
        physics=physics,
        in_shape=shapes[0],
        out_shape=shapes[1],
        in_kind=in_kind,
        out_kind=out_kind,
        in_channel=_channel("from_deepinv", "in_channel", in_channel, shapes[0], in_kind),
        out_channel=_channel("from_deepinv", "out_channel", out_channel, shapes[1], out_kind),
    )


def _channel(owner: str, name: str, value: Channel | None, shape: Shape, kind: Kind) -> Channel:
    """The choice, checked, or the one that the shape and kind suggest."""
    check_choice(owner, name, value, ("add", "keep", None))
    if value == "keep" and kind == "complex":
        expected = "'add' for complex signals, whose two channels are real and imaginary part"
        raise invalid(owner, name, expected, "'keep'")
    if value is not None:
        return value
    return "add" if kind == "complex" or len(shape) < 3 else "keep"


class _Physics(Operator):
    physics: Any
    in_channel: Channel
    out_channel: Channel

    @property
    def dtype(self) -> torch.dtype | None:
        values = (v for v in self._buffers().values() if v.is_floating_point() or v.is_complex())
        return next((kind_dtype(v.dtype, "real") for v in values), None)

    @property
    def device(self) -> torch.device | None:
        return next((v.device for v in self._buffers().values()), None)

    @property
    def observed(self) -> Tensor | None:
        """What deepinv, too, adds noise to: what the mask of inpainting or MRI keeps, if that comes last."""
        last = self.physics
        while isinstance(last, _classes().ComposedPhysics):
            last = last.physics_list[-1]
        masked = isinstance(last, (_classes().Inpainting, _classes().MRI, _classes().MultiCoilMRI))
        # Others have a `mask` of another meaning: the singular values of a blur. One of several rows has no row here.
        if not masked or not isinstance(last.mask, Tensor) or len(last.mask) != 1:
            return None
        mask = last.mask != 0
        mask = mask.unsqueeze(2) if isinstance(last, _classes().MultiCoilMRI) else mask
        kept = mask.expand(1, *_channels(self.out_shape, self.out_kind, self.out_channel))[0]
        if self.out_kind == "complex":
            return kept.any(0)
        return kept[0] if self.out_channel == "add" else kept

    def _buffers(self) -> dict[str, Tensor]:
        """The parameters of the map: not those of the noise, nor deepinv's empty tensor that remembers a device."""
        named = {**dict(self.physics.named_parameters()), **dict(self.physics.named_buffers())}
        return {n: v for n, v in named.items() if "noise_model." not in n and "_device_holder" not in n}

    def _apply(self, x: Tensor) -> Tensor:
        y = call(self.physics.A, _to_channels(x, self.in_channel))
        return _from_channels(y, len(x), self.out_shape, self.out_kind, self.out_channel, "physics.A")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The physics is a module with a state: it is copied, then moved, so that this operator does not change."""
        physics = self.physics.clone()  # deepinv's own: deepcopy stumbles over random generators
        if device is not None:
            physics.to(device=device)
        if dtype is not None:
            # Not Module.to(dtype): it casts complex buffers to real ones and drops the imaginary part.
            for module in physics.modules():
                for name, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                    if value.is_floating_point() or value.is_complex():
                        kind: Kind = "complex" if value.is_complex() else "real"
                        cast = value.detach().to(kind_dtype(dtype, kind))
                        setattr(
                            module,
                            name,
                            torch.nn.Parameter(cast, requires_grad=value.requires_grad)
                            if isinstance(value, torch.nn.Parameter)
                            else cast,
                        )
        return replace(self, physics=physics)  # type: ignore[type-var]

    def fingerprint(self) -> str:
        """Buffers are not all: a factor or a padding rule is a plain attribute of the module."""
        plain = {
            f"{where}.{name}": value
            for where, module in self.physics.named_modules()
            for name, value in vars(module).items()
            if isinstance(value, (bool, int, float, str, tuple)) and name[0] != "_" and name != "training"
        }
        content = (
            type(self.physics).__qualname__,
            self._buffers(),
            plain,
            self.in_shape,
            self.out_shape,
            self.in_kind,
            self.out_kind,
            self.in_channel,
            self.out_channel,
        )
        return fingerprint(content)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DeepinvOperator(_Physics):
    """A ``deepinv.physics.Physics``; made by `from_deepinv`."""

    physics: Any
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind
    out_kind: Kind
    in_channel: Channel
    out_channel: Channel


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DeepinvLinear(_Physics, LinearOperator):
    """A ``deepinv.physics.LinearPhysics``; made by `from_deepinv`."""

    physics: Any
    in_shape: Shape
    out_shape: Shape
    in_kind: Kind
    out_kind: Kind
    in_channel: Channel
    out_channel: Channel

    def _adjoint(self, y: Tensor) -> Tensor:
        x = call(self.physics.A_adjoint, _to_channels(y, self.out_channel))
        return _from_channels(x, len(y), self.in_shape, self.in_kind, self.in_channel, "physics.A_adjoint")


def _to_channels(x: Tensor, channel: Channel) -> Tensor:
    if x.is_complex():
        return torch.view_as_real(x.resolve_conj()).movedim(-1, 1)
    return x[:, None] if channel == "add" else x


def _channels(shape: Shape, kind: Kind, channel: Channel) -> Shape:
    """The shape that deepinv sees, without its batch axis."""
    if kind == "complex":
        return (2, *shape)
    return (1, *shape) if channel == "add" else shape


def _from_channels(y: Tensor, rows: int, shape: Shape, kind: Kind, channel: Channel, name: str) -> Tensor:
    want = (rows, *_channels(shape, kind, channel))
    if tuple(y.shape) != want:
        raise OperatorError(
            f"deepinv: {name} must have shape {want}, got {tuple(y.shape)}. Check in_shape, out_shape, "
            "the kinds, and in_channel and out_channel ('add' or 'keep')."
        )
    if kind == "complex":
        return torch.view_as_complex(y.movedim(1, -1).contiguous())
    return y[:, 0] if channel == "add" else y


def to_deepinv(A: Operator, *, in_channel: Channel | None = None, out_channel: Channel | None = None) -> Any:
    """Make a deepinv physics of an operator, with the channel axes that deepinv wants.

    It has no noise model, and its ``to`` does not move ``A``.

    Parameters
    ----------
    A : Operator
        Any; a linear one keeps its adjoint.
    in_channel, out_channel : {'add', 'keep'}, optional
        As in `from_deepinv`: complex signals get two channels (real and imaginary part), real ones of one or two axes
        get one unless "keep" is said, others none unless "add" is said.

    Returns
    -------
    deepinv.physics.LinearPhysics or deepinv.physics.Physics
        The first if ``A`` is linear.

    Raises
    ------
    InputTypeError
        If ``A`` is no operator.
    InputError
        If a channel choice does not fit.
    """
    if not isinstance(A, Operator):
        raise invalid_type("to_deepinv", "A", "an iv.operators.Operator", A)
    ins = _channel("to_deepinv", "in_channel", in_channel, A.in_shape, A.in_kind)
    outs = _channel("to_deepinv", "out_channel", out_channel, A.out_shape, A.out_kind)
    deepinv = _deepinv()
    linear = isinstance(A, LinearOperator)
    base = deepinv.physics.LinearPhysics if linear else deepinv.physics.Physics

    class Wrapped(base):  # type: ignore[misc, valid-type]
        """An invsolve operator seen by deepinv."""

        def A(self, x: Tensor, **_: Any) -> Tensor:
            return _to_channels(A(_from_channels(x, len(x), A.in_shape, A.in_kind, ins, "the image")), outs)

        if linear:

            def A_adjoint(self, y: Tensor, **_: Any) -> Tensor:
                bare = _from_channels(y, len(y), A.out_shape, A.out_kind, outs, "the data")
                return _to_channels(A.adjoint(bare), ins)  # type: ignore[attr-defined]

    return Wrapped(img_size=_channels(A.in_shape, A.in_kind, ins)) if linear else Wrapped()
