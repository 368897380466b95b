"""What a network predicts, and the denoiser that follows from it.

Everything is for standardised signals w: a network that was trained on noisy ``z = alpha w + s e`` has the noise level
``sigma = s / alpha`` on ``w + sigma e = z / alpha``, and every prediction becomes D(w, sigma) = E[w0 | w]. The
conversions follow Karras et al. 2022 (arXiv 2206.00364), Salimans & Ho 2022 (v; arXiv 2202.00512) and Lipman et al.
2023 (velocity; arXiv 2210.02747).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.core.derivatives import WHY
from invsolve.core.ownership import Owner, lent
from invsolve.core.torch_state import Defined
from invsolve.core.validation import check_choice, check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.priors.learned.schedules import Schedule

# A network on (batch, channels, *grid) and its time variable (batch,).
Network = torch.nn.Module

# What a prior's stated law makes of w, and the rms that it leaves, (batch,).
FromLaw = tuple[Tensor, Tensor]


class Prediction(Defined, Owner, abc.ABC):
    """From a network and (w, sigma) to the denoiser D."""

    _lends = ("denoise",)

    beside_law = False  # whether the network's output is added to the denoiser of the prior's stated law

    @abc.abstractmethod
    def denoise(
        self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float, law: FromLaw | None = None
    ) -> Tensor:
        """D(w, sigma), shape of ``w``.

        Parameters
        ----------
        network : torch.nn.Module
            Maps ``(batch, channels, *grid)`` and its time ``(batch,)`` to its prediction.
        w : Tensor, shape (batch, channels, *grid)
            Standardised noisy signals.
        sigma : Tensor, shape (batch,)
            Noise levels of ``w``.
        low, high : float
            The levels that it was trained on: outside of them the network is told the nearest one, everything else
            stays exact.
        law : tuple of Tensor, optional
            What the prior's stated Gaussian distribution makes of w, and the rms that it leaves ``(batch,)``; given
            with `beside_law`.
        """

    @property
    def levels(self) -> tuple[float, float] | None:
        """The lowest and the highest level of w that such networks are usually trained on; None: not known."""
        return None


def _output(network: Network, z: Tensor, told: Tensor, *, doubled: bool = False) -> Tensor:
    """What the network says, of the shape of ``z``; anything else is refused here, because it might broadcast.

    ``doubled``: it may have as many channels again, which are left out.
    """
    try:
        out = network(lent(z), lent(told))  # its first layer may work in place
    except Exception as error:
        error.add_note(_called(network, z, told))
        raise
    if not isinstance(out, Tensor):  # those of diffusers wrap it
        out = out[0] if isinstance(out, (tuple, list)) else getattr(out, "sample", None)
    if not isinstance(out, Tensor):
        raise invalid_type("NetworkPrior", "network", "a module that returns a tensor", type(network).__name__)
    channels = z.shape[1]
    if (
        out.ndim != z.ndim
        or out.shape[0] != len(z)
        or out.shape[2:] != z.shape[2:]
        or (out.shape[1] not in (channels, 2 * channels if doubled else channels))
    ):
        expected = f"a module that returns the shape that it is given, {tuple(z.shape)}"
        raise invalid("NetworkPrior", "network", expected, tuple(out.shape))
    if not out.is_floating_point():
        raise invalid_type("NetworkPrior", "network", "a module that returns real numbers", str(out.dtype))
    if torch.is_grad_enabled() and z.requires_grad and not out.requires_grad:
        # The rest of the denoiser has a derivative, which alone would be taken for all of it.
        raise UnsupportedError(f"NetworkPrior: `network` must be differentiable by torch, {WHY}")
    return out[:, :channels].to(z.dtype)  # of what autocast made of a lower precision


def _called(network: Network, z: Tensor, told: Tensor) -> str:
    """What a network was called with, for an error inside of it."""
    text = (
        f"NetworkPrior: `network` ({type(network).__name__}) was called with {tuple(z.shape)} and {tuple(told.shape)}"
    )
    if z.dtype != torch.float64:
        return f"{text} of {z.dtype}."
    return (
        f"{text} of torch.float64, the precision of the data, and its weights are in it too: a fixed precision in its "
        "forward, such as x.float(), does not fit. Write x.to(weight.dtype) there, or give y in single precision: "
        "y.float(), y.astype(np.float32)."
    )


def _column(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *([1] * (like.ndim - 1))).to(like.dtype)


@final
@dataclass(frozen=True)
class EDM(Prediction):
    """``D = c_skip w + c_out F(c_in w, ln(sigma) / 4)``: the preconditioning of Karras et al.

    Parameters
    ----------
    sigma_data : float
        The rms of the standardised signals that the coefficients were made for, > 0; 1 by default, 0.5 in the paper.

    Raises
    ------
    InputError
        If ``sigma_data`` is not positive.

    References
    ----------
    Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", table 1 (arXiv 2206.00364).
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        check_positive("EDM", "sigma_data", self.sigma_data)

    def denoise(
        self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float, law: FromLaw | None = None
    ) -> Tensor:
        d, s = self.sigma_data, _column(sigma, w)
        size = (s**2 + d**2).sqrt()
        noise = sigma.clamp(low, high).log() / 4
        F = _output(network, w / size, noise.to(w.dtype))
        return (d / size) ** 2 * w + s * d / size * F

    @property
    def levels(self) -> tuple[float, float]:
        return 0.004 * self.sigma_data, 160 * self.sigma_data  # 0.002 and 80 at the sigma_data = 0.5 of the paper


