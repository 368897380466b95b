"""FunDPS and DiffusionPDE: their published steps, written down once more by automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from field_problems import STD, exact, field_prior, measured, off
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.samplers import karras_grid

D = torch.float64
C = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=D)
A = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, 0.1]], dtype=D)
Y = torch.tensor([0.4, -0.9, 0.3], dtype=D)
UNIT, DATA_UNIT = 3.0, 1.7


def denoise(x: Tensor, s: float) -> Tensor:
    return x @ torch.linalg.solve(C + s**2 * torch.eye(2, dtype=D), C)


def equation(x: Tensor) -> Tensor:
    """Residuals on both sides of the bend of Huber's loss."""
    return torch.stack([x[:, 0] - x[:, 1], 5 * (x[:, 0] + x[:, 1] ** 2)], 1)


def walk(strategy: ivs.Strategy, z: Tensor) -> Tensor:
    """The published loop in normalised units, for one start ``z`` (2,)."""
    n = strategy.num_steps
    levels = karras_grid(strategy.sigma_max, strategy.sigma_min, n).tolist()  # of z
    z = levels[0] * z[None] / 1.0
    for i in range(n):
        a, b = levels[i], levels[i + 1]
        leaf = z.detach().requires_grad_()

        def clean(v: Tensor, s: float) -> Tensor:
            return denoise(UNIT * v, UNIT * s) / UNIT

        last = clean(leaf, a)
        d = (leaf - last) / a
        new = leaf + (b - a) * d
        if i + 1 < n:
            last = clean(new, b)
            new = leaf + (b - a) * (d + (new - last) / b) / 2
        rest = (UNIT * last @ A.mT - Y) / DATA_UNIT
        residual = equation(UNIT * last)
        loss = torch.zeros((), dtype=D)
        if isinstance(strategy, ivs.FunDPS):
            if i + 1 < n:
                g = 1.0 if a > 1 else a
                mean = rest.square().mean()
                loss = strategy.weight * g * (mean if strategy.loss == "mse" else mean.sqrt())
                if a <= 1:
                    huber = torch.nn.functional.huber_loss(residual, torch.zeros_like(residual), delta=1.0)
                    loss = loss + strategy.residual_weight * a * huber
        else:
            late = i > strategy.early * n
            loss = strategy.weight * (0.1 if late else 1.0) * rest.norm()
            if late:
                loss = loss + strategy.residual_weight * residual.norm() / residual.numel()
        step = torch.autograd.grad(loss, leaf)[0] if loss.requires_grad else 0
        z = new.detach() - step
    return UNIT * z[0]


STRATEGIES = {
    "FunDPS": ivs.FunDPS(num_steps=12, weight=0.8, unit=UNIT, data_unit=DATA_UNIT, sigma_max=20.0),
    "root": ivs.FunDPS(num_steps=12, weight=0.3, loss="rms", unit=UNIT, data_unit=DATA_UNIT, sigma_max=20.0),
    "FunDPS and the equation": ivs.FunDPS(
        num_steps=12, weight=0.2, unit=UNIT, data_unit=DATA_UNIT, residual=equation, residual_weight=0.05
    ),
    "DiffusionPDE": ivs.DiffusionPDE(num_steps=12, weight=0.05, unit=UNIT, data_unit=DATA_UNIT),
    "DiffusionPDE and the equation": ivs.DiffusionPDE(
        num_steps=12, weight=0.05, unit=UNIT, data_unit=DATA_UNIT, residual=equation, residual_weight=0.03, early=0.5
    ),
}


