"""The published methods against a table of their moments, by exact propagation where their step is affine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from gaussian_cases import case, conditioned, gaussian
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.samplers import Ancestral, Euler, custom_grid, karras_grid, log_grid, vp_grid

DTYPE = torch.float64
EDM = (80.0, 0.002)
TABLE = (100.0, 0.01)  # the levels of the table's rows of coded methods, "poly-7"


@dataclass(frozen=True)
class Impulses:
    """Draws that are zero but for one number in every row: which (step, index, entry), -1: none."""

    where: Tensor  # (rows, 3)

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        z = torch.zeros(len(self.where), math.prod(shape), dtype=dtype)
        hit = ((self.where[:, 0] == step) & (self.where[:, 1] == index)).nonzero()[:, 0]
        entry = self.where[hit, 2]
        inside = entry < z.shape[1]
        z[hit[inside], entry[inside]] = 1.0
        return z.view(len(z), *shape)

    def take(self, rows: Tensor) -> Impulses:
        return Impulses(self.where[rows])


def moments(name: str, strategy: ivs.Strategy, *, indices: int = 1) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of an affine strategy: a row without noise, and one for each number that it draws."""
    C, A, std, y = case(name)
    n = len(C)
    each = torch.cartesian_prod(torch.arange(strategy.num_steps + 1), torch.arange(indices), torch.arange(n))
    where = torch.cat([torch.full((1, 3), -1), each])
    x = iv.solve(
        iv.operators.Matrix(matrix=A),
        y,
        gaussian(C),
        noise=std,
        strategy=strategy,
        num_samples=len(where),
        draws=lambda items, samples: Impulses(where[torch.tensor(samples)]),
    ).samples
    away = x[1:] - x[0]
    return x[0], away.mT @ away


def check_row(name: str, strategy: ivs.Strategy, row: tuple[float | None, ...], digits: int = 3) -> None:
    """A row of the table (None: not printed there): mean(s) and variance(s); on C the relative error of the mean and the trace ratio."""
    mean, covariance = moments(name, strategy)
    if name == "C":
        C, A, std, y = case(name)
        exact, P = conditioned(C, A, std, y)
        got = [float((mean - exact).norm() / exact.norm()), float(covariance.trace() / P.trace())]
    else:
        got = [*mean.tolist(), *covariance.diagonal().tolist()]
    for found, printed in zip(got, row, strict=True):
        assert printed is None or abs(found - printed) <= 0.5 * 10.0**-digits + 1e-3


def grid(steps: int) -> Tensor:
    return karras_grid(*TABLE, steps)


def mmps(steps: int) -> ivs.Strategy:
    return ivs.MMPS(sampler=Ancestral(), grid=karras_grid(*EDM, steps), rtol=1e-12)


