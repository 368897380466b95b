"""The denoising loss, weighted so that every noise level counts alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import prod
from typing import final

import torch
from torch import Tensor, nn

from invsolve.core.validation import check_number, check_positive
from invsolve.errors import invalid
from invsolve.gaussian.law import GaussianLaw

_FREQUENCIES = 16


@final
@dataclass(frozen=True, kw_only=True)
class NoiseLaw:
    """Noise levels of training: ``ln(sigma / sigma_data) ~ N(mean, std^2)``, cut at ``low`` and ``high``.

    Parameters
    ----------
    mean, std : float
        Of the logarithm; std > 0. EDM's for images are -1.2 + ln 2 and 1.2 in these units. Posteriors are decided at
        small sigma: there should be mass below a fifth of the noise that the data will have, hence the larger std here.
    low, high : float
        The range, ``0 < low < high``, in units of sigma_data.
    far : float
        The share of levels, 0 to 1, that are uniform in ln sigma over the whole range, so that none is never seen.

    Raises
    ------
    InputError
        If a value is out of its range.

    References
    ----------
    Karras et al. 2022, "Elucidating the design space of diffusion-based generative models" (arXiv 2206.00364).
    """

    mean: float = -0.9
    std: float = 1.5
    low: float = 2e-3
    high: float = 200.0
    far: float = 0.15

    def __post_init__(self) -> None:
        check_number("NoiseLaw", "mean", self.mean)
        for name in ("std", "low", "high"):
            check_positive("NoiseLaw", name, getattr(self, name))
        if not self.low < self.high:
            raise invalid("NoiseLaw", "low", f"below high, {self.high}", self.low)
        if not 0 <= check_number("NoiseLaw", "far", self.far) <= 1:
            raise invalid("NoiseLaw", "far", "from 0 to 1", self.far)

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """``(n,)`` levels in units of sigma_data, float64."""
        z = torch.randn(n, generator=rng, dtype=torch.float64, device="cpu")
        u = torch.rand(2, n, generator=rng, dtype=torch.float64, device="cpu")
        a, b = math.log(self.low), math.log(self.high)
        log = torch.where(u[0] < self.far, a + (b - a) * u[1], self.mean + self.std * z)
        return log.clamp(a, b).exp()


class Uncertainty(nn.Module):
    """``u(sigma)``: the logarithm of the loss to be expected at a level, learnt beside the network and thrown away.

    ``loss / e^u + u`` is least where u is the log of the mean loss: every level then has the same weight (Karras et al.
    2024, arXiv 2312.02696, eq. 21).
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies",
            2.0 ** torch.linspace(-2, 3, _FREQUENCIES, dtype=torch.float32, device="cpu"),
            persistent=False,
        )
        self.linear = nn.Linear(2 * _FREQUENCIES + 1, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, c: Tensor) -> Tensor:
        """``c = ln(sigma) / 4`` ``(n,)`` to ``(n,)``."""
        angle = c[:, None] * self.frequencies  # type: ignore[operator]
        out: Tensor = self.linear(torch.cat([angle.cos(), angle.sin(), c[:, None]], 1))
        return out[:, 0]


def denoising_loss(
    network: nn.Module, w: Tensor, sigma: Tensor, noise: Tensor, law: GaussianLaw | None = None
) -> Tensor:
    """The error of F per row, ``(n,)``: ``mean (F - F*)^2``, on average 1 for a network that returns zero.

    ``w``: standardised signals ``(n, channels, *grid)`` of unit rms; ``sigma`` ``(n,)``. The target is
    ``F* = (w - D_law(x)) / c_out`` with ``x = w + sigma noise``: this is the denoising error, weighted so that it is 1
    at every level where nothing is learnt (Karras et al. 2022, arXiv 2206.00364, section 5). ``law``: of the
    standardised signals, for `BesideLaw`, its mean with the channels, ``(channels, *grid)``. None: white and of mean 0,
    which makes it `EDM`. ``noise``: of unit level, white, or
    that of the modes of the law.
    """
    s = sigma.to(w.dtype).view(-1, *([1] * (w.ndim - 1)))
    size = (s**2 + 1).sqrt()
    x = w + s * noise
    # Both without the difference of two large numbers: size^2 - 1 = s^2.
    target = (s * w - noise) / size if law is None else _beside(law, w, sigma, noise)
    out = network(x / size, (sigma.log() / 4).to(w.dtype))
    error = out.to(w.dtype) - target  # of what autocast made of a lower precision
    loss: Tensor = error.square().flatten(1).mean(1)
    return loss


def _beside(law: GaussianLaw, w: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """``(w - D_law(w + sigma noise)) / c_out``, in full precision whatever the network works in."""
    grid = law.modes.shape
    channels = w.numel() // len(w) // prod(grid)
    levels = sigma.to(w.dtype).repeat_interleave(channels)
    t = levels.view(-1, *([1] * law.variances.ndim))
    with torch.autocast(w.device.type, enabled=False):
        signal, white = (law.modes.analysis(v.reshape(-1, *grid)) for v in (w - law.mean, noise))
        u = t * (t * signal - law.variances * white) / (law.variances + t**2)
        return (law.modes.synthesis(u) / law.left(levels).view(-1, *([1] * len(grid)))).view(w.shape)
