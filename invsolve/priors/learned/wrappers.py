"""Other people's networks as priors: any module or function, and the denoisers of deepinv."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import Kind, check_choice, check_dims, check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.learned.parameterization import EDM, Direct, Prediction, Scheduled
from invsolve.priors.learned.schedules import DDPM

# What noise must reach, and what samples must show, of signals whose law is not stated: of `unit`. A constant over some
# hundreds of entries has ten times the standard deviation of one; EDM stops at 0.004 of the rms of its signals.
_SCALE, _DETAIL = 10.0, 0.02


@in_defined_state
def from_network(
    network: nn.Module | Callable[[Tensor, Tensor], Tensor],
    prediction: Prediction,
    shape: Sequence[int],
    *,
    kind: Kind = "real",
    channels: str | None = None,
    offset: Tensor | float = 0.0,
    unit: float = 1.0,
    sigma_range: tuple[float, float] | None = None,
    mean: Tensor | float | None = None,
    scale: float | None = None,
    detail: float | None = None,
    law: GaussianLaw | None = None,
    card: Mapping[str, Any] | None = None,
) -> NetworkPrior:
    """A prior from a trained network and what it predicts: `EDM`, `Direct`, or `Scheduled` with its schedule.

    Parameters
    ----------
    network : torch.nn.Module or callable
        ``network(z, time)`` takes ``z`` ``(batch, channels, *grid)`` and ``time`` ``(batch,)`` and returns the shape of
        ``z``; the networks of diffusers, which wrap their output, are taken as they are. A plain function is float32
        until the prior is moved by ``to``. A module is put in evaluation mode. It may enter `torch.autocast` itself.
    prediction : Prediction
        What the output means: `EDM`, `Direct` or `Scheduled`.
    shape : sequence of int
        Of the signals, no batch axis.
    kind : {"real", "complex"}
        Of the signals.
    channels : {"hidden", "first"}, optional
        "hidden" if the network's channel axis is not part of ``shape`` (one channel, or two for complex signals),
        "first" if it is; unless given, "first" for real signals of three axes or more.
    offset : float or Tensor, shape (*shape)
        The network saw ``(x - offset) / unit``: for images in [0, 1] and a network on [-1, 1], ``offset=0.5,
        unit=0.5``.
    unit : float
        See ``offset``; > 0, 1 by default.
    sigma_range : tuple of float, optional
        Lowest and highest noise level of training in units of the signal; unless given, those usual for the prediction.
    mean : float or Tensor, shape (*shape), optional
        The mean signal; the offset unless given.
    scale : float, optional
        The largest standard deviation of any direction, > 0, which tells solvers where to start. Unless given, ten
        units, or a tenth of the highest level of training if that is less.
    detail : float, optional
        The smallest standard deviation that samples must show, > 0, which tells solvers where to end. Unless given, a
        fiftieth of a unit. Both are guesses that fit images, and that cost some steps where they are wide.
    law : GaussianLaw, optional
        A Gaussian distribution with about the mean and covariance of the signals, as for `NetworkPrior`.
    card : mapping, optional
        What it was trained on, for people.

    Returns
    -------
    NetworkPrior
        In the network's precision and on its device.

    Raises
    ------
    InputError
        For a prediction without usual levels (variance exploding, direct) and no ``sigma_range``; at a call if the
        network returns another shape.
    InputTypeError
        If ``network`` cannot be called or ``prediction`` is no prediction.

    Examples
    --------
    >>> import torch
    >>> from invsolve.priors import Scheduled, VP, from_network
    >>> ideal = from_network(lambda z, t: z * 0 + 1, Scheduled(what="noise", schedule=VP()), shape=(2,))
    >>> ideal.denoise(torch.ones(1, 2), 0.25)  # x minus 0.25 of the predicted noise
    tensor([[0.7500, 0.7500]])
    """
    owner = "from_network"
    if not isinstance(network, nn.Module):
        if not callable(network):
            raise invalid_type(owner, "network", "a torch.nn.Module or a function of (z, time)", network)
        network = _Function(network)
    if not isinstance(prediction, Prediction):
        raise invalid_type(owner, "prediction", "EDM(...), Direct() or Scheduled(...)", prediction)
    dims = check_dims(owner, "shape", shape)
    check_choice(owner, "kind", kind, ("real", "complex"))
    unit = check_positive(owner, "unit", unit)
    if sigma_range is None:
        if prediction.levels is None:
            raise invalid(owner, "sigma_range", f"stated with {prediction}", "None", "Give the levels of its training.")
        sigma_range = prediction.levels[0] * unit, prediction.levels[1] * unit
    if channels is None:
        channels = "first" if kind == "real" and len(dims) >= 3 else "hidden"
    return NetworkPrior(
        network=network.eval(),
        prediction=prediction,
        shape=dims,
        kind=kind,
        channels=channels,
        offset=offset,
        unit=unit,
        sigma_range=sigma_range,
        mean=mean,
        law=law,
        card=dict(card or {}),
        scale=min(_SCALE * unit, sigma_range[1] / 10) if scale is None else scale,
        detail=_DETAIL * unit if detail is None else detail,
    )


@in_defined_state
def from_deepinv(
    denoiser: Any,
    shape: Sequence[int],
    *,
    kind: Kind = "real",
    channels: str | None = None,
    offset: Tensor | float = 0.0,
    unit: float = 1.0,
    sigma_range: tuple[float, float] | None = None,
    mean: Tensor | float | None = None,
    scale: float | None = None,
    detail: float | None = None,
    law: GaussianLaw | None = None,
) -> NetworkPrior:
    """A prior from a denoiser of deepinv (``deepinv.models``): DRUNet, DiffUNet, NCSNpp, ADMUNet and others.

    Networks inside ADMUNet, NCSNpp and DiffUNet are called themselves: without the rounding of noise levels to a table
    and the clamping of images to [0, 1] that their wrappers add, which no posterior mean has. Other denoisers are
    called with ``(x, sigma)``. A denoiser that was trained on little noise only is a poor prior: samples start from
    noise that drowns the signal.

    Parameters
    ----------
    denoiser : deepinv.models.Denoiser
        A network without class labels. DiffUNet works in single precision only.
    shape : sequence of int
        Of the signals, no batch axis.
    kind : {"real", "complex"}
        Of the signals.
    channels : {"hidden", "first"}, optional
        Whether the channel axis is part of ``shape``, as for `from_network`.
    offset : float or Tensor, shape (*shape)
        They denoise images in [0, 1]; signals x are given to them as ``(x - offset) / unit``.
    unit : float
        See ``offset``; > 0, 1 by default.
    sigma_range : tuple of float, optional
        Noise levels of training in units of the signal. To be stated for denoisers other than ADMUNet, NCSNpp,
        DiffUNet, and DRUNet, for which it is 0.001 to 0.2 units.
    mean : float or Tensor, shape (*shape), optional
        The mean signal; the offset unless given.
    scale : float, optional
        The largest standard deviation of any direction, > 0, as for `from_network`.
    detail : float, optional
        The smallest standard deviation that samples must show, > 0, as for `from_network`.
    law : GaussianLaw, optional
        A Gaussian distribution with about the mean and covariance of the signals.

    Returns
    -------
    NetworkPrior
        In the denoiser's precision and on its device.

    Raises
    ------
    InputTypeError
        For anything but a deepinv denoiser.
    InputError
        If ``sigma_range`` must be stated and is not.
    UnsupportedError
        For networks conditional on a class.
    """
    owner = "from_deepinv"
    models = _models()
    if not isinstance(denoiser, models.Denoiser):
        raise invalid_type(owner, "denoiser", "a deepinv.models.Denoiser", denoiser)
    unit = check_positive(owner, "unit", unit)
    network: nn.Module = denoiser
    prediction: Prediction = Direct()
    inner_offset, inner_unit = 0.0, 1.0
    if getattr(denoiser, "map_label", None) is not None or getattr(denoiser, "num_classes", None) is not None:
        raise UnsupportedError(
            f"{owner}: this {type(denoiser).__name__} is conditional on a class: what it knows of "
            "signals without one is not a law."
        )
    if isinstance(denoiser, models.DiffUNet):
        network = _Part(denoiser, "forward", {"type_t": "timestep"})
        prediction = Scheduled(what="noise", schedule=DDPM())
        inner_offset, inner_unit = 0.5, 0.5
    elif isinstance(denoiser, (models.ADMUNet, models.NCSNpp)) and _is_edm(denoiser):
        network, prediction = _Part(denoiser, "forward_unet"), EDM(sigma_data=denoiser.pixel_std)
        if denoiser._was_trained_on_minus_one_one:
            inner_offset, inner_unit = 0.5, 0.5
    elif sigma_range is None and isinstance(denoiser, models.DRUNet):
        sigma_range = 0.001 * unit, 0.2 * unit
    return from_network(
        network,
        prediction,
        shape=shape,
        kind=kind,
        channels=channels,
        offset=offset + unit * inner_offset,
        unit=unit * inner_unit,
        sigma_range=sigma_range,
        mean=mean,
        scale=scale,
        detail=detail,
        law=law,
    )


def _models() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deepinv's own imports
        import deepinv

    return deepinv.models


def _is_edm(denoiser: Any) -> bool:
    return getattr(denoiser, "precondition_type", "edm") == "edm"


@final
class _Function(nn.Module):
    """A function as a module; the buffer gives it a precision and a device that `to` can change."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("place", torch.zeros((), dtype=torch.float32, device="cpu"))

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        return self.function(z, time)


@final
class _Part(nn.Module):
    """One method of a module, with some of its options set, as a module."""

    def __init__(self, whole: nn.Module, method: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.whole, self.method, self.options = whole, method, dict(options or {})

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        out: Tensor = getattr(self.whole, self.method)(z, time, **self.options)
        return out
