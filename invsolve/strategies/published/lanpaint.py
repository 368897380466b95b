"""LanPaint: Langevin dynamics at every level, with known and unknown coordinates pulling on each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import check_int, check_positive
from invsolve.samplers.base import Level
from invsolve.strategies.base import Info, Run
from invsolve.strategies.published.annealed import WalkBound, check_optional, root
from invsolve.strategies.published.spectral import SpectralData, SpectralWalk


@final
@dataclass(frozen=True, kw_only=True)
class LanPaint(SpectralWalk):
    """Langevin steps at every level, known and unknown coordinates pulling on each other, then one deterministic step.

    In ``u = x / sqrt(1 + a^2)`` (in units of ``unit``), ``du = g dt + sqrt(2) dW`` with ``g = (D' - u) / (1 - abar)``
    where nothing is known and ``(1 + lam) (y' - u) / (1 - abar) - lam (D' - u) / (1 - abar)`` where it is, D' and y'
    being ``sqrt(abar)`` times D and y, ``abar = 1 / (1 + a^2)``; steps ``eta (1 - abar)`` by an exponential integrator.
    Known coordinates start each level as y with noise of that level.

    Parameters
    ----------
    num_steps : int
        Levels of the solver's own grid, at least 2; 30 unless given.
    grid : Tensor, shape (N + 1,), optional
        Noise levels in the units of the signal, falling to 0, in place of the solver's own.
    inner : int
        Langevin steps at each level, at least 0; 5 unless given.
    lam : float
        How strongly known coordinates are pulled, >= 0; 5 unless given.
    eta : float
        Step size of the Langevin dynamics, > 0; 0.2 unless given.
    unit : float, optional
        The std of an entry of the signal; by default the prior's root mean variance.

    Raises
    ------
    InputError
        If an option is out of range.

    Notes
    -----
    Coordinates are the singular ones of the operator; those whose data have more noise than an entry has spread are
    taken as unknown, the others as exact: noise that matters is fitted. Exact as inner steps and levels grow. ``inner +
    1`` evaluations a step, no derivative of the denoiser; linear operators with a decomposition.

    References
    ----------
    Zheng, Lan & Wang 2025, LanPaint: Training-Free Diffusion Inpainting, arXiv 2502.03491.
    """

    num_steps: int = 30
    inner: int = 5
    lam: float = 5.0
    eta: float = 0.2
    unit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("LanPaint", "inner", self.inner, minimum=0)
        check_positive("LanPaint", "lam", self.lam, zero=True)
        check_positive("LanPaint", "eta", self.eta)
        check_optional("LanPaint", "unit", self.unit)

    def move(self, run: Run[WalkBound[SpectralData]], x: Tensor, a: Level, b: Level, i: int) -> tuple[Tensor, Info]:
        tools = run.bound.tools
        to, back, y = tools.spectrum.to_spectrum, tools.spectrum.from_spectrum, tools.data
        unit, level = self.unit or run.bound.unit, a
        seen = tools.noise < unit  # data with more noise than the signal has, or of tiny singular values, say nothing
        a, b = tools.level(a), tools.level(b)
        stretch = root(1 + (a / unit) ** 2)  # x = stretch u
        width = (a / unit / stretch) ** 2  # 1 - abar
        X = torch.where(seen, y + a * to(run.noise(i)), to(x))
        for k in range(self.inner):
            D = to(run.prior.denoise(back(X), level)) / stretch
            u = X / stretch
            pull = torch.where(seen, (1 + self.lam) * (y / stretch - u) - self.lam * (D - u), D - u)  # (1 - abar) g
            stiff = 1 + self.lam * seen.to(y.real.dtype)  # (1 - abar) times the stiffness
            decay = (-self.eta * stiff).exp()
            spread = (unit * root(width)) * ((1 - decay**2) / stiff).sqrt()
            u = decay * u + (1 - decay) / stiff * (pull + stiff * u) + spread * to(run.noise(i, 1 + k))
            X = stretch * u
        D = torch.where(seen, y, to(run.prior.denoise(back(X), level)))
        return back(D + (b / a) * (X - D)), {}
