"""Every strategy with a prior that it takes, on a small problem, and new priors of every kind in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from prior_cases import CASES as PRIORS
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs

ops = iv.operators
F32 = torch.float32


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = F32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype, device="cpu")


class Network(torch.nn.Module):
    """Two convolutions; a network that enters autocast itself does so whatever surrounds it."""

    def __init__(self, half: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.last = torch.nn.Conv1d(1, 8, 3, padding=1), torch.nn.Conv1d(8, 1, 3, padding=1)
        self.half_precision = half

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        with torch.autocast("cuda" if z.is_cuda else "cpu", torch.bfloat16, enabled=self.half_precision):
            return self.last(torch.tanh(self.first(z) * (1 + time.view(-1, 1, 1))))


NETWORKS = {half: Network(half) for half in (False, True)}


def network_prior(half: bool = False, n: int = 4) -> iv.priors.NetworkPrior:
    return iv.priors.from_network(NETWORKS[half], iv.priors.EDM(), shape=(n,), scale=2.0, detail=0.3)


def denoiser() -> iv.priors.FunctionPrior:
    return iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(4,), mean=0.1, scale=1.0, detail=0.5)


EYE = torch.eye(2)
NEW: dict[str, Callable[[], iv.priors.Prior]] = {
    **{name: lambda p=p: p.to(dtype=F32) for name, p in PRIORS.items()},
    "a Gaussian": lambda: iv.priors.GaussianPrior(EYE[0], 0.5 * EYE),
    "a field": lambda: iv.priors.GaussianFieldPrior((4,), iv.priors.Matern(std=1.0, length=0.5)),
    "coefficients": lambda: iv.priors.SparsePrior((4,), iv.priors.SpikeSlab(0.4, 1.5, spike=0.2), mean=0.1),
    "a network": network_prior,
    "a network in half precision": lambda: network_prior(True),
    "a resampled network": lambda: network_prior().on(
        iv.Problem(ops.Mask(torch.ones(8, dtype=torch.bool, device="cpu")), numbers(8), noise=1.0),
        keep="field of view",
    ),
    "a denoiser": denoiser,
    "a family": lambda: iv.priors.Family(
        lambda length: iv.priors.GaussianFieldPrior((4,), iv.priors.Matern(std=1.0, length=length)),
        length=iv.LogUniform(low=0.2, high=1.0),
    ).at(length=0.5),
}

# What takes any prior: many steps, for the contract of strategies.
WALKS: dict[str, ivs.Strategy] = {
    "DPS": ivs.DPS(num_steps=20),
    "DPS, paper": ivs.DPS(form="paper", scale=0.3, num_steps=20),
    "LGD": ivs.LGD(clouds=4, num_steps=20),
    "PiGDM, published": ivs.PiGDM(form="published", num_steps=20),
    "DDNM": ivs.DDNM(num_steps=20),
    "DDNM, official": ivs.DDNM(form="official", num_steps=20),
    "DDNM, inversebench": ivs.DDNM(form="inversebench", num_steps=20),
    "DDRM": ivs.DDRM(num_steps=20),
    "DiffPIR": ivs.DiffPIR(num_steps=20),
    "REDDiff": ivs.REDDiff(num_steps=60),
    "REDDiff, published": ivs.REDDiff(loss="published", weight="linear", num_steps=60),
    "DAPS": ivs.DAPS(num_steps=10),
    "DAPS, Langevin": ivs.DAPS(num_steps=10, inner="langevin", langevin_steps=5),
    "DAPS, pCN": ivs.DAPS(num_steps=10, inner="pcn", langevin_steps=40),
    "FunDPS": ivs.FunDPS(num_steps=40, weight=0.1),
    "FunDPS, corrected": ivs.FunDPS(num_steps=40, corrected=True),
    "DiffusionPDE": ivs.DiffusionPDE(num_steps=40, weight=0.3),
    "PnPDM": ivs.PnPDM(num_steps=10),
    "PnPDM, sampler": ivs.PnPDM(num_steps=10, prior_step="sde", prior_steps=5, data_step="langevin", langevin_steps=5),
    "LanPaint": ivs.LanPaint(num_steps=10, inner=2),
    "MCGDiff": ivs.MCGDiff(num_steps=20),
    "FPS": ivs.FPS(num_steps=20),
}


def slopes(x: Tensor) -> Tensor:
    """A residual: that neighbours are equal."""
    return x[:, 1:] - x[:, :-1]


# --- what `solve` runs, in a few steps -----------------------------------------------------------------------
N = 4
A, Y = numbers(3, N, seed=3), numbers(2, 3, seed=4)
MEANS = torch.tensor([[-1.0, 0.5, 0.0, 0.3], [1.5, 0.0, -0.5, 0.0]])
MIXTURE = iv.priors.GaussianMixturePrior(torch.tensor([0.3, 0.7]), MEANS, 0.3 * torch.eye(N))
SPARSE = iv.priors.SparsePrior((N,), iv.priors.Laplace(0.7))
SHORT = ivs.NoiseMCMC(num_steps=4, chains=16)
STRATEGIES: dict[str, Callable[[], tuple[iv.priors.Prior, Any]]] = {
    "Exact": lambda: (MIXTURE, ivs.Exact()),
    "MMPS, law": lambda: (PRIORS_LAW, ivs.MMPS(num_steps=4, covariance="law")),
    "MMPS, mixture": lambda: (MIXTURE, ivs.MMPS(num_steps=4)),
    "MMPS, network": lambda: (network_prior(), ivs.MMPS(num_steps=4)),
    "MMPS, half": lambda: (network_prior(True), ivs.MMPS(num_steps=4)),
    "TMPD": lambda: (network_prior(), ivs.TMPD(num_steps=4)),
    "PiGDM": lambda: (network_prior(), ivs.PiGDM(num_steps=4)),
    "PiGDM, published": lambda: (network_prior(), ivs.PiGDM(form="published", num_steps=4)),
    "DPS": lambda: (network_prior(), ivs.DPS(num_steps=4)),
    "DPS, paper": lambda: (network_prior(), ivs.DPS(form="paper", scale=0.3, num_steps=4)),
    "LGD": lambda: (network_prior(), ivs.LGD(clouds=2, num_steps=4)),
    "DDNM": lambda: (network_prior(), ivs.DDNM(num_steps=4)),
    "DDNM, official": lambda: (network_prior(), ivs.DDNM(form="official", num_steps=4)),
    "DDRM": lambda: (network_prior(), ivs.DDRM(num_steps=4)),
    "DiffPIR": lambda: (network_prior(), ivs.DiffPIR(num_steps=4)),
    "REDDiff": lambda: (network_prior(), ivs.REDDiff(num_steps=4)),
    "REDDiff, published": lambda: (network_prior(), ivs.REDDiff(loss="published", weight="log", num_steps=4)),
    "DAPS": lambda: (network_prior(), ivs.DAPS(num_steps=3)),
    "DAPS, Langevin": lambda: (network_prior(), ivs.DAPS(num_steps=3, inner="langevin", langevin_steps=2)),
    "DAPS, pCN": lambda: (network_prior(), ivs.DAPS(num_steps=3, inner="pcn", langevin_steps=2)),
    "FunDPS": lambda: (network_prior(), ivs.FunDPS(num_steps=4, weight=1.0, residual=slopes, residual_weight=0.1)),
    "FunDPS, corrected": lambda: (network_prior(), ivs.FunDPS(num_steps=4, corrected=True)),
    "DiffusionPDE": lambda: (
        network_prior(),
        ivs.DiffusionPDE(num_steps=4, weight=0.1, residual=slopes, residual_weight=0.1),
    ),
    "MultiResolution": lambda: (FIELD, ivs.MultiResolution((2,), num_coarse=2, num_fine=2)),
    "PnPDM": lambda: (network_prior(), ivs.PnPDM(num_steps=3)),
    "PnPDM, sampler": lambda: (
        network_prior(),
        ivs.PnPDM(num_steps=3, prior_step="sde", prior_steps=3, data_step="langevin", langevin_steps=2),
    ),
    "LanPaint": lambda: (network_prior(), ivs.LanPaint(num_steps=3, inner=2)),
    "MCGDiff": lambda: (network_prior(), ivs.MCGDiff(num_steps=4)),
    "FPS": lambda: (network_prior(), ivs.FPS(num_steps=4)),
    "SMC": lambda: (MIXTURE, ivs.SMC(num_steps=6)),
    "SMC, network": lambda: (network_prior(), ivs.SMC(num_steps=4)),
    "NoiseMCMC, transport": lambda: (SPARSE, SHORT),
    "NoiseMCMC, flow": lambda: (denoiser(), SHORT),
    "AdaptiveSDE": lambda: (MIXTURE, ivs.AdaptiveSDE(guidance=ivs.MomentMatching(), rtol=1.0)),
    "DeqParallel": lambda: (network_prior(), ivs.DeqParallel(guidance=ivs.MomentMatching(), num_steps=4)),
    "auto": lambda: (MIXTURE, "auto"),
}
FIELD = iv.priors.GaussianFieldPrior(
    (4,), iv.priors.Matern(std=1.0, length=0.5), noise_spectrum=iv.priors.Matern(std=1.0, length=0.2)
)
PRIORS_LAW = iv.priors.GaussianFieldPrior((N,), iv.priors.Matern(std=1.0, length=0.5))
MASKED = {"LanPaint", "DDNM", "DDNM, official", "DDRM", "MCGDiff", "FPS"}