ROWS: list[tuple[str, str, Callable[[], ivs.Strategy], tuple[float | None, ...]]] = [
    ("exact g 64", "A1", lambda: mmps(64), (0.800, 0.166)),
    ("exact g 64", "A4", lambda: mmps(64), (0.941, 0.195)),
    ("exact g 64", "B", lambda: mmps(64), (1.485, 1.188, 0.0079, 0.306)),
    ("exact g 64", "C", lambda: mmps(64), (0.0, 0.821)),
    ("exact g 256", "A1", lambda: mmps(256), (0.800, 0.191)),
    ("exact g 256", "B", lambda: mmps(256), (1.485, 1.188, 0.0093, 0.350)),
    ("exact g 1000", "B", lambda: mmps(1000), (1.485, 1.188, 0.0097, 0.362)),
    ("exact g, Euler", "A1", lambda: ivs.MMPS(sampler=Euler(), grid=karras_grid(*EDM, 1000)), (0.7955, 0.199)),
    ("exact g, Euler", "A4", lambda: ivs.MMPS(sampler=Euler(), grid=karras_grid(*EDM, 1000)), (0.9355, 0.234)),
    (
        "exact g, Euler",
        "B",
        lambda: ivs.MMPS(sampler=Euler(), grid=karras_grid(*EDM, 1000)),
        (1.483, 1.179, 0.0098, 0.364),
    ),
    ("r2 too wide", "A1", lambda: _score(1e6), (0.676, 0.230)),
    ("r2 too wide", "A4", lambda: _score(1e6), (0.875, 0.270)),
    ("r2 too wide", "B", lambda: _score(1e6), (1.442, 0.802, 0.0116, 0.455)),
    ("r2 of unit data", "B", lambda: _score(1.0), (1.477, 1.132, 0.0104, 0.382)),
    ("unnormalised DPS", "A1", lambda: ivs.DPS(form="likelihood", grid=karras_grid(*EDM, 4000)), (0.982, 0.124)),
    (
        "unnormalised DPS",
        "B",
        lambda: ivs.DPS(form="likelihood", grid=karras_grid(*EDM, 4000)),
        (1.500, 1.463, 0.0050, 0.303),
    ),
    ("PiGDM", "A1", lambda: ivs.PiGDM(form="published", prior_std=1.0, grid=grid(100)), (1.030, 0.0052)),
    ("PiGDM", "A4", lambda: ivs.PiGDM(form="published", prior_std=1.0, grid=grid(100)), (1.008, 0.0049)),
    ("PiGDM", "B", lambda: ivs.PiGDM(form="published", prior_std=1.0, grid=grid(100)), (1.502, 1.375, 0.0002, 0.270)),
    ("PiGDM", "C", lambda: ivs.PiGDM(form="published", prior_std=1.0, grid=grid(100)), (0.0271, 0.695)),
    (
        "PiGDM, log grid",
        "A1",
        lambda: ivs.PiGDM(form="published", prior_std=1.0, grid=log_grid(*TABLE, 100)),
        (1.021, 0.0051),
    ),
    ("DDNM+", "A1", lambda: ivs.DDNM(form="inversebench", grid=grid(100)), (0.955, 0.0)),
    ("DDNM+", "A4", lambda: ivs.DDNM(form="inversebench", grid=grid(100)), (0.988, 0.0)),
    ("DDNM+", "B", lambda: ivs.DDNM(form="inversebench", grid=grid(100)), (1.495, 0.991, 0.0, 0.239)),
    ("DDNM+", "C", lambda: ivs.DDNM(form="inversebench", grid=grid(100)), (0.028, 0.420)),
    ("DDNM+ 1000", "A1", lambda: ivs.DDNM(form="inversebench", grid=grid(1000)), (0.987, 0.0)),
    ("DDNM+ 1000", "B", lambda: ivs.DDNM(form="inversebench", grid=grid(1000)), (1.498, 1.174, 0.0, 0.050)),
    ("DDNM+ official", "B", lambda: ivs.DDNM(form="official", grid=grid(1000)), (1.498, None, 0.0, 0.011)),
    ("DDNM+ spectral", "B", lambda: ivs.DDNM(grid=grid(1000)), (1.498, None, 0.0, 0.277)),
    ("DDNM+ spectral, flow", "B", lambda: ivs.DDNM(eta=0.0, grid=grid(1000)), (1.498, 1.193, 0.0, 0.363)),
    ("DDRM", "A1", lambda: ivs.DDRM(grid=grid(100)), (0.899, 0.024)),
    ("DDRM", "A4", lambda: ivs.DDRM(grid=grid(100)), (0.971, 0.027)),
    ("DDRM", "B", lambda: ivs.DDRM(grid=grid(100)), (1.487, 0.991, 0.0019, 0.304)),
    ("DDRM", "C", lambda: ivs.DDRM(grid=grid(100)), (0.029, 0.767)),
    ("DDRM 1000", "A1", lambda: ivs.DDRM(grid=grid(1000)), (0.977, 0.006)),
    ("DDRM 1000", "B", lambda: ivs.DDRM(grid=grid(1000)), (1.496, 1.171, 0.0008, 0.280)),
    ("DiffPIR", "A1", lambda: ivs.DiffPIR(grid=grid(100)), (0.859, 0.156)),
    ("DiffPIR", "A4", lambda: ivs.DiffPIR(grid=grid(100)), (0.952, 0.201)),
    ("DiffPIR", "B", lambda: ivs.DiffPIR(grid=grid(100)), (1.477, 0.631, 0.0089, 0.566)),
    ("DiffPIR", "C", lambda: ivs.DiffPIR(grid=grid(100)), (0.180, 1.96)),
    ("DiffPIR 1000", "A1", lambda: ivs.DiffPIR(grid=grid(1000)), (0.815, 0.187)),
    ("DiffPIR 1000", "B", lambda: ivs.DiffPIR(grid=grid(1000)), (1.481, 1.001, 0.0094, 0.416)),
    ("DiffPIR 8, 1", "A1", lambda: ivs.DiffPIR(lam=8.0, zeta=1.0, grid=grid(1000)), (0.337, 0.330)),
    ("DiffPIR 8, 1", "A4", lambda: ivs.DiffPIR(lam=8.0, zeta=1.0, grid=grid(1000)), (0.669, 0.660)),
    ("DiffPIR 8, 1", "B", lambda: ivs.DiffPIR(lam=8.0, zeta=1.0, grid=grid(1000)), (1.388, 1.099, 0.037, 0.204)),
]


