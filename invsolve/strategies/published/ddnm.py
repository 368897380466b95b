"""DDNM and DDNM+: replace what the data see of the denoised signal, keep its null space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.validation import check_choice
from invsolve.samplers import vp_grid
from invsolve.samplers.base import Level, is_zero
from invsolve.strategies.base import Info, Run
from invsolve.strategies.published.annealed import WalkBound, check_share
from invsolve.strategies.published.spectral import SpectralData, SpectralWalk


@final
@dataclass(frozen=True, kw_only=True)
class DDNM(SpectralWalk):
    """Replace what the data see of the denoised signal, keep its null space (DDNM+).

    ``x0 = D - Lambda A^+ (A D - y)``, then ``x0 + gamma (sqrt(1 - eta^2) (x - D)/a + eta e)``, in the singular
    coordinates of the operator, where datum i has noise n_i.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 100 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    eta : float
        Share of fresh noise, from 0 to 1; 0.85 unless given.
    form : {"spectral", "official", "inversebench"}
        "spectral": ``Lambda_i = min(1, b / n_i)``, ``gamma_i = sqrt(b^2 - Lambda_i^2 n_i^2)``, so that every coordinate
        has the noise of its level; where nothing is seen ``Lambda = 0``, ``gamma = b``. "official": one ``Lambda`` and
        one ``gamma`` for all coordinates, with the std of the noise of the data in place of n_i; below that level no
        noise is added anywhere. "inversebench": as official, but gamma for the fresh noise only, and ``(x - x0)/a`` in
        place of ``(x - D)/a``.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    With eta = 0 and no noise this is the exact flow of what is not seen; with noise, what is seen ends without any
    spread in every form, even where the noise drowns it. One evaluation a step; linear operators with a decomposition,
    Gaussian noise.

    References
    ----------
    Wang, Yu & Zhang 2022, Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, arXiv 2212.00490.
    """

    eta: float = 0.85
    form: Literal["spectral", "official", "inversebench"] = "spectral"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("DDNM", "eta", self.eta)
        check_choice("DDNM", "form", self.form, ("spectral", "official", "inversebench"))

    @classmethod
    def published(cls, *, unit: float = 1.0) -> Self:
        """The authors' eta 0.85 and 100 variance-preserving levels, in units of ``unit``, the std of an entry."""
        return cls(form="official", grid=unit * vp_grid(100))

    def move(self, run: Run[WalkBound[SpectralData]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        tools = run.bound.tools
        to = tools.spectrum.to_spectrum
        value = run.prior.denoise(x, a)
        D, X = to(value), to(x)
        a, b = tools.level(a), tools.level(b)
        noise = tools.noise if self.form == "spectral" else tools.std
        share = (b / noise).clamp_max(1.0)  # 0 where nothing is seen
        known = torch.where(tools.seen, share, 0.0)
        point = D + known * (tools.data - D)
        if is_zero(b):
            return tools.spectrum.from_spectrum(point), {}
        added = torch.where(noise.isfinite(), share * noise, 0.0)
        fresh = (b * b - added**2).clamp_min(0).sqrt()
        other = self.form == "inversebench"
        old = b if other else fresh
        rest = (X - (point if other else D)) / a
        out = point + (1 - self.eta**2) ** 0.5 * old * rest + self.eta * fresh * to(run.noise(i))
        return tools.spectrum.from_spectrum(out), {}
