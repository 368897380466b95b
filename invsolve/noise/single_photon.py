"""Detectors that see whether there was a photon, and not how many: one bit a frame."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_int
from invsolve.errors import invalid
from invsolve.noise.entrywise import Entrywise, Normal, Parameter, wide

_FLOOR = 1e-6  # expected photons below which gradient and information are those there: finite
_INSIDE = 1e-2  # the least expected photons around which a Gaussian is put
_MOST = 10_000  # frames: a draw takes a step for each


@final
@dataclass(frozen=True, eq=False)
class SinglePhoton(Entrywise):
    """How many of ``frames`` one-bit frames saw a photon: ``y ~ Binomial(frames, 1 - exp(-mean))`` per entry.

    ``mean = counts_per_unit * clean + background`` photons a frame, a Poisson number of which one or more trigger the
    detector (single-photon avalanche diodes, quanta image sensors). One frame is a Bernoulli variable; of many dim
    frames ``y`` is close to Poisson.

    Parameters
    ----------
    counts_per_unit : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Expected photons a frame for one unit of the clean measurement, > 0.
    background : float or Tensor, shape (*out_shape) or (items, *out_shape)
        Expected triggers a frame without signal (dark counts), >= 0; 0 by default.
    frames : int
        The number of frames that ``y`` adds up, from 1 (the default) to 10,000.

    Raises
    ------
    InputError, InputTypeError
        If a parameter is out of its range; by `solve`, for data that are no whole numbers from 0 to ``frames``.

    Notes
    -----
    A clean measurement below ``-background / counts_per_unit`` has probability zero (`log_prob` is minus infinity).
    Gradient and information stay finite there: those at an expectation of 1e-6 photons. A Gaussian stands in for it at
    an expectation of 0.01 photons or more.

    References
    ----------
    Yang, Lu, Sbaiz & Vetterli 2012, Bits from photons: oversampled image acquisition using binary Poisson statistics,
    IEEE Trans. Image Process. 21, 1421.
    """

    counts_per_unit: Parameter
    _: KW_ONLY
    background: Parameter = 0.0
    frames: int = 1

    def __post_init__(self) -> None:
        self._checked("counts_per_unit")
        self._checked("background", "non-negative")
        object.__setattr__(self, "frames", check_int("SinglePhoton", "frames", self.frames, minimum=1))
        if self.frames > _MOST:
            repair = "So many frames are nearly Gaussian: linearise, or give them as several data."
            raise invalid("SinglePhoton", "frames", f"at most {_MOST}", self.frames, repair)

    def expected(self, m: Tensor) -> Tensor:
        """The mean number of frames with a photon, of a clean measurement."""
        return -self.frames * torch.expm1(-self._photons(m))

    def lower_limits(self, y: Tensor) -> Tensor:
        return wide(-self.background / self.counts_per_unit, y)

    def _photons(self, m: Tensor) -> Tensor:
        return self.counts_per_unit * m + self.background

    def _log_prob(self, y: Tensor, m: Tensor) -> Tensor:
        photons, K = self._photons(m), float(self.frames)
        dark = K - y
        choices = torch.lgamma(y.new_full((), K + 1)) - torch.lgamma(y + 1) - torch.lgamma(dark + 1)
        seen = torch.log(-torch.expm1(-photons.clamp_min(0)))
        # 0 times minus infinity, or times infinity, is 0.
        log = choices + torch.where(y > 0, y * seen, 0.0) - torch.where(dark > 0, dark * photons, 0.0)
        return torch.where(photons < 0, -torch.inf, log)

    def _grad(self, y: Tensor, m: Tensor) -> Tensor:
        photons = self._photons(m).clamp_min(_FLOOR)
        return self.counts_per_unit * (self.frames - y - y / torch.expm1(photons))

    def _information(self, m: Tensor) -> Tensor:
        photons = self._photons(m).clamp_min(_FLOOR)
        return self.counts_per_unit * self.counts_per_unit * self.frames / torch.expm1(photons)

    def _expansion(self, y: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        point = torch.maximum(m, wide((_INSIDE - self.background) / self.counts_per_unit, m))
        return point, self._information(point)

    def _sample(self, m: Tensor, normal: Normal) -> Tensor:
        """The least y with ``P(frames seen <= y) >= Phi(z)``; the tail below 1/2 is summed, from either end."""
        z, K = normal(torch.float64), self.frames
        photons = self._photons(m).clamp_min(0)
        seen, dark = torch.log(-torch.expm1(-photons)), -photons
        upper = z > 0
        tail = torch.special.ndtr(-z.abs())
        below, above = torch.zeros_like(tail), torch.zeros_like(tail)
        low, high = torch.zeros_like(tail), torch.zeros_like(tail)
        log_choices = torch.zeros((), dtype=torch.float64, device=m.device)
        for k in range(K):  # the probabilities of k seen, and of k dark
            few = torch.exp(log_choices + (k * seen if k else 0.0) + (K - k) * dark)
            most = torch.exp(log_choices + (k * dark if k else 0.0) + (K - k) * seen)
            below, above = below + few, above + most
            low = low + (below < tail)
            high = high + (above <= tail)
            log_choices = log_choices + torch.log((log_choices.new_full((), K - k)) / (k + 1))
        return torch.where(upper, K - high, low)

    def _refused(self, y: Tensor) -> tuple[Tensor, str, str]:
        return (
            (y < 0) | (y > self.frames) | (y != y.round()),
            f"whole numbers from 0 to {self.frames}",
            "Give the number of frames with a photon, and frames=.",
        )