@final
@dataclass(frozen=True, kw_only=True)
class BesideLaw(Prediction):
    """``D = D_law(w) + c_out F(w / sqrt(1 + sigma^2), ln(sigma) / 4)``: a network beside a Wiener filter.

    ``D_law`` is the Wiener filter of the prior's stated `law` and ``c_out`` the rms that it leaves, for standardised
    signals of unit rms.

    Notes
    -----
    EDM's ``c_skip w`` is the best multiple of w, and its ``c_out`` the rms that this leaves: the same with a white
    Gaussian. With the covariance of the signals, the network has only to learn what is not Gaussian about them, and
    where they look Gaussian, in much noise, D is exact and its Jacobian symmetric.

    References
    ----------
    Wang & Vastola 2024 (arXiv 2412.09726) measure how far scores are those of Gaussians.
    """

    beside_law = True

    def denoise(
        self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float, law: FromLaw | None = None
    ) -> Tensor:
        assert law is not None
        s = _column(sigma, w)
        F = _output(network, w / (s**2 + 1).sqrt(), (sigma.clamp(low, high).log() / 4).to(w.dtype))
        return law[0] + _column(law[1], w) * F

    @property
    def levels(self) -> tuple[float, float]:
        return 0.002, 200.0


@final
@dataclass(frozen=True, kw_only=True)
class Direct(Prediction):
    """A network that is told ``(w, sigma)`` and returns D, as those of deepinv: DRUNet, DiffUNet, NCSNpp, ADMUNet.

    They were trained on images in [0, 1]: state ``unit`` and ``offset`` if yours are in other units. Outside of the
    levels of training the nearest one is all that the network knows; nothing is left to be exact.
    """

    def denoise(
        self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float, law: FromLaw | None = None
    ) -> Tensor:
        return _output(network, w, sigma.clamp(low, high).to(w.dtype))


@final
@dataclass(frozen=True)
class Scheduled(Prediction):
    """A network that sees ``alpha (w + sigma e)`` and the time of a schedule.

    Parameters
    ----------
    what : {"noise", "score", "signal", "v", "velocity"}
        What the network predicts. ``"noise"``: e; of twice as many channels (a learned variance) the first half counts.
        ``"score"``: the gradient of the log density of what it sees. ``"signal"``: w0. ``"v"``: ``alpha e - s w0``.
        ``"velocity"``: the derivative in time of ``alpha w0 + s e`` along straight paths (flow matching).
    schedule : Schedule
        How its time is related to the noise level: `VE`, `VP`, `DDPM`, `Cosine` or `Flow`.

    Raises
    ------
    InputError
        If ``what`` is none of these, or a velocity with a schedule whose paths are not straight.

    Examples
    --------
    >>> from invsolve.priors import DDPM, Scheduled
    >>> prediction = Scheduled("noise", DDPM())
    >>> [round(level, 4) for level in prediction.levels]
    [0.01, 157.4073]
    """

    what: Literal["noise", "score", "signal", "v", "velocity"]
    schedule: Schedule

    def __post_init__(self) -> None:
        check_choice("Scheduled", "what", self.what, ("noise", "score", "signal", "v", "velocity"))
        if self.what == "velocity" and not self.schedule.straight:
            raise invalid("Scheduled", "what", f"no velocity with {self.schedule}", "velocity", "Use a flow schedule.")

    def denoise(
        self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float, law: FromLaw | None = None
    ) -> Tensor:
        alpha, s = (_column(v, w) for v in self.schedule.coefficients(sigma))
        z = alpha * w
        told = self.schedule.time(sigma.clamp(low, high))
        out = _output(network, z, told.to(w.dtype) if told.is_floating_point() else told, doubled=self.what == "noise")
        level = _column(sigma, w)
        if self.what == "noise":
            return w - level * out
        if self.what == "score":  # of z: the score of w is alpha times that
            return w + level**2 * alpha * out
        if self.what == "signal":
            return out
        if self.what == "v":
            # z = alpha w0 + s e and v = alpha e - s w0: w0 = (alpha z - s v) / (alpha^2 + s^2)
            return (alpha * z - s * out) / (alpha**2 + s**2)
        # z = (1 - t) w0 + t e with velocity e - w0 (noise at t = 1) or its negative (noise at t = 0)
        return z - s * out if self.schedule.noise_last else z + s * out

    @property
    def levels(self) -> tuple[float, float] | None:
        return self.schedule.levels
