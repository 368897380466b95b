"""Strategies against closed forms: Gaussian cases, scaling, noise levels, non-linear operators."""

from __future__ import annotations

import math

import pytest
import torch
from gaussian_cases import DTYPE, case, conditioned, gaussian, matern
from torch import Tensor

import invsolve as iv
from invsolve.operators.base import Operator


class Injected:
    """Draws that are all zero, or one in one place: an affine method shows its mean and its noise exactly."""

    def __init__(self, rows: int, step: int = -1, entry: int = -1) -> None:
        self.rows, self.step, self.entry = rows, step, entry

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        z = torch.zeros(self.rows, math.prod(shape), dtype=dtype)
        if step == self.step:
            z[:, self.entry] = 1.0
        return z.view(self.rows, *shape)

    def take(self, rows: Tensor) -> Injected:
        return Injected(len(rows), self.step, self.entry)


def propagate(
    A: iv.operators.LinearOperator, y: Tensor, prior: iv.priors.Prior, std: float, strategy: iv.strategies.Guided
) -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of an affine strategy: one run without noise, one for every normal number it draws."""

    def run(step: int, entry: int) -> Tensor:
        return iv.solve(
            A,
            y,
            prior,
            noise=std,
            strategy=strategy,
            num_samples=1,
            draws=lambda items, samples: Injected(len(items), step, entry),
        ).samples[0]

    mean = run(-5, 0)
    n = len(mean)
    covariance = torch.zeros(n, n, dtype=DTYPE)
    for step in range(strategy.num_steps + 1):
        for entry in range(n):
            d = run(step, entry) - mean
            covariance += torch.outer(d, d)
    return mean, covariance


@pytest.mark.slow
@pytest.mark.parametrize("name", ["A1", "A4", "B"])
@pytest.mark.parametrize("covariance", ["law", "jacobian"])
def test_mmps_has_the_posterior_moments_by_exact_propagation(name, covariance):
    """Exact up to the sampler's own error, here below 1 % of a standard deviation."""
    C, A, std, y = case(name)
    mean, P = conditioned(C, A, std, y)
    strategy = iv.strategies.MMPS(covariance=covariance, rtol=1e-10)
    got_mean, got_P = propagate(iv.operators.Matrix(matrix=A), y, gaussian(C), std, strategy)
    sd = P.diagonal().sqrt()
    assert ((got_mean - mean).abs() / sd).max() < 0.01
    assert (got_P.diagonal().sqrt() / sd - 1).abs().max() < 0.01


@pytest.mark.parametrize(("name", "mean", "variance"), [("A1", 0.800, 0.1975), ("A4", 0.991, 0.195)])
def test_pigdm_gives_its_biased_moments(name, mean, variance):
    """r^2 = t^2 / (1 + t^2), EDM grid 80 -> 0.002, ancestral, N = 1000: right where C = I, biased elsewhere."""
    C, A, std, y = case(name)
    grid = iv.samplers.karras_grid(80.0, 0.002, 1000)
    strategy = iv.strategies.PiGDM(prior_std=1.0, sampler=iv.samplers.Ancestral(), grid=grid)
    result = iv.solve(
        iv.operators.Matrix(matrix=A), y, gaussian(C), noise=std, strategy=strategy, num_samples=20000, seed=1
    )
    x = result.samples
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / 20000) + 5e-4  # the printed digits
    assert abs(x.var() - variance) < 5 * variance * math.sqrt(2 / 20000) + 5e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "covariance_error"), [(iv.strategies.TMPD, 0.02), (iv.strategies.PiGDM, 0.02), (iv.strategies.MMPS, 0.02)]
)
def test_every_guidance_is_exact_for_independent_entries(make, covariance_error):
    """With C = I and a mask the row sums and the scalar r^2 are the exact covariance: three methods, one posterior."""
    mask = torch.tensor([True, False, True])
    y = torch.tensor([1.0, 0.0, -2.0], dtype=DTYPE)
    strategy = make()
    mean, P = propagate(iv.operators.Mask(mask=mask), y, gaussian(torch.eye(3, dtype=DTYPE)), 0.5, strategy)
    assert torch.allclose(mean, torch.tensor([0.8, 0, -1.6], dtype=DTYPE), atol=0.01)
    assert torch.allclose(P, torch.diag(torch.tensor([0.2, 1, 0.2], dtype=DTYPE)), atol=covariance_error)


