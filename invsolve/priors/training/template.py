"""What the trained prior will be: its network, units and covariance, before a step is made."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from invsolve.core.torch_state import for_new_weights
from invsolve.core.validation import Kind, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.tabulated import scaled
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.learned.parameterization import EDM, BesideLaw
from invsolve.priors.networks import NeuralOperator, NeuralOperatorConfig, UNet, UNetConfig
from invsolve.priors.training.covariance import estimate_law
from invsolve.priors.training.data import Source
from invsolve.priors.training.loss import Uncertainty
from invsolve.priors.training.options import Options


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """``prior`` with the weights being trained, the ``uncertainty`` beside them, and what the network is added to.

    ``law``: of standardised signals, its mean with the channels; None where the skip is white.
    """

    prior: NetworkPrior
    uncertainty: Uncertainty
    law: GaussianLaw | None


def make_template(
    source: Source,
    measured: Tensor,
    options: Options,
    network: UNetConfig | NeuralOperatorConfig | nn.Module | None,
    start: NetworkPrior | None,
    device: torch.device,
    card: Mapping[str, Any],
    field: GaussianFieldPrior | None = None,
) -> Template:
    """The prior of ``source``, of which ``measured`` ``(n, *shape)`` are signals, with its first weights.

    ``field``: states law and diffusion noise, in the units of the signal, in place of the covariance of the signals.
    """
    real = kind_dtype(measured.dtype, "real")
    if real not in (torch.float32, torch.float64):
        raise invalid_type("train", "data", "of single or double precision", str(measured.dtype), "data.float()")
    law = estimate_law(measured) if field is None else _law_of(field, source, options)
    offset = law.mean.mean() if not source.complex else torch.zeros((), dtype=measured.dtype, device="cpu")
    centred = measured - offset
    parts = torch.view_as_real(centred) if source.complex else centred
    unit = float(parts.square().mean().sqrt())
    if field is not None:
        field = _standardised(field, float(offset), unit)
    if start is not None and network is not None:
        raise invalid("train", "network", "left out with `start`", type(network).__name__)
    hidden = start is not None and start.channels == "hidden" or len(source.shape) <= 2
    channels = (2 if source.complex else 1) if hidden else source.shape[0]
    kind: Kind = "complex" if source.complex else "real"
    with for_new_weights():
        torch.manual_seed(options.seed)
        if start is not None:
            _check_start(start, options, kind, channels)
        module = _module(network, start, channels, len(source.shape)).to(device=device, dtype=real)
        uncertainty = Uncertainty().to(device=device, dtype=real)
    if device.type == "cpu" and len(source.shape) >= 2:
        module = module.to(memory_format=torch.channels_last)
    prior = NetworkPrior(
        network=module.train(),
        shape=source.shape,
        kind=kind,
        channels="hidden" if hidden else "first",
        offset=offset.to(device),
        unit=unit,
        sigma_range=(options.levels.low * unit, options.levels.high * unit),
        mean=law.mean.to(device),
        scale=float(law.variances.max()) ** 0.5,
        detail=max(float(law.variances.min()) ** 0.5, options.levels.low * unit),
        law=law.to(device),
        field=None if field is None else field.to(device),
        card=dict(card),
        prediction=BesideLaw() if options.skip == "law" else EDM(),
    )
    module.requires_grad_(True)
    return Template(prior=prior, uncertainty=uncertainty, law=_standard(prior) if options.skip == "law" else None)


def _law_of(field: GaussianFieldPrior, source: Source, options: Options) -> GaussianLaw:
    if not isinstance(field, GaussianFieldPrior):
        raise invalid_type("train", "field", "a GaussianFieldPrior", field)
    if field.shape != tuple(source.shape) or source.complex:
        given = f"{'complex' if source.complex else 'real'} signals of shape {source.shape}"
        raise invalid("train", "field", f"beside real signals of its shape {field.shape}", given)
    if options.skip != "law":
        raise invalid("train", "options.skip", "'law' with a field", repr(options.skip))
    if not bool((field.law.mean == field.law.mean.flatten()[0]).all()):
        raise invalid("train", "field", "of a constant mean", "a mean field")
    return field.law


def _standardised(field: GaussianFieldPrior, offset: float, unit: float) -> GaussianFieldPrior:
    """The field of ``(x - offset) / unit``."""
    mean = (float(field.law.mean.flatten()[0]) - offset) / unit
    return replace(field, mean=mean, spectrum=scaled(field.spectrum, 1 / unit), dtype=field.dtype)


def _check_start(start: NetworkPrior, options: Options, kind: Kind, channels: int) -> None:
    wanted = {"law": BesideLaw, "white": EDM}[options.skip]
    if not isinstance(start.prediction, wanted):
        advice = "Options(skip='white') goes on with EDM." if isinstance(start.prediction, EDM) else ""
        given = type(start.prediction).__name__
        raise invalid("train", "start", f"a prior with {wanted.__name__} predictions, as `skip`", given, advice)
    own = 2 if start.kind == "complex" else 1 if start.channels == "hidden" else start.shape[0]
    if start.kind != kind or own != channels:
        raise invalid(
            "train", "start", f"of {kind} signals with {channels} channels in the network", f"{start.kind}, {own}"
        )


def _module(
    network: UNetConfig | NeuralOperatorConfig | nn.Module | None, start: NetworkPrior | None, channels: int, axes: int
) -> nn.Module:
    if start is not None:
        return copy.deepcopy(start.network)
    if isinstance(network, nn.Module):
        return copy.deepcopy(network)  # so that the next training with it does not change this prior
    if axes == 1:
        raise invalid(
            "train",
            "network",
            "a module for signals of one axis",
            "the U-Net, which is for images",
            "Any module that maps (batch, 1, n) and (batch,) to the same.",
        )
    if isinstance(network, NeuralOperatorConfig):
        return NeuralOperator(replace(network, channels=channels))
    if network is None or isinstance(network, UNetConfig):
        return UNet(replace(network or UNetConfig(), channels=channels))
    raise invalid_type("train", "network", "a UNetConfig, a NeuralOperatorConfig or a torch.nn.Module", network)


def _standard(prior: NetworkPrior) -> GaussianLaw:
    law = prior.law
    assert law is not None
    mean = prior._channels(((law.mean - prior.offset) / prior.unit)[None])[0]
    return replace(law, mean=mean, variances=law.variances / prior.unit**2)