class Fixed:
    """Starts that are known."""

    def __init__(self, z: Tensor) -> None:
        self.z = z

    def normal(self, shape, dtype, *, step, index=0):
        assert (step, index) == (0, 0)  # no other number is drawn
        return self.z.to(dtype)

    def take(self, rows):
        return Fixed(self.z[rows])


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_step_is_the_published_one(name):
    strategy = STRATEGIES[name]
    prior = iv.priors.GaussianPrior(torch.zeros(2, dtype=D), C)
    z = torch.tensor([[0.3, -1.1], [1.2, 0.2]], dtype=D)
    options = {"noise": 0.1, "strategy": strategy, "num_samples": 2, "draws": lambda items, k: Fixed(z)}
    x = iv.solve(iv.operators.Matrix(A), Y, prior, **options).samples
    expected = torch.stack([walk(strategy, one) for one in z])
    assert torch.allclose(x, expected, rtol=1e-9, atol=1e-12)
    assert (expected - torch.stack([denoise(z, 1e-9)]).squeeze()).abs().max() > 1e-3


def test_published_settings_are_those_of_the_authors():
    """Weights in units of twice the std: the step in the units of their losses is zeta."""
    fun = ivs.FunDPS.published("helmholtz_inverse", residual=equation)
    assert (fun.num_steps, fun.weight, fun.loss, fun.residual_weight) == (500, 5e3, "rms", 1.0)
    short = ivs.FunDPS.published("poisson_inverse", num_steps=200)
    assert (short.num_steps, short.sigma_max, short.sigma_min, short.residual_weight) == (200, 10.0, 0.01, 0.0)
    pde = ivs.DiffusionPDE.published("poisson_inverse", std=0.29195, data_std=4.175e-3)
    assert pde.num_steps == 2000 and pde.weight == pytest.approx(40 / 36.5)
    assert (pde.unit, pde.data_unit) == (pytest.approx(2.15), pytest.approx(1 / 36.5))
    for make in (
        lambda: ivs.FunDPS.published("a task"),
        lambda: ivs.DiffusionPDE.published("a task", std=1.0, data_std=1.0),
        lambda: ivs.DiffusionPDE.published("darcy_inverse", std=-1.0, data_std=1.0),
        lambda: ivs.DiffusionPDE.published("darcy_inverse", std=1.0, data_std=0.0),
    ):
        with pytest.raises(iv.errors.InputError):
            make()


def test_units_that_are_not_given_are_twice_the_stds():
    """Of coloured noise and a field too; the level in units of the signal is that of the entries."""
    prior, B, y = measured()
    std = float(prior.sample(4000, seed=0).square().mean().sqrt())
    bound = ivs.FunDPS(num_steps=5).bind(iv.Problem(B, torch.stack([y, 3 * y]), noise=STD), prior)
    noise = float(prior.noise(torch.randn(4000, 16, 16, generator=torch.Generator().manual_seed(0), dtype=D)).std())
    assert bound.tools.unit == pytest.approx(2 * std, rel=0.02)
    assert bound.tools.level == pytest.approx(noise / (2 * std), rel=0.05)  # 16 draws
    assert float(bound.grid[0]) * bound.tools.level == pytest.approx(80.0)
    size = 2 * float(y.square().mean().sqrt())
    assert bound.tools.data_unit.values.tolist() == pytest.approx([size, 3 * size])
    free = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(16, 16), scale=1.0, dtype=D)
    assert ivs.FunDPS(num_steps=5).bind(iv.Problem(B, y, noise=STD), free).tools.unit == pytest.approx(2.0)
    narrow = iv.priors.from_denoiser(
        lambda x, s: x / (1 + s**2), shape=(16, 16), scale=1.0, dtype=D, sigma_range=(0.1, 5.0)
    )
    grid = ivs.FunDPS(num_steps=5).bind(iv.Problem(B, y, noise=STD), narrow).grid
    assert (float(grid[0]), float(grid[-2])) == (5.0, pytest.approx(0.1))


@pytest.mark.parametrize("make", [ivs.FunDPS, ivs.DiffusionPDE])
def test_corrected_it_is_the_posterior(make):
    problem = measured()
    prior, B, y = problem
    mean, std = exact(*problem, STD)
    r = iv.solve(B, y, prior, noise=STD, strategy=make(corrected=True, num_steps=50), num_samples=400, seed=1)
    e_mean, e_std, floor = off(r.samples, mean, std)
    assert e_mean < 1.5 * floor and e_std < 0.05 and r.nfe == 99


