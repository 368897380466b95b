"""The parts of SMC: kernels and conditioning against dense matrices, moves and temperatures against quadrature, blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.core.arrays import to_real
from invsolve.core.random import Draws
from invsolve.core.resampling import in_place, systematic
from invsolve.strategies import SMC
from invsolve.strategies.base import Run
from invsolve.strategies.smc.coordinates import Coordinates, linear_jacobian
from invsolve.strategies.smc.kernels import UpdatedKernel
from invsolve.strategies.smc.proposals import Level
from invsolve.strategies.smc.smc import SMCState
from invsolve.strategies.smc.twisted import DenseLocal, DiagonalLocal

D = torch.float64


def matern(n: int, length: float = 3.0) -> Tensor:
    r = (torch.arange(n, dtype=D)[:, None] - torch.arange(n)).abs() * math.sqrt(3) / length
    return (1 + r) * torch.exp(-r)


def two_modes() -> iv.priors.GaussianMixturePrior:
    return iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.3, 0.7], dtype=D),
        means=torch.tensor([[-1.5], [1.0]], dtype=D),
        covariances=torch.tensor([[[0.1]], [[0.4]]], dtype=D),
    )


def interpolate(x: Tensor, at: Tensor, values: Tensor) -> Tensor:
    return torch.from_numpy(np.interp(x.numpy(), at.numpy(), values.numpy()))


def spike_slab(shape: tuple[int, ...], transform: str = "dct", spike: float = 0.1) -> iv.priors.SparsePrior:
    law = iv.priors.SpikeSlab(weight=0.4, slab=1.0, spike=spike)
    return iv.priors.SparsePrior(shape=shape, coefficients=law, transform=transform, dtype=D)  # type: ignore[arg-type]


def level_of(
    problem: iv.Problem, prior: iv.priors.Prior, strategy: SMC, samples: int, i: int, *, last: bool = False
) -> Level:
    batch = len(problem.data)
    index = torch.arange(batch * samples) % batch
    rows = torch.arange(batch * samples)
    draws = Draws.for_rows(0, (rows % batch).tolist(), (rows // batch).tolist(), torch.device("cpu"))
    bound = strategy.bind(problem, prior).take(index)
    run = Run(problem=problem.take(index), prior=prior, draws=draws, bound=bound)
    return Level.of(run, bound.setting, prior, i, last=last)  # type: ignore[arg-type]


# --- kernels ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [1, 3])
def test_the_updated_kernel_is_the_dense_gaussian(rows: int) -> None:
    rng = torch.Generator().manual_seed(rows)
    n, m = 6, 4
    V, noise = torch.rand(rows, n, generator=rng, dtype=D) + 0.1, 0.3
    H, r = torch.randn(1, m, n, generator=rng, dtype=D), 0.6
    eye = torch.eye(m, dtype=D)
    total = (1 - r) ** 2 * V + noise
    R = torch.linalg.cholesky(eye + (H * V[:, None]) @ H.mT)
    S = torch.linalg.cholesky(eye + (H * (V * noise / total)[:, None]) @ H.mT)
    centre = torch.randn(3, n, generator=rng, dtype=D)
    kernel = UpdatedKernel(centre=centre, std=total.sqrt(), gain=(1 - r) * V / total.sqrt(), H=H, R=R, S=S)
    cross = H * V[:, None]
    given = torch.diag_embed(V) - cross.mT @ torch.linalg.inv(eye + cross @ H.mT) @ cross
    dense = torch.distributions.MultivariateNormal(centre, (1 - r) ** 2 * given + noise * torch.eye(n, dtype=D))
    u, z = torch.randn(3, n, generator=rng, dtype=D), torch.randn(3, n, generator=rng, dtype=D)
    constant = 0.5 * n * math.log(2 * math.pi)
    torch.testing.assert_close(kernel.log_prob(u) - constant, dense.log_prob(u))
    torch.testing.assert_close(kernel.log_prob_of(z), kernel.log_prob(kernel.draw(z)))
    root = torch.stack([kernel.draw(e.expand(3, n)) - centre for e in torch.eye(n, dtype=D)], -1)
    torch.testing.assert_close(root @ root.mT, dense.covariance_matrix)


def test_diagonal_and_dense_conditioning_agree() -> None:
    prior = spike_slab((6,), "identity")
    A = iv.operators.Matrix(matrix=torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=D))
    problem = iv.Problem(A, A(prior.sample(5, seed=1)), noise=0.3)
    x, level, b = prior.sample(5, seed=2), torch.tensor(0.7, dtype=D), torch.tensor(0.4, dtype=D)
    in_modes = Coordinates.from_problem(problem, prior)
    in_entries = Coordinates(prior=prior, dtype=D, modes=None)
    u = in_entries.analysis(x)
    one = DiagonalLocal.of(problem, in_modes, linear_jacobian(problem, in_modes), x, u, level)
    two = DenseLocal.of(problem, in_entries, linear_jacobian(problem, in_entries), x, u, level)
    torch.testing.assert_close(one.log_twist, two.log_twist)
    torch.testing.assert_close(one.guided_mean, two.guided_mean)
    for step in ("guided", "unguided"):
        here, there = getattr(one, step)(u, b), getattr(two, step)(u, b)
        torch.testing.assert_close(here.log_prob(u + 0.1), there.log_prob(u + 0.1))


@pytest.mark.parametrize("shape", [(8,), (2, 4)])
def test_mode_moments_are_the_moments_in_the_transform(shape: tuple[int, ...]) -> None:
    prior = spike_slab(shape)
    x, level = prior.sample(3, seed=0) + 0.3, torch.tensor([0.1, 0.5, 2.0], dtype=D)
    value, variances = prior.mode_moments(x, level)
    mean, V = prior.moments(x, level)
    modes = prior.law.modes
    T = modes.synthesis(torch.eye(8, dtype=D).view(8, *shape)).flatten(1)  # rows T^T e_k
    torch.testing.assert_close(value, mean)
    torch.testing.assert_close(torch.diag_embed(variances.flatten(1)), T @ V @ T.mT)


@pytest.mark.parametrize(("m", "n", "items"), [(2, 9, 1), (7, 9, 1), (7, 9, 3), (12, 9, 1)])
def test_the_jacobian_is_the_matrix(m: int, n: int, items: int) -> None:
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=matern(n))
    matrix = torch.randn(m, n, generator=torch.Generator().manual_seed(0), dtype=D)
    std = torch.linspace(0.5, 1.0, items, dtype=D)[:, None] if items > 1 else 0.5
    problem = iv.Problem(
        iv.operators.Matrix(matrix=matrix), torch.zeros(items, m, dtype=D), noise=iv.noise.Gaussian(std=std)
    )
    coordinates = Coordinates.from_problem(problem, prior)
    basis = coordinates.direction(torch.eye(n, dtype=D))
    got = linear_jacobian(problem, coordinates, rows=4)
    expected = (matrix @ basis.mT) / torch.as_tensor(std, dtype=D).view(-1, 1, 1)
    full = got.matrix if got.rotation is None else got.rotation.mT @ got.matrix
    torch.testing.assert_close(full, expected.expand(items, m, n))


# --- larger problems -------------------------------------------------------------------------------------------------
def test_evidence_in_256_dimensions() -> None:
    n, items = 256, 100
    prior = iv.priors.GaussianPrior(
        mean=torch.ones(n, dtype=D), covariance=matern(n, 8.0) + 1e-4 * torch.eye(n, dtype=D)
    )
    A = iv.operators.Subsample(index=torch.arange(0, n, 2), in_shape=(n,))
    y = A(prior.sample(items, seed=1))
    y = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=D)
    result, truth = (
        iv.solve(A, y, prior, noise=0.1, strategy=SMC(num_steps=6), num_samples=4),
        prior.posterior(A, y, 0.1),
    )
    error = (result.info["log_evidence"][0] - truth.log_evidence).abs()
    se = result.info["log_evidence_se"][0]
    assert float(se.max()) < 1e-6  # weights are equal: rounding is what is left
    assert int((error < 2 * se).sum()) >= 90
    assert float(result.ess.min()) > 4 * (1 - 1e-9)
    # Whitened by the closed form, draws are white: 400 x 256 numbers, mean square 1 to sqrt(2 / 102400).
    root = torch.linalg.cholesky(truth.covariance)
    z = torch.linalg.solve_triangular(root, (result.samples - truth.mean).reshape(-1, n).mT, upper=False)
    assert abs(float(z.square().mean()) - 1) < 5 * math.sqrt(2 / z.numel())
    assert float(z.mean(1).abs().max()) < 5 / math.sqrt(z.shape[1])


def test_a_field_with_more_unknowns_than_a_matrix_of_them_would_hold() -> None:
    prior = iv.priors.GaussianFieldPrior(shape=(64, 64), spectrum=iv.priors.Matern(std=1.0, length=0.2), dtype=D)
    index = torch.arange(3, 4096, 50)
    operator = iv.operators.from_callable(
        lambda x: x.flatten(1)[:, index],
        in_shape=(64, 64),
        out_shape=(82,),
        kind="linear",
    )
    y = operator(prior.sample(1, seed=0))
    result = iv.solve(operator, y, prior, noise=0.1, strategy=SMC(num_steps=3), num_samples=64)
    exact = iv.solve(operator, y, prior, noise=0.1, strategy="auto", num_samples=64)
    assert float(result.info["log_evidence_se"].max()) < 1e-6
    # Two sets of 64 exact draws: means differ by sqrt(2 / 64) sd, the largest of 4096 in six of them.
    assert float(((result.mean - exact.mean) / exact.std).abs().max()) < 6 * math.sqrt(2 / 64)


# --- moves -----------------------------------------------------------------------------------------------------------
def test_moves_leave_the_target_invariant() -> None:
    # 1-D, two modes: exact draws of density * twist^exponent by inverting its distribution function stay such draws.
    prior, count = two_modes(), 20000
    A = iv.operators.Matrix(matrix=torch.tensor([[1.0]], dtype=D))
    problem = iv.Problem(A, torch.tensor([[0.2]], dtype=D), noise=0.8)
    strategy = SMC(grid=torch.tensor([8.0, 0.6, 0.2]))
    level = level_of(problem, prior, strategy, count, 1)
    t = float(level.a)
    fine = torch.linspace(-6, 6, 6001, dtype=D)[:, None]
    value, V = prior.moments(fine, t)
    spread = V[:, 0, 0] + 0.8**2
    log_twist = -0.5 * ((0.2 - value[:, 0]) ** 2 / spread + spread.log())
    for exponent in (1.0, 0.3):
        density = (prior.log_prob(fine, t) + exponent * log_twist).exp()
        cdf = torch.cumulative_trapezoid(density, fine[:, 0])
        cdf = torch.cat([cdf.new_zeros(1), cdf]) / cdf[-1]
        uniform = (torch.arange(count, dtype=D) + 0.5) / count
        x = interpolate(uniform, cdf, fine[:, 0])[:, None]
        rows = torch.arange(count)
        ready = level.ready(x, rows)
        assert float((ready.twist - interpolate(x[:, 0], fine[:, 0], log_twist)).std()) < 1e-4  # but for a constant
        lam, reach = torch.full((count,), exponent, dtype=D), torch.full((count,), 2)
        for number in range(4):
            ready, accepted = level.moved(ready, rows, reach, lam, number)
            assert 0.1 < float(accepted.double().mean()) < 0.98
        after = interpolate(ready.x[:, 0], fine[:, 0], cdf)
        # Kolmogorov-Smirnov against the uniform law: 1.95 / sqrt(J) has probability 1e-3 for independent draws.
        gap = (after.sort().values - uniform).abs().max()
        assert float(gap) < 1.95 / math.sqrt(count)


def test_moves_are_always_accepted_where_the_guided_step_is_exact() -> None:
    prior = iv.priors.GaussianPrior(mean=torch.ones(7, dtype=D), covariance=matern(7))
    A = iv.operators.Subsample(index=torch.arange(0, 7, 2), in_shape=(7,))
    problem = iv.Problem(A, A(prior.sample(2, seed=3)), noise=0.1)
    level = level_of(problem, prior, SMC(), 50, 12)
    rows = torch.arange(100)
    ready = level.ready(prior.sample(100, seed=1), rows)
    exact = level._proposed(ready.x, rows, 2.0, torch.randn(100, 7, dtype=D), torch.randn(100, 7, dtype=D))
    ratio = exact[0].target(torch.ones(100, dtype=D)) - ready.target(torch.ones(100, dtype=D)) + exact[1]
    assert float(ratio.abs().max()) < 1e-8
    moved, accepted = level.moved(ready, rows, torch.zeros(100, dtype=torch.int64), torch.ones(100, dtype=D), 0)
    assert bool(accepted.all()) and bool((moved.x != ready.x).all())


def test_moves_keep_the_posterior_right() -> None:
    prior, weight = spike_slab((3,), "identity"), 0.4
    on = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=D)] * 3)
    exact = iv.priors.GaussianMixturePrior(
        weights=(weight**on * (1 - weight) ** (1 - on)).prod(1),
        means=torch.zeros(8, 3, dtype=D),
        covariances=torch.diag_embed(on + (1 - on) * 0.01),
    )
    A, y = iv.operators.Matrix(matrix=torch.tensor([[1.0, 0.5, -1.0]], dtype=D)), torch.tensor([0.8], dtype=D)
    truth = exact.posterior(A, y, 0.2)
    for strategy in (SMC(moves=4, resample_below=0.95), SMC(moves=0), SMC(moves=1, tempering=0.8, resample_below=0.9)):
        result = iv.solve(A, y, prior, noise=0.2, strategy=strategy, num_samples=8192)
        value, se = result.info["log_evidence"][0], result.info["log_evidence_se"][0]
        assert float((value - truth.log_evidence[0]).abs()) < 5 * float(se) < 0.3
        assert float(((result.mean - truth.mean[0]) / truth.std[0]).abs().max()) < 0.1
        assert float((result.std / truth.std[0] - 1).abs().max()) < 0.07
        rate = float(result.info["acceptance"][0])
        assert math.isnan(rate) if strategy.moves == 0 else 0.2 < rate < 1


class Dead:
    """Draws of which those of some rows, step and index are NaN."""

    def __init__(self, inner: Draws, step: int, index: int, rows: Tensor) -> None:
        self.inner, self.step, self.index, self.rows = inner, step, index, rows

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype, *, step: int, index: int = 0) -> Tensor:
        z = self.inner.normal(shape, dtype, step=step, index=index)
        if (step, index) == (self.step, self.index):
            z[self.rows] = torch.nan
        return z

    def take(self, rows: Tensor) -> Dead:  # not called by SMC
        raise AssertionError


@pytest.mark.parametrize("index", [1, 2, 3])  # noise up, step down, acceptance
def test_a_move_to_nan_is_never_accepted(index: int) -> None:
    prior, rows = two_modes(), torch.arange(0, 1000, 2)
    A, y = iv.operators.Matrix(matrix=torch.tensor([[1.0]], dtype=D)), torch.tensor([0.2], dtype=D)

    def draws(items: list[int], samples: list[int]) -> Dead:
        return Dead(Draws.for_rows(0, items, samples, torch.device("cpu")), 14, index, rows)

    result = iv.solve(A, y, prior, noise=0.8, strategy=SMC(resample_below=1.0), num_samples=1000, draws=draws)
    assert bool(torch.isfinite(result.samples).all()) and float(result.weights.min()) > 0
    truth = prior.posterior(A, y, 0.8)
    assert float(((result.mean - truth.mean[0]) / truth.std[0]).abs()) < 5 / math.sqrt(300)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_what_is_nan_stays_where_it_was(index: int) -> None:
    prior, dead = two_modes(), torch.arange(0, 200, 2)
    A = iv.operators.Matrix(matrix=torch.tensor([[1.0]], dtype=D))
    level = level_of(iv.Problem(A, torch.tensor([[0.2]], dtype=D), noise=0.8), prior, SMC(), 200, 12)
    assert isinstance(level.run.draws, Draws)
    draws = Dead(level.run.draws, 13, index, dead)
    level = replace(level, run=replace(level.run, draws=draws))  # type: ignore[arg-type]
    rows, one = torch.arange(200), torch.ones(200, dtype=D)
    before = level.ready(prior.sample(200, seed=0), rows)
    after, accepted = level.moved(before, rows, torch.zeros_like(rows), one, 0)
    assert not bool(accepted[dead].any()) and bool(accepted[1::2].any())
    assert torch.equal(after.x[dead], before.x[dead]) and bool(torch.isfinite(after.target(one)).all())


@pytest.mark.parametrize("moves", [0, 1])
def test_copies_take_steps_of_their_own(moves: int) -> None:
    prior, strategy = spike_slab((3,), "identity"), SMC(moves=moves)
    A = iv.operators.Matrix(matrix=torch.tensor([[1.0, 0.5, -1.0]], dtype=D))
    run = level_of(iv.Problem(A, torch.tensor([[0.8]], dtype=D), noise=0.2), prior, strategy, 500, 12).run
    uneven = 4 * torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=D)
    state, _ = strategy.step(run, replace(strategy.init(run), log_weights=uneven), 0)
    assert len(state.founder.unique()) < 200 and int(state.resamplings[0]) == 1
    assert len(state.x.unique(dim=0)) == 500


# --- temperatures ----------------------------------------------------------------------------------------------------
def test_the_exponent_is_the_largest_that_leaves_enough_particles() -> None:
    rng = torch.Generator().manual_seed(0)
    twist = torch.stack(
        [8 * torch.randn(500, generator=rng, dtype=D), 0.1 * torch.randn(500, generator=rng, dtype=D)], 1
    )
    zero, none = torch.zeros(1000, dtype=D), torch.zeros(1000, dtype=torch.int64)
    state = SMCState(
        x=zero,
        log_weights=zero,
        log_evidence=zero,
        founder=none,
        resamplings=none,
        exponent=zero,
        reach=none,
        tried=none,
        accepted=zero,
        undefined=none,
        level=none,
    )
    strategy = SMC(tempering=0.5)
    exponent = strategy._exponent(state, twist.flatten(), 2, 0, False).view(500, 2)
    assert bool((exponent == exponent[0]).all()) and float(exponent[0, 1]) == 1
    found = float(exponent[0, 0])

    def left(power: float) -> float:
        w = torch.softmax(power * twist[:, 0], 0)
        return 1 / float(w.square().sum())

    assert 0 < found < 1 and left(found) >= 250 > left(found + 1 / 64)
    assert bool((strategy._exponent(state, twist.flatten(), 2, 0, True) == 1).all())


def test_few_levels_take_more_temperatures_at_the_end() -> None:
    # 1-D, y = x^2 + n: by quadrature. Three levels, so that the twist of the last one is far from those before.
    A = iv.operators.from_callable(lambda x: x**2, in_shape=(1,), out_shape=(1,))
    prior, y = iv.priors.GaussianPrior(mean=torch.full((1,), 0.3, dtype=D), covariance=torch.eye(1, dtype=D)), 1.5
    x = torch.linspace(-6, 6, 20001, dtype=D)
    density = torch.exp(-0.5 * (x - 0.3) ** 2 - 0.5 * ((y - x**2) / 0.2) ** 2) / (2 * math.pi * 0.2)
    total = torch.trapezoid(density, x)
    mean = torch.trapezoid(x * density, x) / total
    sd = (torch.trapezoid(x**2 * density, x) / total - mean**2).sqrt()
    seen: list[float] = []
    original = SMC._exponent

    def spy(self: SMC, *args: object) -> Tensor:
        out = original(self, *args)  # type: ignore[arg-type]
        seen.append(float(out[0]))
        return out

    strategy = SMC(grid=torch.tensor([10.0, 1.0, 0.02]), tempering=0.9, moves=4, resample_below=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SMC, "_exponent", spy)
        result = iv.solve(A, torch.full((1,), y, dtype=D), prior, noise=0.2, strategy=strategy, num_samples=8192)
    assert len(seen) > 3 and seen[-1] == 1 and seen[2:] == sorted(seen[2:])
    assert int(result.info["resamplings"][0]) == len(seen) - 3  # before every further temperature
    value, se = result.info["log_evidence"][0], result.info["log_evidence_se"][0]
    assert float((value - total.log()).abs()) < 5 * float(se) < 0.3
    assert float((result.mean - mean).abs() / sd) < 0.1 and float((result.std / sd - 1).abs()) < 0.05


# --- other guidances ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "guidance",
    [
        iv.strategies.MomentMatching(),
        iv.strategies.PseudoinverseGuidance(),
        iv.strategies.TweedieMoment(),
        iv.strategies.NoGuidance(),
    ],
)
def test_any_guidance_gives_the_right_posterior(guidance: iv.strategies.Guidance) -> None:
    prior = two_modes()
    A, y = iv.operators.Matrix(matrix=torch.tensor([[1.0]], dtype=D)), torch.tensor([[0.2], [-0.4]], dtype=D)
    noise = iv.noise.Gaussian(std=torch.tensor([[0.8], [0.4]], dtype=D))  # a level for every row
    result = iv.solve(A, y, prior, noise=noise, strategy=SMC(guidance=guidance), num_samples=4096)
    truth = prior.posterior(A, y, noise)
    value, se = result.info["log_evidence"][0], result.info["log_evidence_se"][0]
    assert bool(((value - truth.log_evidence).abs() < 5 * se).all()) and float(se.max()) < 0.2
    assert float(((result.mean - truth.mean) / truth.std).abs().max()) < 0.12
    assert float((result.std / truth.std - 1).abs().max()) < 0.08


def test_a_guidance_says_what_it_lacks() -> None:
    class Coded(iv.priors.Prior):
        shape, mean, scale = (2,), torch.zeros(2, dtype=D), 1.0

        def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
            return x / (1 + sigma**2)

    A = iv.operators.Matrix(matrix=torch.eye(2, dtype=D))
    problem = iv.Problem(A, torch.zeros(1, 2, dtype=D), noise=0.3)
    law = iv.strategies.MomentMatching(covariance="law")
    assert "covariance" in SMC(guidance=law).missing(problem, Coded())
    assert SMC().missing(problem, Coded()) == ""


# --- blocks ------------------------------------------------------------------------------------------------------------
class Counted(iv.operators.LinearOperator):
    """Entries 0 and 2 of four; remembers how many rows every call had."""

    in_shape, out_shape = (4,), (2,)

    def __init__(self) -> None:
        self.rows: list[int] = []

    def _apply(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return x[:, ::2]

    def _adjoint(self, y: Tensor) -> Tensor:
        x = y.new_zeros(len(y), 4)
        x[:, ::2] = y
        return x


@dataclass(frozen=True, kw_only=True)
class InBlocks(iv.strategies.Strategy):
    """SMC whose rows run in blocks of so many bytes."""

    smc: SMC
    block_bytes: int
    num_steps: int = 6
    couples = "samples"

    def bind(self, problem, prior):  # type: ignore[no-untyped-def]
        bound = self.smc.bind(problem, prior)
        return replace(bound, setting=replace(bound.setting, block_bytes=self.block_bytes))

    def init(self, run):  # type: ignore[no-untyped-def]
        return self.smc.init(run)

    def step(self, run, state, i):  # type: ignore[no-untyped-def]
        return self.smc.step(run, state, i)

    def log_weights(self, run, state):  # type: ignore[no-untyped-def]
        return self.smc.log_weights(run, state)


@pytest.mark.parametrize("form", ["dense", "diagonal", "bare"])
def test_blocks_change_nothing_but_memory(form: str) -> None:
    prior: iv.priors.Prior = (
        spike_slab((4,))
        if form == "diagonal"
        else iv.priors.GaussianMixturePrior(
            weights=torch.tensor([0.3, 0.7], dtype=D),
            means=torch.randn(2, 4, dtype=D, generator=torch.Generator().manual_seed(0)),
            covariances=0.2 * torch.eye(4, dtype=D),
        )
    )
    y = torch.tensor([[0.5, -1.0], [1.0, 0.3]], dtype=D)
    noise = iv.noise.Gaussian(std=torch.tensor([[0.3], [0.2]], dtype=D))
    smc = SMC(num_steps=6, moves=2, resample_below=0.9, dense_size=3 if form == "bare" else 128)
    operators, results = (Counted(), Counted()), []
    for A, strategy in zip(operators, (smc, InBlocks(smc=smc, block_bytes=2**14)), strict=True):
        results.append(iv.solve(A, y, prior, noise=noise, strategy=strategy, num_samples=60))
    whole, parts = results
    many, few = (A.rows for A in operators)
    # The first particles and chi^2 look at all rows at once; the steps at blocks of them.
    assert many.count(120) > 6 and few.count(120) <= 2 and 1 < max(n for n in few if n < 120) < 30
    torch.testing.assert_close(whole.samples, parts.samples, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(whole.weights, parts.weights, rtol=1e-6, atol=1e-12)


def test_copies_stand_in_free_places() -> None:
    rng = torch.Generator().manual_seed(0)
    weights = torch.softmax(2 * torch.randn(50, 4, generator=rng, dtype=D), 0)
    parents = systematic(weights, torch.rand(4, generator=rng, dtype=D))
    placed = in_place(parents)
    for item in range(4):
        kept = parents[:, item].unique()
        assert torch.equal(placed[:, item].sort().values, parents[:, item].sort().values)
        assert torch.equal(placed[kept, item], kept)


def test_complex_modes_come_in_pairs() -> None:
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3, dtype=torch.complex128), covariance=matern(3))
    A = iv.operators.Mask(mask=torch.ones(3, dtype=torch.bool), kind="complex")
    problem = iv.Problem(A, prior.sample(1, seed=0), noise=0.3)
    coordinates = Coordinates.from_problem(problem, prior)
    x, level = prior.sample(4, seed=1), torch.tensor(0.5, dtype=D)
    u = coordinates.analysis(x)
    torch.testing.assert_close(coordinates.log_density(u, level), prior.log_prob(x, 0.5))
    value, mean, V = coordinates.moments(x, u, level)
    torch.testing.assert_close(value, prior.denoise(x, 0.5))
    torch.testing.assert_close(to_real(coordinates.synthesis(mean)), to_real(value))
    assert tuple(V.shape) == (1, 6)