def _score(prior_std: float) -> ivs.Strategy:
    return ivs.PiGDM(prior_std=prior_std, sampler=Ancestral(), grid=karras_grid(*EDM, 1000))


@pytest.mark.parametrize(("label", "name", "make", "row"), ROWS, ids=[f"{r[0]} on {r[1]}" for r in ROWS])
def test_affine_methods_have_the_moments_of_the_table(label, name, make, row):
    check_row(name, make(), row, digits=2 if "1.96" in str(row) else 3)


def sampled(name: str, strategy: ivs.Strategy, count: int, seed: int = 1) -> Tensor:
    C, A, std, y = case(name)
    return iv.solve(
        iv.operators.Matrix(matrix=A), y, gaussian(C), noise=std, strategy=strategy, num_samples=count, seed=seed
    ).samples


def check_samples(x: Tensor, mean: tuple[float, ...], variance: tuple[float, ...], digits: int = 3) -> None:
    """Within 5 standard errors (of the variance by its fourth moment: tails are not Gaussian) and the printed digits."""
    away = (x - x.mean(0)).square()
    printed = 0.5 * 10.0**-digits
    assert ((x.mean(0) - torch.tensor(mean)).abs() <= 5 * x.std(0) / len(x) ** 0.5 + printed).all()
    assert ((away.mean(0) - torch.tensor(variance)).abs() <= 5 * away.std(0) / len(x) ** 0.5 + printed).all()


@pytest.mark.parametrize(
    ("scale", "mean", "variance"),
    [(0.01, 0.985, 0.011), (0.03, 1.000, 0.0003), (0.1, 1.000, 0.0034), (0.3, 0.998, 0.030), (1.0, 1.00, 0.329)],
)
def test_dps_of_the_paper_has_no_noise_level(scale, mean, variance):
    """DPS (arXiv 2209.14687): the variance goes with zeta, not with the noise of the data; the posterior's is 0.2."""
    strategy = ivs.DPS(form="paper", scale=scale, unit=1.0, grid=vp_grid(1000))
    check_samples(sampled("A1", strategy, 8000), (mean,), (variance,))


def test_dps_of_the_paper_with_two_numbers():
    strategy = ivs.DPS(form="paper", scale=0.3, unit=1.0, grid=vp_grid(1000))
    check_samples(sampled("B", strategy, 8000), (1.499, 1.465), (0.030, 0.301))


@pytest.mark.slow
def test_daps_as_published_and_idealised():
    table = karras_grid(100.0, 0.1, 200)
    published = ivs.DAPS(inner="langevin", tau=0.01, step_size=1e-4, floor=0.01, grid=table)
    check_samples(sampled("A1", published, 1000), (0.998,), (0.0006,))
    ideal = ivs.DAPS(inner="exact", ode_steps=200, floor=1e-3, grid=table)
    check_samples(sampled("B", ideal, 4000), (1.492, 1.119), (0.0099, 0.827), digits=2)


