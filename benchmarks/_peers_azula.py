"""azula's posterior samplers on the problems: its default schedule and steps, or tuned where the name says so."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from _network import Network
from _problems import Case
from azula.denoise import Denoiser, DiracPosterior
from azula.guidance.diffpir import DiffPIRDenoiser
from azula.guidance.dps import DPSSampler
from azula.guidance.mmps import MMPSDenoiser
from azula.guidance.tmpd import TMPDenoiser
from azula.linalg.covariance import IsotropicCovariance
from azula.noise import Schedule, VESchedule, VPSchedule
from azula.sample import DDIMSampler, DDPMSampler, Sampler, xEABSampler
from torch import Tensor

Run = Callable[[Case, int, int, Network], Tensor]
Linear = Callable[[Tensor], Tensor]
Build = Callable[[Case, Denoiser, Tensor, Linear], Sampler]


class _Denoiser(Denoiser):
    """The network behind ``x_t = alpha_t x + sigma_t e``."""

    def __init__(self, network: Network, schedule: Schedule) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule

    def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
        alpha, sigma = self.schedule(t)
        return DiracPosterior(mean=self.network(x_t / alpha, sigma / alpha))


def _vp(case: Case) -> Schedule:
    return VPSchedule()


def _ve(case: Case) -> Schedule:
    return VESchedule(1e-3 * case.std, 1e2 * case.std)


def _run(build: Build, schedule: Callable[[Case], Schedule] = _vp) -> Run:
    def draw(case: Case, item: int, n: int, network: Network) -> Tensor:
        matrix, y = (t.float() for t in case.dense[item])
        sampler = build(case, _Denoiser(network, schedule(case)), y.expand(n, -1), lambda x: x @ matrix.mT)
        start = sampler.init((n, case.size), mean=network.mean, var=torch.tensor(case.std**2))
        return sampler(start)

    return draw


def _dps(case: Case, denoiser: Denoiser, y: Tensor, linear: Linear) -> Sampler:
    return DPSSampler(denoiser, y, linear, silent=True)


def _dps_tuned(case: Case, denoiser: Denoiser, y: Tensor, linear: Linear) -> Sampler:
    # Its norm runs over the batch: sqrt(batch) gives every sample the guidance that it would have alone.
    return DPSSampler(denoiser, y, linear, zeta=math.sqrt(len(y)), steps=256, silent=True)


def _mmps(case: Case, denoiser: Denoiser, y: Tensor, linear: Linear) -> Sampler:
    return DDPMSampler(MMPSDenoiser(denoiser, y, linear, IsotropicCovariance(case.noise**2)), silent=True)


def _mmps_tuned(case: Case, denoiser: Denoiser, y: Tensor, linear: Linear) -> Sampler:
    guided = MMPSDenoiser(denoiser, y, linear, IsotropicCovariance(case.noise**2), solver="cg", iterations=16)
    return xEABSampler(guided, order=2, silent=True)


def _diffpir(case: Case, denoiser: Denoiser, y: Tensor, linear: Linear) -> Sampler:
    return DDIMSampler(DiffPIRDenoiser(denoiser, y, linear, case.noise**2), silent=True)


def _diffpir_tuned(case: Case, denoiser: Denoiser, y: Tensor, linear: Linear) -> Sampler:
    return DDPMSampler(DiffPIRDenoiser(denoiser, y, linear, case.noise**2, lmbda=1.0), silent=True)


def _tmpd(case: Case, denoiser: Denoiser, y: Tensor, linear: Linear) -> Sampler:
    return DDPMSampler(TMPDenoiser(denoiser, y, linear, case.noise**2), silent=True)


METHODS: dict[str, Run] = {
    "DPS, default": _run(_dps),
    "DPS, zeta sqrt(batch), 256 steps": _run(_dps_tuned),
    "MMPS, default": _run(_mmps),
    "MMPS, 16 CG, VE, second order": _run(_mmps_tuned, _ve),
    "DiffPIR, default": _run(_diffpir),
    "DiffPIR, lambda 1, DDPM": _run(_diffpir_tuned),
    "TMPD, DDPM": _run(_tmpd),
}
