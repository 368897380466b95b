"""Noise schedules: how a trained network's time is related to the noise level sigma = s / alpha."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from invsolve.core.ownership import Owner
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import invalid

_INSIDE = (1e-3, 1 - 1e-3)  # times of schedules that end at no noise and at no signal: what training draws from


class Schedule(Owner, abc.ABC):
    """Noisy signals ``z = alpha w + s e``: maps between the time that a network is told and the noise level.

    All maps take and return tensors of one shape, computed in float64.
    """

    straight: ClassVar[bool] = False  # alpha + s = 1: paths of flow matching
    noise_last: bool = True  # time grows with the noise

    @property
    def levels(self) -> tuple[float, float] | None:
        """The lowest and highest noise level that networks are usually trained on; None: the schedule has no ends."""
        return None

    _lends = ("time", "sigma", "coefficients")

    @abc.abstractmethod
    def time(self, sigma: Tensor) -> Tensor:
        """The time that the network is told at noise level ``sigma`` > 0."""

    @abc.abstractmethod
    def sigma(self, time: Tensor) -> Tensor:
        """The noise level at a time: the inverse of `time`."""

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """``(alpha, s)``: variance preserving unless overridden."""
        alpha = (1 + sigma.double() ** 2).rsqrt()
        return alpha, sigma.double() * alpha


@final
@dataclass(frozen=True, kw_only=True)
class VE(Schedule):
    """Variance exploding: alpha = 1, the network is told the noise level or a logarithm of it.

    Parameters
    ----------
    told : {"sigma", "log", "quarter log"}
        What the network is told: sigma (the default), ln(sigma) or ln(sigma) / 4.

    Raises
    ------
    InputError
        If ``told`` is none of these.

    References
    ----------
    Song et al. 2021, "Score-based generative modeling through stochastic differential equations" (arXiv 2011.13456).
    """

    told: Literal["sigma", "log", "quarter log"] = "sigma"

    def __post_init__(self) -> None:
        check_choice("VE", "told", self.told, ("sigma", "log", "quarter log"))

    def time(self, sigma: Tensor) -> Tensor:
        sigma = sigma.double()
        return sigma if self.told == "sigma" else sigma.log() / (4 if self.told == "quarter log" else 1)

    def sigma(self, time: Tensor) -> Tensor:
        time = time.double()
        return time if self.told == "sigma" else (time * (4 if self.told == "quarter log" else 1)).exp()

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(sigma, dtype=torch.float64), sigma.double()


@final
@dataclass(frozen=True, kw_only=True)
class VP(Schedule):
    """Variance preserving in continuous time: ``alpha^2 = exp(-(beta_d t^2 / 2 + beta_min t))``.

    Parameters
    ----------
    beta_min : float
        Rate of the noise at t = 0, > 0.
    beta_d : float
        By how much the rate grows until t = 1: beta_max - beta_min, > 0.
    factor : float
        What the network is told is t times this, > 0: 1 by default, 999 for many score networks.

    Raises
    ------
    InputError
        If one of them is not positive.

    References
    ----------
    Song et al. 2021, "Score-based generative modeling through stochastic differential equations" (arXiv 2011.13456).
    """

    beta_min: float = 0.1
    beta_d: float = 19.9  # beta_max - beta_min
    factor: float = 1.0  # what the network is told is t times this (999 for many score networks)

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_d", "factor"):
            check_positive("VP", name, getattr(self, name))

    def time(self, sigma: Tensor) -> Tensor:
        # (sqrt(b^2 + 2 d l) - b) / d with l = log(1 + sigma^2), written so that nothing cancels
        log = torch.log1p(sigma.double() ** 2)
        root = (self.beta_min**2 + 2 * self.beta_d * log).sqrt()
        return self.factor * 2 * log / (root + self.beta_min)

    def sigma(self, time: Tensor) -> Tensor:
        t = time.double() / self.factor
        return torch.expm1(self.beta_d * t**2 / 2 + self.beta_min * t).sqrt()

    @property
    def levels(self) -> tuple[float, float]:
        return _ends(self, 1e-5 * self.factor, self.factor)  # the times of Song et al.'s training


@final
@dataclass(frozen=True, kw_only=True)
class DDPM(Schedule):
    """Variance preserving in ``steps`` discrete steps; time is the index k = 0 .. steps - 1.

    Between steps the index is interpolated linearly in ln sigma, and outside of the table it is clamped.

    Parameters
    ----------
    steps : int
        Steps of the training, >= 2.
    betas : {"linear", "scaled linear", "cosine"}
        Variances of the steps: linear from ``beta_start`` to ``beta_end``, linear in their roots, or those whose
        cumulative product is a squared cosine (Nichol & Dhariwal 2021), which needs neither end.
    beta_start, beta_end : float
        First and last variance, ``0 < beta_start < beta_end < 1``.
    rounded : bool
        Whether times are rounded to integers: for networks with a table of embeddings.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Ho et al. 2020, "Denoising diffusion probabilistic models" (arXiv 2006.11239); Nichol & Dhariwal 2021, "Improved
    denoising diffusion probabilistic models" (arXiv 2102.09672).
    """

    steps: int = 1000
    betas: Literal["linear", "scaled linear", "cosine"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 2e-2
    rounded: bool = False
    _log_sigma: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_int("DDPM", "steps", self.steps, minimum=2)
        check_choice("DDPM", "betas", self.betas, ("linear", "scaled linear", "cosine"))
        if not 0 < self.beta_start < self.beta_end < 1:
            raise invalid("DDPM", "beta_start", "between 0 and beta_end < 1", (self.beta_start, self.beta_end))
        check_choice("DDPM", "rounded", self.rounded, (True, False))
        i = torch.arange(self.steps + 1, dtype=torch.float64)
        if self.betas == "cosine":
            bar = torch.cos((i / self.steps + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - bar[1:] / bar[:-1]).clamp_max(0.999)
        elif self.betas == "linear":
            beta = torch.linspace(self.beta_start, self.beta_end, self.steps, dtype=torch.float64)
        else:
            ends = self.beta_start**0.5, self.beta_end**0.5
            beta = torch.linspace(*ends, self.steps, dtype=torch.float64) ** 2
        log_bar = torch.log1p(-beta).cumsum(0)
        # sigma^2 = (1 - bar) / bar = exp(-log bar) - 1
        object.__setattr__(self, "_log_sigma", torch.expm1(-log_bar).log() / 2)

    def time(self, sigma: Tensor) -> Tensor:
        table = self._log_sigma.to(sigma.device)
        log = sigma.double().log().clamp(table[0], table[-1])
        k = torch.searchsorted(table, log.contiguous(), right=True).clamp(1, self.steps - 1)
        time = k - 1 + (log - table[k - 1]) / (table[k] - table[k - 1])
        return time.round().long() if self.rounded else time

    def sigma(self, time: Tensor) -> Tensor:
        table = self._log_sigma.to(time.device)
        time = time.double().clamp(0, self.steps - 1)
        k = time.floor().long().clamp_max(self.steps - 2)
        return (table[k] + (time - k) * (table[k + 1] - table[k])).exp()

    @property
    def levels(self) -> tuple[float, float]:
        return float(self._log_sigma[0].exp()), float(self._log_sigma[-1].exp())


@final
@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """``alpha = cos(pi t / 2)``, ``s = sin(pi t / 2)``, t from 0 (no noise) to 1.

    References
    ----------
    Salimans & Ho 2022, "Progressive distillation for fast sampling of diffusion models" (arXiv 2202.00512).
    """

    def time(self, sigma: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(sigma.double())

    def sigma(self, time: Tensor) -> Tensor:
        return torch.tan(math.pi / 2 * time.double())

    @property
    def levels(self) -> tuple[float, float]:
        return _ends(self, *_INSIDE)


@final
@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    """Rectified flow, flow matching: straight paths from signal to noise.

    Parameters
    ----------
    noise_at : {1, 0}
        The time at which there is nothing but noise.
    factor : float
        What the network is told is t times this, > 0: 1 by default, 1000 for those of diffusers.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Liu et al. 2023, "Flow straight and fast" (arXiv 2209.03003); Lipman et al. 2023, "Flow matching for generative
    modeling" (arXiv 2210.02747).
    """

    straight = True
    noise_at: Literal[0, 1] = 1
    factor: float = 1.0  # what the network is told is t times this (1000 for those of diffusers)

    def __post_init__(self) -> None:
        check_choice("Flow", "noise_at", self.noise_at, (0, 1))
        check_positive("Flow", "factor", self.factor)

    @property
    def noise_last(self) -> bool:  # type: ignore[override]
        return self.noise_at == 1

    def time(self, sigma: Tensor) -> Tensor:
        sigma = sigma.double()
        return self.factor * (sigma / (1 + sigma) if self.noise_at == 1 else 1 / (1 + sigma))

    def sigma(self, time: Tensor) -> Tensor:
        t = time.double() / self.factor
        return t / (1 - t) if self.noise_at == 1 else (1 - t) / t

    @property
    def levels(self) -> tuple[float, float]:
        return _ends(self, *(self.factor * t for t in _INSIDE))

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        alpha = 1 / (1 + sigma.double())
        return alpha, sigma.double() * alpha


def _ends(schedule: Schedule, *times: float) -> tuple[float, float]:
    """The noise levels at two times, the lower one first."""
    low, high = sorted(schedule.sigma(torch.tensor(times, dtype=torch.float64)).tolist())
    return low, high