@pytest.mark.slow
def test_pnpdm_rests_at_the_posterior_of_noisier_data():
    """PnP-DM (arXiv 2405.18782): noise covariance G + rho^2 A A^T, by the exact prior step and by a sampler; the flow is no Gibbs step."""
    options = {"rho_max": 10.0, "rho_min": 0.1, "decay": 0.9, "num_steps": 250}
    check_samples(sampled("A1", ivs.PnPDM(**options), 8000), (0.7937,), (0.2063,))
    check_samples(sampled("B", ivs.PnPDM(**options), 8000), (1.4706, 1.1765), (0.0196, 0.3725))
    x = sampled("A1", ivs.PnPDM(**options, prior_step="sde"), 2000)
    assert abs(float(x.mean()) - 0.7937) < 5 * (0.2063 / 2000) ** 0.5 + 0.005
    assert abs(float(x.var()) / 0.2063 - 1) < 5 * (2 / 2000) ** 0.5 + 0.05  # the sampler's own bias at 20 evaluations
    x = sampled("A1", ivs.PnPDM(**options, prior_step="ode", prior_steps=100), 2000)
    check_samples(x, (0.885,), (0.113,), digits=2)


def test_reddiff_as_published_ends_at_the_data():
    """RED-diff (arXiv 2305.04391): B, lam 0.25, rate 0.1, 1000 levels: (1.500, 1.146), variances (0, 0.070) over runs."""
    strategy = ivs.REDDiff.published()
    check_samples(sampled("B", strategy, 2000), (1.500, 1.146), (0.0, 0.070))
    check_samples(sampled("A1", strategy, 500), (1.000,), (1e-4,))


def test_reddiff_of_one_level_rests_where_its_force_is_zero():
    """RED-diff: at sigma 0.7 with w = sigma, lam 0.25: (1.4408, 0.7736). Its mean gradient is that of the formula."""
    C, A, std, y = case("B")
    sigma, mu = 0.7, torch.tensor([1.4408, 0.7736], dtype=DTYPE)
    strategy = ivs.REDDiff(loss="published", weight="linear", lam=0.25, unit=1.0, grid=custom_grid([sigma, 0.1]))
    problem = iv.Problem(iv.operators.Matrix(matrix=A), y.expand(20000, 1), noise=std)
    prior = gaussian(C)
    from invsolve.core.random import Draws
    from invsolve.strategies.base import Run

    draws = Draws.for_rows(0, [0] * 20000, list(range(20000)), torch.device("cpu"))
    run = Run(problem=problem, prior=prior, draws=draws, bound=strategy.bind(problem, prior))
    grad = strategy._gradient(run, mu.expand(20000, 2), sigma, 0)
    assert (grad.mean(0).abs() < 5 * grad.std(0) / 20000**0.5 + 1e-4).all()


def test_reddiff_with_the_likelihood_ends_at_the_posterior_mean():
    """Ours: a mode, which for Gaussian laws is the mean; what t^2 and the last rates leave is below 0.02 stds."""
    for name in ("A1", "A4", "B", "C"):
        C, A, std, y = case(name)
        mean, P = conditioned(C, A, std, y)
        x = sampled(name, ivs.REDDiff(), 4)
        assert ((x - mean).abs() / P.diagonal().sqrt()).max() < 0.02
        assert (x.std(0) / P.diagonal().sqrt()).max() < 1e-3  # an estimate: no spread


@pytest.mark.parametrize(
    ("inner", "lam", "mean", "std"),
    [
        (0, 5.0, 0.513, 0.642),
        (1, 5.0, 0.772, 0.524),
        (2, 5.0, 0.906, 0.476),
        (5, 5.0, 1.033, 0.434),
        (10, 5.0, 1.065, 0.420),
        (5, 0.0, 0.955, 0.465),
        (10, 0.0, 1.014, 0.440),
    ],
)
def test_lanpaint_has_the_moments_of_its_table(inner, lam, mean, std):
    """LanPaint (arXiv 2502.03491): correlation 0.9, y = 1.2; exact 1.080 and 0.436."""
    C = torch.tensor([[1, 0.9], [0.9, 1]], dtype=DTYPE)
    strategy = ivs.LanPaint(inner=inner, lam=lam, unit=1.0, grid=log_grid(20.0, 0.02, 30))
    x = iv.solve(
        iv.operators.Mask(mask=torch.tensor([True, False])),
        torch.tensor([1.2, 0.0], dtype=DTYPE),
        gaussian(C),
        noise=1e-6,
        strategy=strategy,
        num_samples=20000,
    ).samples
    assert float((x[:, 0] - 1.2).abs().max()) < 1e-9
    assert abs(float(x[:, 1].mean()) - mean) < 5 * std / 20000**0.5 + 1e-3
    assert abs(float(x[:, 1].std()) - std) < 5 * std / 40000**0.5 + 1e-3