def test_as_published_the_weight_decides():
    """No noise level enters: from far too wide to divergence, in 200 steps of one problem."""
    problem = measured()
    prior, B, y = problem
    mean, std = exact(*problem, STD)

    def solve(weight: float) -> iv.Result:
        return iv.solve(
            B,
            y,
            prior,
            noise=STD,
            strategy=ivs.FunDPS(weight=weight, num_steps=200),
            num_samples=100,
            throw=False,
        )

    low, best, high = (solve(weight) for weight in (1.0, 100.0, 1e4))
    assert float(low.samples.std(0).mean() / std.mean()) > 2
    assert off(best.samples, mean, std)[0] < 0.25
    assert bool(high.failed.all())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ivs.FunDPS(weight=-1.0), "weight"),
        (lambda: ivs.FunDPS(loss="mine"), "loss"),
        (lambda: ivs.FunDPS(num_steps=1), "num_steps"),
        (lambda: ivs.FunDPS(unit=0.0), "unit"),
        (lambda: ivs.FunDPS(data_unit=-1.0), "data_unit"),
        (lambda: ivs.FunDPS(sigma_min=0.0), "sigma_min"),
        (lambda: ivs.FunDPS(sigma_max=1e-3), "sigma_max"),
        (lambda: ivs.FunDPS(residual_weight=1.0), "residual"),
        (lambda: ivs.FunDPS(residual=3.0), "residual"),
        (lambda: ivs.FunDPS(corrected="yes"), "corrected"),
        (lambda: ivs.FunDPS(corrected=True, residual=equation), "residual.*observation @ solver"),
        (lambda: ivs.DiffusionPDE(early=1.5), "early"),
        (lambda: ivs.DiffusionPDE(weight=float("nan")), "weight"),
    ],
)
def test_wrong_options_are_refused(make, match):
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=match):
        make()


def test_residuals_that_cannot_be_used_are_refused():
    prior = iv.priors.GaussianPrior(torch.zeros(2, dtype=D), C)

    def solve(residual, **options):
        strategy = ivs.DiffusionPDE(num_steps=3, residual=residual, residual_weight=1.0, early=0.0)
        iv.solve(iv.operators.Matrix(A), Y, prior, noise=0.1, strategy=strategy, num_samples=3, **options)

    with pytest.raises(iv.errors.InputError, match="a map to a tensor of 3 rows"):
        solve(lambda x: x.sum())
    with pytest.raises(iv.errors.UnsupportedError, match="residual must be differentiable"):
        solve(lambda x: x.detach())


def test_a_black_box_and_other_noise_are_refused():
    prior = iv.priors.GaussianPrior(torch.zeros(2, dtype=D), C)
    box = iv.operators.from_callable(lambda x: x, (2,), (2,), kind="black box")
    with pytest.raises(iv.errors.UnsupportedError, match="black box"):
        iv.solve(box, Y[:2], prior, noise=0.1, strategy=ivs.FunDPS(num_steps=3), num_samples=1)
    noise = iv.noise.Laplace(scale=0.1)
    with pytest.raises(iv.errors.UnsupportedError, match="Gaussian noise .*corrected=True"):
        iv.solve(iv.operators.Matrix(A), Y, prior, noise=noise, strategy=ivs.FunDPS(num_steps=3), num_samples=1)


def test_without_data_it_samples_the_prior():
    prior = field_prior()
    nothing = iv.operators.Mask(torch.zeros(16, 16, dtype=torch.bool))
    for strategy in (ivs.FunDPS(num_steps=20), ivs.DiffusionPDE(num_steps=20)):
        x = iv.solve(nothing, torch.zeros(16, 16, dtype=D), prior, noise=1.0, strategy=strategy, num_samples=400)
        want = float(prior.sample(4000, seed=3).std())
        assert float(x.samples.std()) == pytest.approx(want, rel=0.1)  # 20 steps of Heun are 6 % too wide
