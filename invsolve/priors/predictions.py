"""What a network predicts, and the denoiser that follows from it (priors card 1).

Everything is for standardised signals w: a network that was trained on noisy ``z = alpha w + s e`` has the noise level
``sigma = s / alpha`` on ``w + sigma e = z / alpha``, and every prediction becomes D(w, sigma) = E[w0 | w].
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from invsolve.checks import check_choice, check_positive
from invsolve.priors.schedules import Schedule

# A network on (batch, channels, *grid) and its time variable (batch,).
Network = torch.nn.Module


class Prediction(abc.ABC):
    """From a network and (w, sigma) to D; ``sigma`` ``(batch,)``, ``low`` and ``high`` the levels that it was trained
    on: outside of them the network is told the nearest one, everything else stays exact."""

    @abc.abstractmethod
    def denoise(self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float) -> Tensor: ...


def _column(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *([1] * (like.ndim - 1))).to(like.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class EDM(Prediction):
    """``D = c_skip w + c_out F(c_in w, ln(sigma) / 4)`` (Karras et al. 2022, arXiv 2206.00364, table 1).

    ``sigma_data``: the rms of the standardised signals that the coefficients were made for.
    """

    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        check_positive("EDM", "sigma_data", self.sigma_data)

    def denoise(self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float) -> Tensor:
        d, s = self.sigma_data, _column(sigma, w)
        size = (s**2 + d**2).sqrt()
        noise = sigma.clamp(low, high).log() / 4
        F: Tensor = network(w / size, noise.to(w.dtype))
        return (d / size) ** 2 * w + s * d / size * F


@final
@dataclass(frozen=True, kw_only=True)
class Direct(Prediction):
    """A network that is told ``(w, sigma)`` and returns D, as those of deepinv: DRUNet, DiffUNet, NCSNpp, ADMUNet.

    They were trained on images in [0, 1]: state ``unit`` and ``offset`` if yours are in other units.
    """

    def denoise(self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float) -> Tensor:
        out: Tensor = network(w, sigma.clamp(low, high).to(w.dtype))
        return out


@final
@dataclass(frozen=True, kw_only=True)
class Scheduled(Prediction):
    """A network that sees ``alpha (w + sigma e)`` and the time of ``schedule``, and predicts

    - ``"noise"``: e; of twice as many channels (a learned variance) the first half counts;
    - ``"score"``: the gradient of the log density of what it sees;
    - ``"signal"``: w0;
    - ``"v"``: ``alpha e - s w0``;
    - ``"velocity"``: the derivative in time of ``alpha w0 + s e`` along straight paths (flow matching).
    """

    what: Literal["noise", "score", "signal", "v", "velocity"]
    schedule: Schedule

    def __post_init__(self) -> None:
        check_choice("Scheduled", "what", self.what, ("noise", "score", "signal", "v", "velocity"))
        if self.what == "velocity" and not self.schedule.straight:
            from invsolve.errors import invalid

            raise invalid("Scheduled", "what", f"no velocity with {self.schedule}", "velocity", "Use a flow schedule.")

    def denoise(self, network: Network, w: Tensor, sigma: Tensor, low: float, high: float) -> Tensor:
        alpha, s = (_column(v, w) for v in self.schedule.coefficients(sigma))
        z = alpha * w
        told = self.schedule.time(sigma.clamp(low, high))
        out: Tensor = network(z, told.to(w.dtype))
        if out.shape[1] == 2 * z.shape[1]:
            out = out[:, : z.shape[1]]
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