@pytest.mark.slow
@pytest.mark.parametrize("std", [1e-3, 0.01, 0.1, 1.0, 100.0])
@pytest.mark.parametrize(
    "strategy",
    ["auto", iv.strategies.MMPS(), iv.strategies.MMPS(covariance="jacobian")],
    ids=["auto", "law", "jacobian"],
)
def test_noise_aware(std, strategy):
    """Acceptance 6: from the constraint to the prior, mean and std follow the closed form."""
    C, A, _, y = case("C")
    mean, P = conditioned(C, A, std, y)
    n = 4096
    x = iv.solve(
        iv.operators.Matrix(matrix=A), y, gaussian(C), noise=std, strategy=strategy, num_samples=n, seed=3
    ).samples
    sd = P.diagonal().sqrt()
    # The sampler's own bias at 50 steps, measured by exact propagation, is below 0.01 sd and 1.5 %; plus 5 standard
    # errors.
    assert ((x.mean(0) - mean).abs() / sd).max() < 5 / math.sqrt(n) + 0.01
    assert (x.std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * n) + 0.015


@pytest.mark.parametrize("unit", [1e-6, 250.0, 1e6])
@pytest.mark.parametrize(
    "strategy",
    [
        iv.strategies.MMPS(),
        iv.strategies.MMPS(sampler=iv.samplers.ERSDE(order=3)),
        iv.strategies.PiGDM(),
        iv.strategies.TMPD(),
        iv.strategies.Exact(),
    ],
    ids=lambda s: s.name,
)
def test_units_do_not_matter(unit, strategy):
    C, A, std, y = case("C")
    one = iv.solve(iv.operators.Matrix(matrix=A), y, gaussian(C), noise=std, strategy=strategy, num_samples=4).samples
    two = iv.solve(
        iv.operators.Matrix(matrix=A),
        y * unit,
        gaussian(C * unit**2),
        noise=std * unit,
        strategy=strategy,
        num_samples=4,
    ).samples
    # Grids are rounded and CG stops at a residual: the same numbers to the tolerance of the inner solves.
    assert torch.allclose(two / unit, one, atol=1e-3 if strategy.name == "MMPS" else 1e-6)


def test_float32_follows_float64():
    C, A, std, y = case("C")
    strategy = iv.strategies.MMPS()
    wide = iv.solve(iv.operators.Matrix(matrix=A), y, gaussian(C), noise=std, strategy=strategy, num_samples=4).samples
    narrow = iv.solve(
        iv.operators.Matrix(matrix=A.float()),
        y.float(),
        gaussian(C.float()),
        noise=std,
        strategy=strategy,
        num_samples=4,
    ).samples
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().max() < 1e-3  # signals of size 1


def test_complex_data_real_signal_and_complex_signal():
    """The pseudo-covariance matters: a complex-Hermitian solve would be 20 % off for the real signal."""
    n, std, rng = 16, 0.3, torch.Generator().manual_seed(0)
    F = torch.fft.fft(torch.eye(n, dtype=torch.complex128), norm="ortho")[torch.tensor([0, 1, 2, 3, 5, 8, 13])]
    C = matern(n, 3.0)
    y = torch.randn(len(F), dtype=torch.complex128, generator=rng)
    stacked = torch.cat([F.real, F.imag])
    real_mean, real_P = conditioned(C, stacked, std, torch.cat([y.real, y.imag]))
    K = C.to(F.dtype) @ F.mH @ torch.linalg.inv(F @ C.to(F.dtype) @ F.mH + std**2 * torch.eye(len(F)))
    complex_P = (C - K @ F @ C.to(F.dtype)).real.diagonal()
    for strategy in ("auto", iv.strategies.MMPS(), iv.strategies.MMPS(covariance="jacobian")):
        N = 4000
        r = iv.solve(
            iv.operators.Matrix(matrix=F, in_kind="real"), y, gaussian(C), noise=std, strategy=strategy, num_samples=N
        )
        sd = real_P.diagonal().sqrt()
        assert ((r.samples.mean(0) - real_mean).abs() / sd).max() < 5 / math.sqrt(N) + 0.01
        assert (r.samples.std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * N) + 0.015
        r = iv.solve(
            iv.operators.Matrix(matrix=F),
            y,
            gaussian(C, torch.zeros(n, dtype=F.dtype)),
            noise=std,
            strategy=strategy,
            num_samples=N,
        )
        sd = complex_P.sqrt()  # per real component
        assert ((r.samples.mean(0) - K @ y).abs() / sd).max() < 6 / math.sqrt(N) + 0.01
        assert (r.samples.real.std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * N) + 0.015
        assert (r.samples.imag.std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * N) + 0.015


