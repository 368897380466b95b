"""invsolve's own runs: `solve` as a user calls it, in float32, with defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from _problems import Case
from torch import Tensor

import invsolve as iv
from invsolve.priors.base import Prior
from invsolve.results.result import Result


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DenoiserOnly(Prior):
    """What peers are given: a denoiser to call and differentiate, a mean, a scale. That it is Gaussian is not said."""

    mean: Tensor  # (*shape)
    values: Tensor  # (n,) eigenvalues of the covariance of each real component
    vectors: Tensor  # (n, n)

    @classmethod
    def of(cls, case: Case) -> DenoiserOnly:
        values, vectors = torch.linalg.eigh(case.covariance)
        mean = case.mean.to(torch.complex64 if case.mean.is_complex() else torch.float32)
        return cls(mean=mean, values=values.clamp_min(0).float(), vectors=vectors.float())

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.mean.shape)

    @property
    def kind(self) -> str:  # type: ignore[override]
        return "complex" if self.mean.is_complex() else "real"

    @property
    def scale(self) -> float:  # type: ignore[override]
        return math.sqrt(float(self.values.max()))

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        vectors, variance = self.vectors.to(x.dtype), sigma.square()
        gain = self.values / (self.values + (variance.view(-1, 1) if variance.ndim else variance))
        return self.mean + (((x - self.mean).flatten(1) @ vectors * gain) @ vectors.mT).view(x.shape)


def _solve(case: Case, prior: Prior, strategy: object, n: int, seed: int) -> Result:
    data = case.data.to(torch.complex64 if case.data.is_complex() else torch.float32)
    return iv.solve(
        case.operator.to(dtype=torch.float32),
        data,
        prior,
        noise=case.noise,
        strategy=strategy,
        num_samples=n,
        seed=seed,
        throw=False,
    )


COSTLY = {"MMPS(), the prior a denoiser only"}  # hundreds of products with its Jacobian
S = iv.strategies
# Each with its defaults, and in the form of its paper or of InverseBench where that differs; grids of papers are in
# units of the std of an entry. Spectral methods have no form for complex coils.
PUBLISHED: dict[str, Callable[[Case], S.Strategy]] = {
    "TMPD()": lambda case: S.TMPD(),
    "PiGDM()": lambda case: S.PiGDM(),
    'PiGDM(form="published"), 100 poly-7 levels': lambda case: S.PiGDM(
        form="published", grid=case.std * iv.samplers.karras_grid(100.0, 0.01, 100)
    ),
    "DPS()": lambda case: S.DPS(),
    "DPS of the paper, zeta 0.3": lambda case: S.DPS.published("super_resolution", unit=case.std),
    "LGD()": lambda case: S.LGD(),
    "DDNM()": lambda case: S.DDNM(),
    "DDNM, InverseBench": lambda case: S.DDNM(
        form="inversebench", grid=case.std * iv.samplers.karras_grid(100.0, 0.01, 100)
    ),
    "DDRM()": lambda case: S.DDRM(),
    "DDRM, InverseBench": lambda case: S.DDRM.published(unit=case.std),
    "DiffPIR()": lambda case: S.DiffPIR(),
    "DiffPIR, InverseBench": lambda case: S.DiffPIR.published("inversebench", unit=case.std),
    "REDDiff()": lambda case: S.REDDiff(),
    "RED-diff of the paper": lambda case: S.REDDiff.published(unit=case.std),
    "DAPS()": lambda case: S.DAPS(),
    "DAPS of the paper": lambda case: S.DAPS.published("inpainting", unit=case.std),
    "PnPDM()": lambda case: S.PnPDM(),
    "PnP-DM of the paper": lambda case: S.PnPDM.published(unit=case.std),
    "LanPaint()": lambda case: S.LanPaint(),
    "MCGDiff()": lambda case: S.MCGDiff(),
    "FPS()": lambda case: S.FPS(),
    "NoiseMCMC started by DPS()": lambda case: S.NoiseMCMC(start=S.DPS()),
    "SMC with PiGDM as proposal": lambda case: S.SMC(guidance=S.PseudoinverseGuidance()),
}
METHODS: dict[str, Callable[[Case, int, int], Result]] = {
    "auto": lambda case, n, seed: _solve(case, case.prior(), "auto", n, seed),
    "MMPS()": lambda case, n, seed: _solve(case, case.prior(), iv.strategies.MMPS(), n, seed),
    "MMPS(), the prior a denoiser only": lambda case, n, seed: _solve(
        case, DenoiserOnly.of(case), iv.strategies.MMPS(), n, seed
    ),
}


def _published(make: Callable[[Case], S.Strategy]) -> Callable[[Case, int, int], Result]:
    return lambda case, n, seed: _solve(case, case.prior(), make(case), n, seed)


METHODS |= {name: _published(make) for name, make in PUBLISHED.items()}
