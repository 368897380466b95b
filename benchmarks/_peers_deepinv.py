"""deepinv's samplers on the problems, each told as much about the range of the data as its interface can take."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from _network import Network
from _problems import Case
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepinv as dinv
    from deepinv.sampling import (
        DDRM,
        DPS,
        AncestralSolver,
        DiffPIR,
        DPSDataFidelity,
        EulerSolver,
        MomentMatchingDataFidelity,
        PiGDMDataFidelity,
        PosteriorDiffusion,
        VarianceExplodingDiffusion,
    )

Sampler = Callable[[Case, int, int, Network], Tensor]


class _Denoiser(dinv.models.Denoiser):
    """The network on images ``(rows, channels, height, width)``."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor | float, **_: object) -> Tensor:
        level = torch.as_tensor(sigma, dtype=torch.float32).flatten()  # one for all rows, or one a row
        return self.network(x.float().flatten(1), level if len(level) > 1 else level[0]).view(x.shape)


def physics(case: Case, item: int) -> tuple[dinv.physics.DecomposablePhysics, Tensor]:
    """The operator of an item in deepinv's terms, with its singular value decomposition, and the data ``(1, ...)``."""
    matrix, y = (t.float() for t in case.dense[item])
    noise, shape = dinv.physics.GaussianNoise(case.noise), case.image_shape
    if bool(((matrix == 0) | (matrix == 1)).all()) and bool((matrix.sum(1) == 1).all()):  # entries of the signal
        mask = matrix.sum(0).view(shape)
        return dinv.physics.Inpainting(img_size=shape, mask=mask, noise_model=noise), (y @ matrix).view(1, *shape)
    u, s, vh = torch.linalg.svd(matrix)
    m, n = matrix.shape
    pad = torch.nn.functional.pad

    decomposed = dinv.physics.DecomposablePhysics(
        U=lambda c: (c.flatten(1)[:, :m] @ u.to(c.dtype).mT).view(-1, 1, 1, m),
        U_adjoint=lambda v: pad(v.flatten(1) @ u.to(v.dtype), (0, n - m)).view(-1, *shape),
        V=lambda c: (c.flatten(1) @ vh.to(c.dtype)).view(-1, *shape),
        V_adjoint=lambda x: (x.flatten(1) @ vh.to(x.dtype).mT).view(-1, *shape),
        mask=pad(s, (0, n - m)).view(1, *shape),
        noise_model=noise,
    )
    return decomposed, y.view(1, 1, 1, m)


def _run(model: Callable[[Case, _Denoiser], torch.nn.Module], *, init_shape: bool) -> Sampler:
    def draw(case: Case, item: int, n: int, network: Network) -> Tensor:
        operator, y = physics(case, item)
        y = y.expand(n, *y.shape[1:]).clone()
        built = model(case, _Denoiser(network))
        # x_init spares PosteriorDiffusion a pseudo-inverse that it would compute to learn a shape.
        x = built(y, operator, x_init=(n, *case.image_shape)) if init_shape else built(y, operator)
        return x.detach().flatten(1)

    return draw


def _dps() -> Sampler:
    return _run(lambda case, denoiser: DPS(denoiser), init_shape=True)


def _dps_tuned(guidance: str) -> Sampler:
    """DPS without its assumption of a range: the clip is lifted where the data leave [0, 1]."""

    def model(case: Case, denoiser: _Denoiser) -> torch.nn.Module:
        # deepinv's note on the norm form: its weight has to absorb ||residual|| / sigma_y^2 = sqrt(m) / sigma_y.
        weight = len(case.dense[0][1]) ** 0.5 / case.noise if guidance == "norm" else 1.0
        built = DPS(denoiser, guidance=guidance, weight=weight, minus_one_one=case.unit_interval)
        if not case.unit_interval:
            built.data_fidelity.clip = None
        return built

    return _run(model, init_shape=True)


def _diffpir(**options: float) -> Sampler:
    def model(case: Case, denoiser: _Denoiser) -> torch.nn.Module:
        return DiffPIR(denoiser, data_fidelity=dinv.optim.L2(), sigma=case.noise, **options)

    return _run(model, init_shape=False)


def _posterior_diffusion(fidelity: Callable[[], torch.nn.Module], *, euler: bool, steps: int = 100) -> Sampler:
    """Variance exploding from 20 to 0.005 in the units of the state, which are [-1, 1] for data in [0, 1]."""

    def model(case: Case, denoiser: _Denoiser) -> torch.nn.Module:
        unit = case.unit / 2 if case.unit != 1 else 1.0  # A250 is A, whose state spans two units
        sde = VarianceExplodingDiffusion(alpha=1, sigma_min=0.005 * unit, sigma_max=20 * unit)
        solver = (EulerSolver if euler else AncestralSolver)(timesteps=torch.linspace(1, 1e-3 if euler else 0, steps))
        return PosteriorDiffusion(
            data_fidelity=fidelity(), denoiser=denoiser, sde=sde, solver=solver, minus_one_one=case.unit_interval
        )

    return _run(model, init_shape=True)


SLOW = {"DPS, default", "DPS, annealed", "DPS, weight sqrt(m)/noise"}
METHODS: dict[str, Sampler] = {
    "DPS, default": _dps(),
    "DPS, annealed": _dps_tuned("annealed"),
    "DPS, weight sqrt(m)/noise": _dps_tuned("norm"),
    "DPS annealed, VE, 100 steps": _posterior_diffusion(lambda: DPSDataFidelity(guidance="annealed"), euler=False),
    "DiffPIR, default": _diffpir(),
    "DiffPIR, zeta 1": _diffpir(zeta=1.0),
    "DDRM, default": _run(lambda case, denoiser: DDRM(denoiser), init_shape=False),
    "PiGDM, VE, ancestral": _posterior_diffusion(PiGDMDataFidelity, euler=False),
    "MomentMatching, default CG (3), VE, ancestral": _posterior_diffusion(MomentMatchingDataFidelity, euler=False),
    "MomentMatching, 20 CG, VE, Euler": _posterior_diffusion(
        lambda: MomentMatchingDataFidelity(cg_max_iter=20), euler=True
    ),
}