class Cubic(Operator):
    """A mildly non-linear map of one number; in_shape (1,)."""

    in_shape = (1,)
    out_shape = (1,)

    def __init__(self, bend: float) -> None:
        self.bend = bend

    def _apply(self, x: Tensor) -> Tensor:
        return x + self.bend * x**3


@pytest.mark.parametrize("covariance", ["law", "jacobian"])
def test_gauss_newton_for_a_mildly_non_linear_operator(covariance):
    """Against quadrature. The linearisation is an approximation: 0.1 sd and 10 % is what it is good for at this
    bend.
    """
    grid = torch.linspace(-6, 6, 40001, dtype=DTYPE)
    log = -(grid**2) / 2 - (1.2 - grid - 0.05 * grid**3) ** 2 / (2 * 0.3**2)
    weight = (log - log.max()).exp()
    mean = (weight * grid).sum() / weight.sum()
    sd = ((weight * (grid - mean) ** 2).sum() / weight.sum()).sqrt()
    result = iv.solve(
        Cubic(0.05),
        torch.tensor([1.2], dtype=DTYPE),
        gaussian(torch.eye(1, dtype=DTYPE)),
        noise=0.3,
        strategy=iv.strategies.MMPS(covariance=covariance),
        num_samples=4000,
    )
    assert abs(result.samples.mean() - mean) / sd < 0.1
    assert abs(result.samples.std() / sd - 1) < 0.1
    assert result.vjps == 0 if covariance == "law" else result.vjps > 0


def test_evaluations_are_counted():
    C, A, std, y = case("C")
    r = iv.solve(
        iv.operators.Matrix(matrix=A),
        y,
        gaussian(C),
        noise=std,
        strategy=iv.strategies.MMPS(num_steps=20),
        num_samples=3,
    )
    assert (r.nfe, r.vjps) == (20, 0)
    r = iv.solve(
        iv.operators.Matrix(matrix=A),
        y,
        gaussian(C),
        noise=std,
        strategy=iv.strategies.TMPD(num_steps=20),
        num_samples=3,
    )
    assert (r.nfe, r.vjps) == (20, 40)
    r = iv.solve(
        iv.operators.Matrix(matrix=A),
        y,
        gaussian(C),
        noise=std,
        strategy=iv.strategies.PiGDM(num_steps=20),
        num_samples=3,
    )
    assert (r.nfe, r.vjps) == (20, 20)
    r = iv.solve(
        iv.operators.Matrix(matrix=A),
        y,
        gaussian(C),
        noise=std,
        strategy=iv.strategies.MMPS(num_steps=20, sampler=iv.samplers.Heun()),
        num_samples=3,
    )
    assert r.nfe == 39
    r = iv.solve(iv.operators.Matrix(matrix=A), y, gaussian(C), noise=std, num_samples=3)
    assert (r.nfe, r.vjps) == (0, 0)


