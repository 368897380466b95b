"""A trained network of fields as an operator: models of neuralop, or any torch module of fields on a grid."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from invsolve.core.arrays import real_parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.ownership import call, made, replaced
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Shape, check_finite, check_int, kind_dtype
from invsolve.errors import OperatorError, invalid, invalid_type
from invsolve.operators.base import Operator

_OWNER = "from_neuralop"
_WAVE = 1e-3  # of its size, by which a constant may differ from a constant: rounding of transforms in single precision


@in_defined_state
def from_neuralop(
    model: nn.Module,
    grid: CartesianGrid,
    *,
    in_channels: int | None = None,
    out_channels: int | None = None,
    in_scaling: Any = (0.0, 1.0),
    out_scaling: Any = (0.0, 1.0),
    allow_odd: bool = False,
) -> Operator:
    """Make a differentiable operator of a trained network: an FNO or UNO of neuralop, or any torch module of fields.

    The model maps ``(batch, channels, *grid.shape)`` to ``(batch, channels, *shape)``. It is copied, put into
    evaluation mode, and its weights get no gradients; training the original on changes nothing here. Two random fields
    are sent through it at once, to see what it gives and that each row is a map of its own input alone.

    Parameters
    ----------
    model : torch.nn.Module
        The trained network. Read files of weights with the package that wrote them.
    grid : CartesianGrid
        Where the input field lies.
    in_channels, out_channels : int, optional
        Given, fields have an axis of so many channels, ``(channels, *grid.shape)``. By default as many as the model
        says (``model.in_channels``, else one) and gives, and one channel has no axis: fields are ``grid.shape``.
    in_scaling, out_scaling : tuple of float, Tensor or array, or normaliser of neuralop
        ``(mean, std)`` of the training data: the model gets ``(x - mean) / std``, and its output becomes ``output * std
        + mean``. Numbers, one a channel ``(channels,)``, or whatever spreads to ``(channels, *shape)``. A
        ``UnitGaussianNormalizer`` is read. The model's own units by default.
    allow_odd : bool
        True for a model with spectral layers of neuralop that was trained on this very grid, of odd size.

    Returns
    -------
    Operator
        Its ``grid`` is where the input lies, ``out_grid`` where the output does: the same box.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, or the spectral layers of neuralop are wrong on this grid.
    OperatorError
        If the model does not take these fields, is not differentiable, is random, or lets the fields of a batch depend
        on one another; at a call, if it gives another shape.

    See Also
    --------
    invsolve.noise.surrogate_error : How wrong it is, as a part of the noise.

    Notes
    -----
    The model works in the precision of its weights; fields of another are converted on the way in and out. The
    spectral layers of neuraloperator 2.0.0 turn constants into waves where a size but the last is odd: such a grid is
    refused, and so is one that becomes odd inside the model (padding, the levels of a UNO). neuralop is not imported.

    References
    ----------
    Li et al. 2021, Fourier neural operator for parametric partial differential equations, arXiv 2010.08895.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> net = torch.nn.Conv2d(1, 1, 3, padding=1)
    >>> A = from_neuralop(net, iv.CartesianGrid((16, 16)), in_scaling=(3.0, 0.5))
    >>> A(torch.ones(2, 16, 16)).shape
    torch.Size([2, 16, 16])
    """
    if not isinstance(model, nn.Module):
        repair = "A function is taken by from_callable(f, in_shape, out_shape)." if callable(model) else ""
        raise invalid_type(_OWNER, "model", "a torch.nn.Module", model, repair)
    if not isinstance(grid, CartesianGrid):
        raise invalid_type(_OWNER, "grid", "an iv.CartesianGrid", grid)
    for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
        if value is not None:
            check_int(_OWNER, name, value, minimum=1)
    if not isinstance(allow_odd, bool):
        raise invalid_type(_OWNER, "allow_odd", "True or False", allow_odd)
    model = _frozen(model)
    precision = _precision(model) or torch.float32
    said = getattr(model, "in_channels", 1)
    takes = in_channels or (said if isinstance(said, int) and said > 0 else 1)
    gives, shape = _tried(model, takes, grid, precision, allow_odd)
    if out_channels not in (None, gives):
        raise invalid(_OWNER, "out_channels", f"{gives}, what the model gives", out_channels)
    device = next((v.device for v in model.parameters()), torch.device("cpu"))
    scalings = {}
    for name, given, own in (
        ("in", in_scaling, (takes, *grid.shape)),
        ("out", out_scaling, (gives, *shape)),
    ):
        for key, number in zip(("mean", "std"), _scaling(f"{name}_scaling", given, own), strict=True):
            scalings[f"{name}_{key}"] = number.to(device, precision)
    options: dict[str, Any] = {
        "model": model,
        "grid": grid,
        "out_grid": grid.on(shape),
        "in_shape": grid.shape if in_channels is None and takes == 1 else (takes, *grid.shape),
        "out_shape": shape if out_channels is None and gives == 1 else (gives, *shape),
        **scalings,
    }
    return made(NeuralSurrogate, **options)


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class NeuralSurrogate(Operator):
    """A trained network of fields; made by `from_neuralop`."""

    model: nn.Module
    grid: CartesianGrid
    out_grid: CartesianGrid
    in_shape: Shape
    out_shape: Shape
    in_mean: Tensor  # (channels or 1, *sizes or 1s), as the three others; in the precision of signals and data
    in_std: Tensor
    out_mean: Tensor
    out_std: Tensor

    def _apply(self, x: Tensor) -> Tensor:
        if not len(x):
            return x.new_empty(0, *self.out_shape)
        v = (x.view(len(x), -1, *self.grid.shape) - self.in_mean) / self.in_std
        y = call(self.model, v.to(_precision(self.model) or x.dtype))
        channel = (1,) if len(self.out_shape) == len(self.grid.shape) else ()
        _check_output(y, (len(x), *channel, *self.out_shape))
        out: Tensor = y.to(x.dtype) * self.out_std + self.out_mean
        return out.reshape(len(x), *self.out_shape)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The model is copied to the device; it keeps its precision, and fields are converted around it."""
        moved = super().to(device, dtype)
        return moved if device is None else replaced(moved, model=_frozen(self.model).to(device=device))

    def _not_differentiable(self) -> Exception:
        return _NO_GRADIENT


