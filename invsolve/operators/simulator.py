"""A simulator with named arguments as an operator on the packed vector of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.named_arguments import check_names
from invsolve.core.ownership import call, lent
from invsolve.core.packing import Layout, Part
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Shape, check_choice, check_dims
from invsolve.errors import OperatorError, invalid_type
from invsolve.operators.base import BlackBox, Operator

_OWNER = "from_simulator"
_ROWS = (
    "With kind='nonlinear' it is called with a tensor (rows,) for each parameter, and returns a row for each set of "
    "them: torch.stack([...], dim=-1)."
)


@in_defined_state
def from_simulator(
    f: Callable[..., Any],
    parameters: Layout | Sequence[str],
    out_shape: Sequence[int],
    *,
    kind: Literal["black box", "nonlinear"] = "black box",
) -> Operator:
    """Make an operator of a function with named arguments, ``f(alpha=..., beta=...)``.

    Parameters
    ----------
    f : callable
        Called with every parameter by its name. A black box gets Python floats (arrays for parts with a shape), one
        set of parameters at a time, and returns an array, list or tensor of shape ``out_shape``: scipy, a compiled
        program; NaN where it failed, and chains do not go there. With ``kind="nonlinear"`` it gets tensors ``(rows,
        *part.shape)`` and returns a tensor ``(rows, *out_shape)`` that torch differentiates.
    parameters : Layout or sequence of str
        ``prior.layout`` of `iv.priors.independent`, or that prior; or the names, of one number each, in their order in
        the vector.
    out_shape : sequence of int
        The shape of the data.
    kind : {'black box', 'nonlinear'}
        Evaluations only, or differentiated by torch: with derivatives far fewer evaluations are needed.

    Returns
    -------
    Operator
        On signals ``(n,)``; a `BlackBox`, or not.

    Raises
    ------
    InputTypeError, InputError
        If ``f`` is no function, or takes other arguments than those named.
    OperatorError
        At a call, if ``f`` returns another shape than promised, or what is no number.

    Examples
    --------
    >>> import torch
    >>> def decay(amount, rate):
    ...     return [amount * 2.0 ** (-rate * t) for t in (0, 1, 2)]
    >>> from_simulator(decay, ["amount", "rate"], out_shape=(3,))(torch.tensor([[8.0, 1.0]]))
    tensor([[8., 4., 2.]])
    """
    if not callable(f):
        raise invalid_type(_OWNER, "f", "a function of named parameters", f)
    check_choice(_OWNER, "kind", kind, ("black box", "nonlinear"))
    parameters = parameters if isinstance(parameters, (Layout, str)) else getattr(parameters, "layout", parameters)
    if not isinstance(parameters, Layout):
        if isinstance(parameters, str) or not isinstance(parameters, Sequence):
            raise invalid_type(_OWNER, "parameters", "prior.layout, or a sequence of names", parameters)
        parameters = Layout(tuple(Part(name, ()) for name in parameters))
    repair = "Arguments that are not inferred need a default, or functools.partial."
    check_names(_OWNER, "f", f, parameters.names, "the parameters", repair)
    cls = BlackBoxSimulator if kind == "black box" else TorchSimulator
    return cls(f=f, parameters=parameters, out_shape=check_dims(_OWNER, "out_shape", out_shape))


class _Simulator(Operator):
    f: Callable[..., Any]
    parameters: Layout

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        return (self.parameters.size,)

    def _call(self, values: Mapping[str, Any]) -> Any:
        own = {name: lent(value) for name, value in values.items()}  # into which it may write
        return call(lambda: self.f(**own))

    def _wrong(self, what: str, given: object, repair: str = "") -> OperatorError:
        name = getattr(self.f, "__qualname__", type(self.f).__name__)
        return OperatorError(f"from_simulator: `f` ({name}) must return {what}, got {given}.{repair}")


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BlackBoxSimulator(_Simulator, BlackBox):
    """A simulator that is called with floats, a set at a time; made by `from_simulator`."""

    f: Callable[..., Any]
    parameters: Layout
    out_shape: Shape

    def _apply(self, x: Tensor) -> Tensor:
        parts = {name: value.detach().cpu() for name, value in self.parameters.split(x).items()}
        out = np.empty((len(x), *self.out_shape))
        for i in range(len(x)):
            out[i] = self._one({name: value[i] for name, value in parts.items()})
        return torch.from_numpy(out).to(x.device, x.dtype)

    def _one(self, values: dict[str, Tensor]) -> Any:
        found = self._call({name: v.item() if v.ndim == 0 else v.numpy().copy() for name, v in values.items()})
        array = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found)
        if array.dtype.kind not in "fiub":
            raise self._wrong(f"real numbers of shape {self.out_shape}", f"an array of {array.dtype}")
        if array.shape != self.out_shape:
            raise self._wrong(f"shape {self.out_shape}", array.shape)
        return array


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TorchSimulator(_Simulator):
    """A simulator that torch differentiates, called with tensors; made by `from_simulator`."""

    f: Callable[..., Any]
    parameters: Layout
    out_shape: Shape

    def _apply(self, x: Tensor) -> Tensor:
        try:
            y = self._call(self.parameters.split(x))
        except Exception as error:
            error.add_note(f"from_simulator: {_ROWS}")
            raise
        if not isinstance(y, Tensor) or tuple(y.shape) != (len(x), *self.out_shape):
            given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise self._wrong(f"a tensor of shape {(len(x), *self.out_shape)}", given, f" {_ROWS}")
        return y.to(x.dtype)