def test_data_that_fit_exactly_and_data_that_say_nothing():
    """Solver guards: y = A D, an all-zero mask, zero data: no NaN anywhere."""
    prior = gaussian(torch.eye(4, dtype=DTYPE))
    nothing = iv.operators.Mask(mask=torch.zeros(4, dtype=torch.bool))
    for strategy in (
        iv.strategies.MMPS(),
        iv.strategies.MMPS(covariance="jacobian"),
        iv.strategies.TMPD(),
        iv.strategies.PiGDM(),
        "auto",
    ):
        r = iv.solve(nothing, torch.zeros(4, dtype=DTYPE), prior, noise=0.1, strategy=strategy, num_samples=400)
        assert abs(r.samples.std() - 1) < 5 / math.sqrt(3200) + 0.015
        everything = iv.operators.Mask(mask=torch.ones(4, dtype=torch.bool))
        r = iv.solve(everything, torch.zeros(4, dtype=DTYPE), prior, noise=0.1, strategy=strategy, num_samples=4)
        assert r.samples.isfinite().all()


def test_per_item_operators_and_noise():
    """Every item has its own mask and noise level; each is the posterior of the item alone."""
    C = matern(6, 2.0)
    masks = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 0, 1]], dtype=torch.bool)
    stds = torch.tensor([[0.1], [0.5]], dtype=DTYPE).expand(2, 6)
    y = torch.randn(2, 6, dtype=DTYPE, generator=torch.Generator().manual_seed(0)) * masks
    N = 4000
    for strategy in ("auto", iv.strategies.MMPS(), iv.strategies.MMPS(covariance="jacobian")):
        r = iv.solve(
            iv.operators.Mask(mask=masks, in_shape=(6,)), y, gaussian(C), noise=stds, strategy=strategy, num_samples=N
        )
        for b in range(2):
            A = torch.eye(6, dtype=DTYPE)[masks[b]]
            mean, P = conditioned(C, A, float(stds[b, 0]), y[b][masks[b]])
            sd = P.diagonal().sqrt()
            assert ((r.samples[:, b].mean(0) - mean).abs() / sd).max() < 5 / math.sqrt(N) + 0.01
            assert (r.samples[:, b].std(0) / sd - 1).abs().max() < 5 / math.sqrt(2 * N) + 0.015


@pytest.mark.slow
def test_noise_scale_makes_units_of_different_entries_equal():
    """A millimetre and a kilometre in one signal: with the diffusion noise in each entry's own unit both are right."""
    scale = torch.tensor([1e-3, 1e3], dtype=DTYPE)
    C = torch.tensor([[1, 0.5], [0.5, 1]], dtype=DTYPE) * torch.outer(scale, scale)
    A = torch.tensor([[1e3, 0.0]], dtype=DTYPE)
    prior = iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=DTYPE), covariance=C, noise_scale=scale)
    mean, P = conditioned(C, A, 0.3, torch.ones(1, dtype=DTYPE))
    for strategy in (iv.strategies.MMPS(), iv.strategies.MMPS(covariance="jacobian")):
        got, got_P = propagate(iv.operators.Matrix(matrix=A), torch.ones(1, dtype=DTYPE), prior, 0.3, strategy)
        sd = P.diagonal().sqrt()
        assert ((got - mean).abs() / sd).max() < 0.01
        assert (got_P.diagonal().sqrt() / sd - 1).abs().max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("make", [iv.strategies.PiGDM, iv.strategies.TMPD, iv.strategies.MMPS])
def test_coloured_diffusion_noise_is_carried_by_every_guidance(make):
    """Independent entries in units of a thousand to one, told by noise_scale: then all three are exact."""
    scale = torch.tensor([1.0, 1e-3], dtype=DTYPE)
    C, A = torch.diag(scale**2), torch.diag(torch.tensor([1.0, 1000.0], dtype=DTYPE))
    prior = iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=DTYPE), covariance=C, noise_scale=scale)
    y = torch.tensor([1.0, -1.0], dtype=DTYPE)
    mean, P = conditioned(C, A, 0.5, y)
    got, got_P = propagate(iv.operators.Matrix(matrix=A), y, prior, 0.5, make())
    sd = P.diagonal().sqrt()
    assert ((got - mean).abs() / sd).max() < 0.01
    assert (got_P.diagonal().sqrt() / sd - 1).abs().max() < 0.01