@pytest.mark.slow
def test_mcgdiff_on_two_numbers():
    """MCGDiff (arXiv 2308.07983): means (1.492, 1.166), hidden variance .321 of 0.366: the last weight dominates, and the finite number of steps."""
    C, A, std, y = case("B")
    found = [
        iv.solve(
            iv.operators.Matrix(matrix=A),
            y,
            gaussian(C),
            noise=std,
            num_samples=1000,
            seed=seed,
            strategy=ivs.MCGDiff(unit=1.0, grid=grid(200)),
        )
        for seed in range(12)
    ]
    means, hidden = torch.stack([r.mean for r in found]), torch.stack([r.std[1] ** 2 for r in found])
    error = means.std(0) / 12**0.5
    assert ((means.mean(0) - torch.tensor([1.485, 1.188])).abs() < 5 * error + 0.02).all()
    assert abs(float(hidden.mean()) - 0.366) < 0.366 * 0.12 + 5 * float(hidden.std()) / 12**0.5


def test_fps_counts_noisy_data_once_a_level():
    """FPS. Of one unknown the filter is a Kalman filter: its variance is a recursion, far below the posterior's."""
    C, A, std, y = case("A1")
    levels = grid(100)
    strategy = ivs.FPS(grid=levels)
    r = iv.solve(iv.operators.Matrix(matrix=A), y, gaussian(C), noise=std, strategy=strategy, num_samples=4000)
    variance = 1 + float(levels[0]) ** 2
    for a, b in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        keep = 1 / (1 + a * a)
        slope = keep + (b / a) ** 2 * (1 - keep)
        variance = slope**2 * variance + b * b * (1 - (b / a) ** 2)
        variance = variance * std**2 / (variance + std**2) if b > 0 else variance
    ess = float(r.info["ess"].flatten()[0])
    assert variance < 0.05  # of 0.2
    assert abs(float(r.std**2) / variance - 1) < 5 * (2 / ess) ** 0.5


@pytest.mark.parametrize("t", [0.1, 1.0, 10.0])
def test_lgd_tends_to_pseudoinverse_guidance_as_points_grow(t):
    """E exp(-loss) over the cloud is N(y; A D, G + r^2 A A^T), whose gradient is PiGDM's."""
    C, A, std, y = case("A1")
    prior, problem = gaussian(C), iv.Problem(iv.operators.Matrix(matrix=A), y, noise=std)
    strategy = ivs.LGD(clouds=40000, trust=None, unit=1.0, grid=custom_grid([t, 0.5 * t]))
    x = torch.tensor([[0.7 * t]], dtype=DTYPE)

    class Cloud:
        def normal(self, shape, dtype, *, step, index=0):
            return (
                torch.zeros(1, 1, dtype=dtype)
                if index == 0
                else torch.special.ndtri(torch.full((1, 1), (index - 0.5) / 40000, dtype=dtype))
            )

        def take(self, rows):
            return self

    from invsolve.strategies.base import Run

    run = Run(problem=problem, prior=prior, draws=Cloud(), bound=strategy.bind(problem, prior))
    got, _ = strategy.move(run, x, t, 0.5 * t, 0)
    value, pull = prior.pullback(x, t)
    r2 = t * t / (1 + t * t)
    g = pull((y - value) / (std**2 + r2))
    expected = value + 0.25 * (x - value) + 0.75 * t * t * g
    assert torch.allclose(got, expected, atol=2e-3 * max(1.0, t))
