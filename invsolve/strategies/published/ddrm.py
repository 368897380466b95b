"""DDRM: denoising diffusion restoration in the singular coordinates of the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.validation import check_int
from invsolve.samplers import log_grid
from invsolve.samplers.base import Level, is_zero
from invsolve.strategies.base import Info, Run
from invsolve.strategies.published.annealed import WalkBound, check_share
from invsolve.strategies.published.spectral import SpectralData, SpectralWalk


@final
@dataclass(frozen=True, kw_only=True)
class DDRM(SpectralWalk):
    """Denoising diffusion restoration in the singular coordinates of the operator.

    In coordinates where datum i is ``x_i`` plus noise of std n_i, a step from level a to b gives

    - not seen: ``D + sqrt(1 - eta^2) b (x - D)/a + eta b e``
    - b < n_i: ``D + sqrt(1 - eta^2) b (y_i - D)/n_i + eta b e``
    - b >= n_i: ``(1 - eta_b) D + eta_b y_i + sqrt(b^2 - eta_b^2 n_i^2) e``

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    eta : float
        Share of fresh noise, from 0 to 1; 0.85 unless given.
    eta_b : float
        Weight of the data above their noise level, from 0 to 1; 1 unless given.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    The start is the data with noise up to the first level. Made for speed, not for uncertainty: what is seen ends too
    certain (even where noise drowns it), and with eta > 0 so does what is not. One evaluation a step; linear operators
    with a decomposition (`LinearOperator.svd`), Gaussian noise.

    References
    ----------
    Kawar, Elad, Ermon & Song 2022, Denoising Diffusion Restoration Models, arXiv 2201.11793.
    """

    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("DDRM", "eta", self.eta)
        check_share("DDRM", "eta_b", self.eta_b)

    @classmethod
    def published(cls, *, unit: float = 1.0, num_steps: int = 100) -> Self:
        """InverseBench's levels: log-spaced from 100 to 0.01, in units of ``unit``, the std of an entry."""
        return cls(grid=unit * log_grid(100.0, 0.01, check_int("DDRM.published", "num_steps", num_steps, minimum=2)))

    def first(self, run: Run[WalkBound[SpectralData]]) -> Tensor:
        tools = run.bound.tools
        x = super().first(run)
        top = tools.level(run.bound.level(0, x))
        z = tools.spectrum.to_spectrum(run.noise(-1, 1))  # draw 0 is in x
        coordinates = tools.spectrum.to_spectrum(x)
        left = (top * top - torch.where(tools.seen, tools.noise, 0.0) ** 2).clamp_min(0).sqrt()
        known = tools.data + left * z
        return tools.spectrum.from_spectrum(torch.where(tools.noise < top, known, coordinates))

    def move(self, run: Run[WalkBound[SpectralData]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        value = run.prior.denoise(x, a)
        if is_zero(b):
            return value, {}
        tools = run.bound.tools
        to = tools.spectrum.to_spectrum
        D, X, z = to(value), to(x), to(run.noise(i))
        a, b = tools.level(a), tools.level(b)
        keep = (1 - self.eta**2) ** 0.5
        std = torch.where(tools.seen, tools.noise, 1.0)
        free = keep * (b / a) * (X - D)
        certain = keep * b * (tools.data - D) / std
        below = D + torch.where(tools.seen, certain, free) + self.eta * b * z
        above = (1 - self.eta_b) * D + self.eta_b * tools.data
        above = above + (b * b - (self.eta_b * std) ** 2).clamp_min(0).sqrt() * z
        return tools.spectrum.from_spectrum(torch.where(tools.noise <= b, above, below)), {}