_NO_GRADIENT = OperatorError(
    f"{_OWNER}: the output of the model does not depend on its input for torch. Remove no_grad and detach from its "
    "forward; a model without derivatives is a black box, from_callable(model, ..., kind='black box')."
)


def _frozen(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights are constants."""
    try:
        frozen = copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:  # hooks and weights that are results of computations
        given = f"{type(model).__name__}, of which copy.deepcopy says: {error}"
        raise invalid(_OWNER, "model", "a module that can be copied", given) from error
    frozen.eval().requires_grad_(False)
    for module in frozen.modules():
        if _of_neuralop(module) and hasattr(module, "_grid"):
            module._grid = None  # type: ignore[assignment]  # coordinates that it keeps on the device and in the precision of its last call
    return frozen


def _precision(model: nn.Module) -> torch.dtype | None:
    return next(
        (kind_dtype(v.dtype, "real") for v in model.parameters() if v.is_floating_point() or v.is_complex()), None
    )


def _of_neuralop(module: nn.Module) -> bool:
    return any(cls.__module__.partition(".")[0] == "neuralop" for cls in type(module).__mro__)


def _tried(model: nn.Module, takes: int, grid: CartesianGrid, dtype: torch.dtype, allow_odd: bool) -> tuple[int, Shape]:
    """The channels and the shape that the model gives; refuses one that is not a map of each row by itself."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, takes, *grid.shape, generator=rng, dtype=dtype, device="cpu")
    x = x.to(next((v.device for v in model.parameters()), None)).requires_grad_()
    with _as_it_was(), torch.enable_grad(), _seen_by_spectral_layers(model) as seen:
        try:
            y, alone = call(model, x), call(model, x[1:])
        except Exception as error:
            raise OperatorError(
                f"{_OWNER}: the model cannot take fields {tuple(x.shape)}: {type(error).__name__}: {error} Check "
                "in_channels and the grid: it gets (batch, channels, *grid.shape)."
            ) from error
    for name, layer, sizes in seen if not allow_odd else ():
        _refuse_waves(name, layer, sizes, grid, dtype, x.device)
    if isinstance(y, Tensor) and y.ndim == x.ndim and len(y) == 2:
        _check_output(y, tuple(y.shape))
    else:
        _check_output(y, (2, "channels", *grid.shape))
    if not y.requires_grad:
        raise _NO_GRADIENT
    y, alone = check_finite(_OWNER, "the output of the model", y.detach()), alone.detach()
    gap = float((y[1:] - alone).abs().max() / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny))
    if not gap <= torch.finfo(y.dtype).eps ** 0.5:
        raise OperatorError(
            f"{_OWNER}: a field alone must give what it gives in a batch, got a difference of {gap:.2g} (relative). "
            "The model is random, or normalises over the batch: BatchNorm needs its running statistics "
            "(track_running_stats=True)."
        )
    return y.shape[1], tuple(y.shape[2:])


