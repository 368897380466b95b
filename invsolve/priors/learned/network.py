"""A prior known through a neural network."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from invsolve.core.arrays import numbers
from invsolve.core.public_names import MissingAttribute
from invsolve.core.validation import Kind, Shape, check_choice, check_dims, check_finite, check_positive, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.gaussian.spectral_modes import SpectralModes
from invsolve.priors.base import Prior
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.learned.adapt import Keep, on_problem
from invsolve.priors.learned.parameterization import EDM, Prediction
from invsolve.priors.learned.resampled import ResampledPrior
from invsolve.priors.networks.tiled import Tiled, for_grid
from invsolve.problem import Problem

_OWNER = "NetworkPrior"


@final
@dataclass(frozen=True, eq=False, repr=False)
class NetworkPrior(Prior):
    """A network on standardised signals: ``D(x, sigma) = offset + unit D_w((x - offset) / unit, sigma / unit)``.

    `priors.training` makes such priors, `priors.load` reads them, `from_network` and `from_deepinv` wrap networks.

    Parameters
    ----------
    network : torch.nn.Module
        Maps ``(batch, channels, *grid)`` and one value a row ``(batch,)`` to the shape of the first. It is used as it
        is: put it in evaluation mode; its parameters get no gradients. It sees standardised values.
    shape : tuple of int
        Of the signals, no batch axis: the grid where ``channels`` is "hidden", ``(channels, *grid)`` where it is
        "first".
    scale : float
        The largest standard deviation of any direction, > 0, in units of the signal. With ``mean`` and ``detail`` it
        tells solvers how to choose their noise levels.
    prediction : Prediction
        What the output of the network means: `EDM` (the default), `BesideLaw`, `Direct`, or `Scheduled` for networks of
        noise, score, signal, v and velocity.
    kind : {"real", "complex"}
        Of the signals.
    channels : {"hidden", "first"}
        "hidden": real signals are given to the network with one channel, complex ones with two, and the axis is removed
        again. "first": the first axis of ``shape`` is the channels (real signals of two axes or more).
    offset : float or Tensor, shape (*shape)
        With ``unit`` it leads from the network's values back to the units of the signal. 0 by default.
    unit : float
        Units of the signal for 1 of the network, > 0.
    sigma_range : tuple of float
        Lowest and highest noise level of training, in units of the signal. Outside of them the network is told the
        nearest one; the rest stays exact.
    mean : float or Tensor, shape (*shape), optional
        The mean signal; that of the field, or the offset, unless given.
    detail : float, optional
        The smallest standard deviation that samples must show, > 0.
    law : GaussianLaw, optional
        A Gaussian distribution with about the mean and covariance of this prior, which guidance uses in place of
        derivatives of the network. `BesideLaw` needs it.
    keep : {"pixel", "field of view"}, optional
        What another grid shares with this one where `on` is not told: "pixel" for networks that are for any size.
    card : mapping
        What it was trained on, for people; "voxel size", two lengths in mm, is that of its pixels.
    notes : tuple of str
        What was done to fit it to a problem (`on`).
    field : GaussianFieldPrior, optional
        For networks that are the same map on every grid (`NeuralOperator`): a random field with about the mean and
        the spectrum of the standardised signals, real and without channels. It states the law, and its
        ``noise_spectrum`` the diffusion noise, on every grid of its box; its own is that of the training.

    Raises
    ------
    InputError
        If a value is out of its range or of another shape, if ``law`` is missing beside `BesideLaw`, and at a call if
        the noise level differs between the entries of a row.
    InputTypeError
        If ``network`` is no module, ``prediction`` no prediction, or ``law`` no `GaussianLaw` of such signals.
    """

    network: torch.nn.Module
    _: KW_ONLY
    shape: Shape
    scale: float
    prediction: Prediction = field(default_factory=EDM)
    kind: Kind = "real"
    channels: str = "hidden"
    offset: Tensor | float = 0.0
    unit: float = 1.0
    sigma_range: tuple[float, float]
    mean: Tensor | float | None = None  # type: ignore[assignment]  # a tensor once constructed; the offset unless given
    detail: float | None = None
    law: GaussianLaw | None = None
    keep: Keep | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    field: GaussianFieldPrior | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.network, torch.nn.Module):
            raise invalid_type(_OWNER, "network", "a torch.nn.Module", self.network)
        if not isinstance(self.prediction, Prediction):
            raise invalid_type(_OWNER, "prediction", "EDM(...) or Scheduled(...)", self.prediction)
        shape = check_dims(_OWNER, "shape", self.shape)
        check_choice(_OWNER, "kind", self.kind, ("real", "complex"))
        check_choice(_OWNER, "channels", self.channels, ("hidden", "first"))
        if self.keep is not None:
            check_choice(_OWNER, "keep", self.keep, ("pixel", "field of view"))
        weights = [p for p in (*self.network.parameters(), *self.network.buffers()) if p.is_floating_point()]
        first = weights[0] if weights else torch.zeros((), dtype=torch.float32, device="cpu")
        if self.field is not None:
            self._check_field(shape, first)
        if self.prediction.beside_law and self.law is None:
            advice = "The network is added to its denoiser."
            raise invalid(_OWNER, "law", f"given with {self.prediction}", "None", advice)
        if self.channels == "first" and (self.kind == "complex" or len(shape) < 2):
            raise invalid(_OWNER, "channels", "'hidden' for complex signals and for one axis", self.channels)
        check_positive(_OWNER, "scale", self.scale)
        check_positive(_OWNER, "unit", self.unit)
        if self.detail is not None:
            check_positive(_OWNER, "detail", self.detail)
        low, high = self.sigma_range
        check_positive(_OWNER, "sigma_range[0]", low)
        if not low < high:
            raise invalid(_OWNER, "sigma_range", "(low, high) with low < high", self.sigma_range)
        device, dtype = first.device, kind_dtype(first.dtype, self.kind)

        def on_grid(name: str, value: Tensor | float) -> Tensor:
            t = numbers(value, dtype=dtype, device=device)
            if t.ndim and tuple(t.shape) != shape:
                raise invalid(_OWNER, name, f"a number or of shape {shape}", tuple(t.shape))
            return check_finite(_OWNER, name, t)

        if self.law is not None:
            if not isinstance(self.law, GaussianLaw):
                raise invalid_type(_OWNER, "law", "an iv.priors.GaussianLaw", self.law)
            if tuple(self.law.mean.shape) != shape or tuple(self.law.modes.shape) != shape:
                raise invalid(_OWNER, "law", f"of signals of shape {shape}", tuple(self.law.mean.shape))
            if self.law.mean.is_complex() != dtype.is_complex:
                raise invalid_type(_OWNER, "law", f"of {self.kind} signals", str(self.law.mean.dtype))
            object.__setattr__(self, "law", self.law.to(device, first.dtype))
        offset = on_grid("offset", self.offset)
        stated = offset if self.field is None or self.law is None else self.law.mean
        mean = on_grid("mean", stated if self.mean is None else self.mean)
        for name, value in (("shape", shape), ("offset", offset), ("mean", mean.broadcast_to(shape).clone())):
            object.__setattr__(self, name, value)
        self.network.requires_grad_(False)

    def _check_field(self, shape: Shape, like: Tensor) -> None:
        """State the law of the field on the grid of the signals, where and as precise as the weights are."""
        if not isinstance(self.field, GaussianFieldPrior):
            raise invalid_type(_OWNER, "field", "a GaussianFieldPrior", self.field)
        if self.kind == "complex" or self.channels == "first" or len(self.field.shape) != len(shape):
            given = f"{self.kind} signals of shape {shape}, channels {self.channels}"
            raise invalid(_OWNER, "field", "left out for complex signals, channels and other axes than its own", given)
        if isinstance(self.offset, Tensor) and self.offset.ndim:
            raise invalid(_OWNER, "offset", "a number beside a field", tuple(self.offset.shape))
        if self.field.device != like.device or self.field.dtype != like.dtype:
            object.__setattr__(self, "field", self.field.to(like.device, like.dtype))
        here = self.field.on(shape).law
        unit, offset = self.unit, float(self.offset)
        law = replace(here, mean=offset + unit * here.mean, variances=unit**2 * here.variances)
        object.__setattr__(self, "law", law)

    # --- the law ------------------------------------------------------------------------------------------------------
    if not TYPE_CHECKING:  # what a class has not is not there for type checkers

        def __getattr__(self, name: str) -> Any:
            """Only asked for what is not there: what may be meant, in the error."""
            if not name.startswith("_") and hasattr(type(self), name):
                return object.__getattribute__(self, name)  # one that is there and failed: its own error
            raise MissingAttribute(type(self), name, "iv.priors.save_prior(prior, path)" if name == "save" else "")

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        if sigma.ndim and sigma.shape[1:].numel() > 1:
            raise invalid(
                _OWNER,
                "sigma",
                "one noise level for every row, not one for every entry",
                tuple(sigma.shape),
                "A network is told one level.",
            )
        levels = (sigma.flatten() / self.unit).expand(len(x))
        w = self._channels((x - self.offset) / self.unit)
        low, high = (s / self.unit for s in self.sigma_range)
        law = None
        if self.prediction.beside_law:
            assert self.law is not None
            t = self.unit * levels
            filtered = (self.law.denoise(x, t) - self.offset) / self.unit
            # One scale for all grids of a field: what the network adds is then the same on each.
            left = self.law.left(t) / self.unit if self.field is None else self.field.law.left(levels)
            law = self._channels(filtered), left
        value = self.prediction.denoise(self.network, w, levels, low, high, law)
        return self.offset + self.unit * self._signal(value, x)

    def noise(self, z: Tensor) -> Tensor:
        return z if self.field is None else self._colour(z, 1)

    def noise_covariance(self, v: Tensor) -> Tensor:
        return v if self.field is None else self._colour(v, 2)

    @property
    def white_noise(self) -> bool:
        return self.field is None or self.field.white_noise

    def _colour(self, v: Tensor, power: int) -> Tensor:
        modes = self._field_modes
        return v if modes.colour is None else modes.transform.inverse(modes.colour**power * modes.transform.forward(v))

    @property
    def _field_modes(self) -> SpectralModes:
        assert self.law is not None and isinstance(self.law.modes, SpectralModes)
        return self.law.modes

    def _diffusion_noise(self, z: Tensor) -> Tensor:
        """Noise of unit level of white ``z`` ``(batch, channels, *grid)``, as the network sees it."""
        return z if self.field is None else self.noise(z[:, 0])[:, None]

    def _channels(self, x: Tensor) -> Tensor:
        if x.is_complex():
            return torch.view_as_real(x).movedim(-1, 1)
        return x if self.channels == "first" else x[:, None]

    def _signal(self, w: Tensor, like: Tensor) -> Tensor:
        if like.is_complex():
            return torch.view_as_complex(w.movedim(1, -1).contiguous())
        return w if self.channels == "first" else w[:, 0]

    @property
    def learned(self) -> bool:
        return True

    @property
    def voxel_size(self) -> tuple[float, float] | None:
        """The smallest and largest size, in mm, of the pixels that it was trained on; None where `card` has none."""
        sizes = self.card.get("voxel size")
        if not isinstance(sizes, Sequence) or len(sizes) != 2 or not all(isinstance(v, (int, float)) for v in sizes):
            return None
        low, high = (float(v) for v in sizes)
        return (low, high) if 0 < low <= high < math.inf else None

    def on(self, problem: Problem | Shape, *, keep: Keep | None = None) -> NetworkPrior | ResampledPrior:
        """Fit the prior to a problem: its grid and its units; `notes` of what comes back say what was done.

        A prior with a `field` is the same distribution on every grid of its box, of which a shape may be given too.

        The scale is inferred from the energy of the data beyond their noise, and changed where signals of the prior
        would be more than twice as large or small.

        Parameters
        ----------
        problem : Problem or tuple of int
            Whose grid, kind and data the prior is to fit; the shape of a grid, with a `field`.
        keep : {"pixel", "field of view"}, optional
            What another grid shares with the prior's. Not needed where the size of pixels is known, of the problem
            (`Problem.grid`, as `iv.open` makes it) and of the prior (`voxel_size`): both follow from them. Else it must
            be stated where there is another grid and the prior's own `keep` does not say. ``"field of view"``:
            the prior is resampled to finer pixels (`ResampledPrior`; detail beyond its own is Gaussian, its spectrum
            continued). ``"pixel"``: the network works on another number of pixels of the same size, a patch (half of
            its grid at least) or more than it was trained on; above 512 x 512 in overlapping tiles (`Tiled`), if it is
            a `UNet` without attention.

        Returns
        -------
        NetworkPrior or ResampledPrior
            The first unless the prior was resampled.

        Raises
        ------
        InputError, UnsupportedError
            Where that cannot be: real against complex, a coarser grid, a mean image, items on different scales.
        """
        here, notes = self, list[str]()
        shape = problem.shape if isinstance(problem, Problem) else problem
        if self.field is not None and keep is None and isinstance(shape, tuple) and len(shape) == len(self.shape):
            if (shape := check_dims("prior.on", "problem", shape)) != self.shape:
                here = self._on_the_box(shape)
                notes = [f"the same distribution on {shape} points of its box, {self.shape} before"]
            if not isinstance(problem, Problem):
                return replace(here, notes=(*self.notes, *notes))
        fitted, more = on_problem(here, problem, self.keep if keep is None else keep)  # type: ignore[arg-type]
        return replace(fitted, notes=(*self.notes, *notes, *more))

    def _on_the_box(self, shape: Shape) -> NetworkPrior:
        """On other points of the box of the field."""
        assert self.field is not None
        if self.white_noise:
            given = f"a field without one, and signals of shape {shape}"
            want, advice = "given for another grid", "White noise is another on every grid: train with coloured noise."
            raise invalid("prior.on", "field.noise_spectrum", want, given, advice)
        here = replace(self, shape=shape, mean=None, law=None)  # both follow from the field
        assert here.law is not None
        stds = here.law.variances[here.law.variances > 0].sqrt()
        finest = max(float(stds.min()), self.sigma_range[0])  # a finer grid has finer modes
        detail = None if self.detail is None else min(self.detail, finest)
        return replace(here, scale=float(stds.max()), detail=detail)

    @property
    def _needs_law(self) -> bool:
        """Whether the network is added to the denoiser of `law` (`BesideLaw`)."""
        return self.prediction.beside_law

    # --- the same law elsewhere ---------------------------------------------------------------------------------------
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NetworkPrior:
        real = kind_dtype(dtype or self.dtype, "real")
        network = copy.deepcopy(self.network).to(device=device, dtype=real)
        law = None if self.law is None else self.law.to(device, real)
        own = kind_dtype(real, self.kind)
        assert isinstance(self.mean, Tensor) and isinstance(self.offset, Tensor)
        return replace(
            self,
            network=network,
            law=law,
            mean=self.mean.to(device=device, dtype=own),
            offset=self.offset.to(device=device, dtype=own),
            field=None if self.field is None else self.field.to(device, real),
        )

    def _resized(self, mean: Tensor, law: GaussianLaw | None, scale: float) -> NetworkPrior:
        """Run the network on the grid of ``mean``, on which ``law`` and ``scale`` are stated (`on` chooses them)."""
        grid = tuple(mean.shape[1:] if self.channels == "first" else mean.shape)
        return replace(
            self, network=for_grid(self.network, grid), shape=tuple(mean.shape), mean=mean, law=law, scale=scale
        )

    @property
    def _tiles(self) -> list[str]:
        net = self.network
        return [f"in tiles of {net.tile} pixels that overlap by {net.overlap}"] if isinstance(net, Tiled) else []

    def rescaled(self, factor: float) -> NetworkPrior:
        """Fit the prior to another unit: the distribution of ``factor`` > 0 times the signal."""
        f = check_positive(_OWNER, "factor", factor)
        law, (low, high) = self.law, self.sigma_range
        if law is not None:
            law = replace(law, mean=f * law.mean, variances=f**2 * law.variances)
        assert isinstance(self.mean, Tensor)
        return replace(
            self,
            offset=f * self.offset,
            unit=f * self.unit,
            mean=f * self.mean,
            scale=f * self.scale,
            law=law,
            detail=None if self.detail is None else f * self.detail,
            sigma_range=(f * low, f * high),
        )