def test_a_small_component_beside_a_large_one_keeps_its_spread():
    prior = gaussian(torch.diag(torch.tensor([1.0, 1e-7], dtype=DTYPE)))
    A = iv.operators.Mask(mask=torch.tensor([True, False]))
    _, P = propagate(A, torch.ones(2, dtype=DTYPE) * A.mask, prior, 0.5, iv.strategies.MMPS())
    assert abs(float(P[1, 1]) / 1e-7 - 1) < 0.1  # steps are twice as long here: 50 over seventeen factors of e


def test_unconditional_sampling_reproduces_the_prior():
    C = matern(8, 3.0)
    x = iv.sample(gaussian(C), num_samples=4000, seed=0).samples
    assert (x.mean(0).abs() < 5 * math.sqrt(1 / 4000)).all()
    assert (x.var(0) - 1).abs().max() < 5 * math.sqrt(2 / 4000) + 0.005


# --- refusals -------------------------------------------------------------------------------------------------------
def test_what_would_do_is_named():
    box = iv.operators.from_callable(lambda x: x, (2,), (2,), kind="black box")
    prior, y = gaussian(torch.tensor([[1.0, 0.1], [0.1, 1.0]])), torch.zeros(2)
    with pytest.raises(iv.errors.UnsupportedError, match=r"MMPS needs .* black box.*here: NoiseMCMC\(\)"):
        iv.solve(box, y, prior, noise=0.1, strategy=iv.strategies.MMPS())
    bend = iv.operators.from_callable(lambda x: x**3, (2,), (2,))
    with pytest.raises(
        iv.errors.UnsupportedError,
        match=r"Exact needs .* not a LinearOperator.*would do here: MMPS\(\), TMPD\(\), PiGDM\(\)",
    ):
        iv.solve(bend, y, prior, noise=0.1, strategy=iv.strategies.Exact())
    matrix = iv.noise.Gaussian(covariance=torch.eye(2))
    with pytest.raises(iv.errors.UnsupportedError, match="a noise std"):
        iv.solve(iv.operators.Matrix(matrix=torch.eye(2)), y, prior, noise=matrix, strategy=iv.strategies.TMPD())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iv.strategies.MMPS(num_steps=1), "`num_steps` must be at least 2, got 1"),
        (lambda: iv.strategies.MMPS(rtol=0.0), "`rtol` must be positive"),
        (lambda: iv.strategies.MMPS(max_iter=0), "`max_iter` must be at least 1"),
        (lambda: iv.strategies.MMPS(covariance="diagonal"), "`covariance` must be one of 'auto', 'law', 'jacobian'"),
        (lambda: iv.strategies.PiGDM(prior_std=-1.0), "`prior_std` must be positive"),
        (lambda: iv.strategies.PseudoinverseGuidance(rtol=-1.0), "`rtol` must be positive"),
        (lambda: iv.strategies.PseudoinverseGuidance(max_iter=0), "`max_iter` must be at least 1"),
        (
            lambda: iv.strategies.Guided(guidance="MMPS", sampler=iv.samplers.Euler()),
            "`guidance` must be an iv.strategies.Guidance",
        ),
        (
            lambda: iv.strategies.Guided(guidance=iv.strategies.NoGuidance(), sampler="Heun"),
            "`sampler` must be an iv.samplers.Sampler",
        ),
        (
            lambda: iv.strategies.MMPS(grid=torch.rand(2, 3).sort(dim=1, descending=True).values),
            "`grid` must be one grid for all rows",
        ),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        make()


def test_a_prior_that_cannot_reach_the_levels_is_refused():
    narrow = iv.priors.from_denoiser(
        lambda x, sigma: x / (1 + sigma**2), shape=(2,), mean=torch.zeros(2), scale=1.0, sigma_range=(20.0, 30.0)
    )
    with pytest.raises(iv.errors.InputError, match="`prior.sigma_range` must be reaching below"):
        iv.solve(
            iv.operators.Matrix(matrix=torch.eye(2)),
            torch.zeros(2),
            narrow,
            noise=1e3,
            strategy=iv.strategies.MMPS(covariance="jacobian"),
        )