def _check_output(y: Any, want: tuple[Any, ...]) -> None:
    if not isinstance(y, Tensor) or not y.is_floating_point():
        given = str(y.dtype) if isinstance(y, Tensor) else type(y).__name__
        raise OperatorError(f"{_OWNER}: the model must return a real tensor, got {given}.")
    if tuple(y.shape) != want:
        wanted = f"({', '.join(map(str, want))})"
        raise OperatorError(f"{_OWNER}: the model must return shape {wanted}, got {tuple(y.shape)}.")


@contextmanager
def _as_it_was() -> Iterator[None]:
    """What a random model draws does not move the caller's generator of the CPU."""
    with torch.random.fork_rng(devices=[]):
        yield


@contextmanager
def _seen_by_spectral_layers(model: nn.Module) -> Iterator[list[tuple[str, nn.Module, Shape]]]:
    """The spectral layers of neuralop with what they are given, ``(channels, *sizes)``."""
    seen: list[tuple[str, nn.Module, Shape]] = []
    hooks = []
    for name, module in model.named_modules():
        if _of_neuralop(module) and "SpectralConv" in {cls.__name__ for cls in type(module).__mro__}:

            def look(layer: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                if args and isinstance(args[0], Tensor):
                    seen.append((name, layer, tuple(args[0].shape[1:])))

            hooks.append(module.register_forward_pre_hook(look))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _refuse_waves(
    name: str, layer: nn.Module, sizes: Shape, grid: CartesianGrid, dtype: torch.dtype, device: torch.device
) -> None:
    """A product in Fourier space takes constants to constants; one that takes them to waves mixes up frequencies."""
    if not any(n % 2 for n in sizes[1:]):
        return
    y = layer(torch.ones(1, *sizes, dtype=dtype, device=device)).flatten(2)
    if float((y - y.mean(-1, keepdim=True)).abs().max()) <= _WAVE * float(y.abs().max()):
        return
    even = tuple(n + n % 2 for n in grid.shape)
    way = f"Take an even grid, grid.on({even})" if even != grid.shape else "Take a grid that stays even in the model"
    raise invalid(
        _OWNER,
        "grid",
        "of even sizes for the spectral layers of neuralop",
        f"{grid.shape}: {name or 'the model'} gets {sizes[1:]}, and makes a wave of a constant",
        f"{way}, or a release of neuraloperator without this defect; of a model that was trained on this very grid say "
        "allow_odd=True.",
    )


def _scaling(name: str, given: Any, shape: Shape) -> tuple[Tensor, Tensor]:
    """Mean and std that spread to ``(channels, *sizes)``, float64."""
    if not isinstance(given, (tuple, list, Tensor)) and hasattr(given, "mean") and hasattr(given, "std"):
        if given.mean is None or given.std is None:
            raise invalid(_OWNER, name, "a normaliser that was fitted", "one without mean and std")
        given = given.mean, given.std + getattr(given, "eps", 0.0)
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise invalid_type(_OWNER, name, "a pair (mean, std) or a normaliser of neuralop", given)
    mean, std = (_spread(name, value, shape) for value in given)
    if bool((std <= 0).any()):
        raise invalid(_OWNER, name, "a pair (mean, std) with std > 0", f"a std of {float(std.min()):g}")
    return mean, std


def _spread(name: str, value: Any, shape: Shape) -> Tensor:
    v = check_finite(_OWNER, name, real_parameter(_OWNER, name, value, dtype=torch.float64)).double()
    if v.ndim == len(shape) + 1 and len(v) == 1:  # neuralop's have a batch axis
        v = v[0]
    if v.ndim == 1:  # one a channel
        v = v.view(-1, *[1] * (len(shape) - 1))
    v = v.view(*[1] * (len(shape) - v.ndim), *v.shape)
    if v.ndim != len(shape) or any(a not in (1, b) for a, b in zip(v.shape, shape, strict=True)):
        want = f"of numbers, one a channel ({shape[0]},), or of what spreads to {shape}"
        raise invalid(_OWNER, name, want, f"shape {tuple(value.shape) if hasattr(value, 'shape') else value}")
    return v


__all__ = ["from_neuralop"]
