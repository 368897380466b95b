"""Markov chains in noise space: closed forms, quadrature, validity of the moves, bookkeeping."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.operators import BlackBox
from invsolve.strategies import NoiseMCMC
from invsolve.strategies.mcmc.convergence import chain_statistics
from invsolve.strategies.mcmc.kernels import Chains, Metric, Target, autoregressive, hamiltonian
from invsolve.strategies.mcmc.noise_map import noise_map
from invsolve.strategies.mcmc.recording import plan
from invsolve.strategies.mcmc.tempering import rise_of

D = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def gaussian(d=6, seed=3):
    root = normal(d, d, seed=seed) / math.sqrt(d)
    return iv.priors.GaussianPrior(
        mean=normal(d, seed=seed + 1), covariance=root @ root.T + 0.1 * torch.eye(d, dtype=D)
    )


class Box(BlackBox):
    """A linear map that nobody may differentiate."""

    def __init__(self, matrix):
        self.matrix, self.in_shape, self.out_shape = matrix, (matrix.shape[1],), (matrix.shape[0],)

    def _apply(self, x):
        return x @ self.matrix.mT

    def fingerprint(self):
        return "box"


def errors(result, posterior):
    """Worst error of the means and of the stds, in posterior stds, over items and components."""
    sd = posterior.std
    return float(((result.mean - posterior.mean) / sd).abs().max()), float((result.std / sd - 1).abs().max())


@pytest.mark.parametrize("kernel", ["hmc", "mala", "pcn"])
def test_gaussian_closed_form(kernel):
    """4,096 samples of effective size above 1,500: 5 standard errors are 0.13 for means and 0.09 for stds."""
    prior, matrix = gaussian(), normal(4, 6, seed=9)
    A = iv.operators.Matrix(matrix=matrix)
    y = A(prior.sample(3, seed=2)) + 0.2 * normal(3, 4, seed=5)
    posterior = prior.posterior(A, y, noise=0.2)
    operator = Box(matrix) if kernel == "pcn" else A
    strategy = NoiseMCMC(kernel="auto" if kernel == "pcn" else kernel)
    result = iv.solve(operator, y, prior, noise=0.2, strategy=strategy, num_samples=4096, seed=1)
    mean, std = errors(result, posterior)
    assert mean < 0.13 and std < 0.09
    assert (result.info["ess"] > 1500).all() and (result.info["beta"] == 1).all()
    gap = (result.log_evidence - posterior.log_evidence).abs()
    # Weights and resampling of a rise each add 1 / chains to the relative variance of the evidence.
    known = (2 * result.info["rises"][0] / 1024).sqrt()
    assert (gap < 4 * torch.maximum(known, result.log_evidence_se)).all() and (result.log_evidence_se < 0.3).all()
    # The stated errors are of the size of those found: of 18 means the worst is some 2 to 4 standard errors off.
    assert 0.2 * mean < float(result.info["mean_error"].max()) < 0.1
    assert ("adjoint" in result.operator_calls) == (kernel != "pcn")


def test_two_modes_by_quadrature():
    """y = x^2 with a prior off zero: weights of the modes 0.73 and 0.27, found whatever the start."""
    prior = iv.priors.GaussianPrior(mean=torch.tensor([0.2], dtype=D), covariance=torch.eye(1, dtype=D))
    square = iv.operators.from_callable(lambda x: x**2, (1,), (1,))
    grid = torch.linspace(-5, 5, 20001, dtype=D)
    log_p = -0.5 * (grid - 0.2) ** 2 - 0.5 * ((2.0 - grid**2) / 0.1) ** 2
    p = log_p.exp() / log_p.exp().sum()
    result = iv.solve(square, torch.tensor([2.0], dtype=D), prior, noise=0.1, strategy=NoiseMCMC(), num_samples=4096)
    truth = float(p[grid > 0].sum())
    se = math.sqrt(truth * (1 - truth) / 1024)  # chains do not change their mode once it is deep
    assert abs(float((result.samples > 0).double().mean()) - truth) < 5 * se
    log_z = float(torch.logsumexp(log_p, 0) + math.log(10 / 20000)) - math.log(2 * math.pi * 0.1)
    assert abs(float(result.log_evidence) - log_z) < 5 * float(result.log_evidence_se) + 0.02


def test_laplace_by_quadrature():
    prior = iv.priors.SparsePrior(shape=(1,), coefficients=iv.priors.Laplace(scale=0.7), dtype=D)
    A = iv.operators.Matrix(matrix=torch.tensor([[2.0]], dtype=D))
    grid = torch.linspace(-10, 10, 40001, dtype=D)
    log_p = -grid.abs() / 0.7 - 0.5 * ((0.8 - 2 * grid) / 0.5) ** 2
    p = log_p.exp() / log_p.exp().sum()
    mean = float((p * grid).sum())
    std = float((p * (grid - mean) ** 2).sum().sqrt())
    result = iv.solve(A, torch.tensor([0.8], dtype=D), prior, noise=0.5, strategy=NoiseMCMC(), num_samples=4096)
    assert abs(float(result.mean) - mean) < 5 * std / math.sqrt(2000)
    assert abs(float(result.std) / std - 1) < 5 / math.sqrt(2000)


def mixture():
    means = torch.tensor([[-2.0, 0.0], [1.5, 1.0]], dtype=D)
    return iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.4, 0.6], dtype=D), means=means, covariances=0.2 * torch.eye(2, dtype=D).repeat(2, 1, 1)
    )


def test_a_prior_known_by_its_denoiser_only():
    """Through the probability flow in 25 evaluations; the mixture's closed form is the reference."""
    exact = mixture()
    hidden = iv.priors.from_denoiser(exact._denoise, shape=(2,), mean=exact.mean, scale=exact.scale)
    A = iv.operators.Matrix(matrix=torch.tensor([[1.0, -1.0]], dtype=D))
    y = torch.tensor([-0.4], dtype=D)
    posterior = exact.posterior(A, y[None], noise=0.8)
    strategy = NoiseMCMC(chains=256)
    result = iv.solve(A, y, hidden, noise=0.8, strategy=strategy, num_samples=1024, seed=2)
    high = float((result.samples[:, 0] > -0.25).double().mean())
    assert abs(high - float(posterior.weights[0, 1])) < 5 * math.sqrt(0.25 / 256)
    assert result.nfe > 25 and result.vjps > 25


def test_the_flow_is_differentiated_right():
    exact = mixture()
    flow = noise_map(exact, 12)
    z, v = normal(3, 2), normal(3, 2, seed=1)
    x, pull = flow.pullback(z)
    assert torch.equal(x, flow(z))
    h = 1e-5
    for k in range(2):
        unit = h * torch.eye(2, dtype=D)[k]
        slope = ((flow(z + unit) - flow(z - unit)) / (2 * h) * v).sum(1)
        assert torch.allclose(slope, pull(v)[:, k], rtol=1e-6, atol=1e-8)


def test_complex_signals():
    d = 4
    prior = iv.priors.GaussianPrior(mean=torch.zeros(d, dtype=torch.complex128), covariance=0.5 * torch.eye(d, dtype=D))
    matrix = torch.complex(normal(3, d), normal(3, d, seed=1))
    A = iv.operators.Matrix(matrix=matrix)
    y = A(prior.sample(1, seed=4)) + 0.3 * torch.complex(normal(1, 3, seed=5), normal(1, 3, seed=6))
    posterior = prior.posterior(A, y, noise=0.3)
    result = iv.solve(A, y, prior, noise=0.3, strategy=NoiseMCMC(), num_samples=4096)
    mean, std = errors(result, posterior)
    assert mean < 0.13 and std < 0.09
    assert abs(float(result.log_evidence - posterior.log_evidence)) < 0.5  # four times sqrt(2 rises / chains)


@pytest.mark.parametrize("sigma", [1e-4, 1e4])
def test_noise_aware(sigma):
    """Nearly no noise: the data hold to a few sigma. Nothing but noise: the prior."""
    prior = gaussian(3)
    A = iv.operators.Matrix(matrix=torch.eye(3, dtype=D)[:2])
    y = torch.tensor([0.3, -0.2], dtype=D)
    result = iv.solve(A, y, prior, noise=sigma, strategy=NoiseMCMC(), num_samples=2048)
    mean, std = errors(result, prior.posterior(A, y, noise=sigma))
    assert mean < 0.2 and std < 0.12


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kernel", ["hmc", "pcn"])
def test_what_is_not_finite_is_never_accepted(bad, kernel):
    """The simulator fails above 1: what is left of N(0, 1) is its part below, of mean -phi(1) / Phi(1)."""
    prior = iv.priors.GaussianPrior(mean=torch.zeros(1, dtype=D), covariance=torch.eye(1, dtype=D))
    fails = iv.operators.from_callable(lambda x: torch.where(x > 1, bad, 0.0 * x), (1,), (1,))
    strategy = NoiseMCMC(kernel=kernel)
    result = iv.solve(fails, torch.zeros(1, dtype=D), prior, noise=1.0, strategy=strategy, num_samples=4096)
    assert (result.samples <= 1).all()
    below = 0.8413447460685429
    mean = -math.exp(-0.5) / math.sqrt(2 * math.pi) / below
    assert abs(float(result.mean) - mean) < 5 / math.sqrt(2000)
    assert abs(float(result.log_evidence) - math.log(below / math.sqrt(2 * math.pi))) < 0.1


def test_items_do_not_see_each_other():
    prior, A = gaussian(), iv.operators.Matrix(matrix=normal(4, 6, seed=9))
    y = A(prior.sample(3, seed=2))
    y[1] *= 30  # needs many more steps than the others
    strategy = NoiseMCMC(chains=64, islands=4)
    together = iv.solve(A, y, prior, noise=0.2, strategy=strategy, num_samples=50, seed=7)
    for b in (0, 2):
        alone = iv.solve(A, y[b : b + 1], prior, noise=0.2, strategy=strategy, num_samples=50, seed=7, item_ids=[b])
        assert torch.allclose(alone.samples[:, 0], together.samples[:, b], rtol=0, atol=1e-6)


def test_seeds():
    prior, A = gaussian(), iv.operators.Matrix(matrix=normal(4, 6, seed=9))
    y = A(prior.sample(1, seed=2))
    once, again, other = (
        iv.solve(A, y, prior, noise=0.2, strategy=NoiseMCMC(chains=64, islands=4), num_samples=40, seed=s).samples
        for s in (0, 0, 1)
    )
    assert torch.equal(once, again) and not torch.allclose(once, other)


class Killed(Exception):
    pass


class Axe(iv.progress.Progress):
    """A meter that stops the run at its n-th step."""

    def __init__(self, at):
        self.left = at

    def init(self, total):
        pass

    def step(self, done, total):
        self.left -= 1
        if self.left < 0:
            raise Killed

    def close(self):
        pass


def test_a_killed_run_goes_on_bitwise(tmp_path):
    prior, A = gaussian(), iv.operators.Matrix(matrix=normal(4, 6, seed=9))
    y = A(prior.sample(2, seed=2))

    def go(**more):
        strategy = NoiseMCMC(chains=64, islands=4)
        return iv.solve(A, y, prior, noise=0.2, strategy=strategy, num_samples=30, **more)

    whole = go()
    for at in (1, 9, 17):
        saved = iv.Checkpoint(path=tmp_path / f"{at}.ckpt", every_steps=1)
        with pytest.raises(Killed):
            go(checkpoint=saved, progress=Axe(at))
        assert torch.equal(go(checkpoint=saved).samples, whole.samples)


def test_too_few_moves_are_said():
    prior, A = gaussian(), iv.operators.Matrix(matrix=normal(4, 6, seed=9))
    y = A(prior.sample(1, seed=2))
    result = iv.solve(A, y, prior, noise=1e-3, strategy=NoiseMCMC(chains=64, islands=4, num_steps=3), num_samples=10)
    assert (result.info["beta"] < 1).all() and torch.isfinite(result.samples).all()
    assert any("Raise num_steps" in w for w in result.warnings)


# --- moves and their parts -------------------------------------------------------------------------------------------
def quadratic_target(items=2, chains=4000):
    prior = gaussian(2)
    A = iv.operators.Matrix(matrix=normal(2, 2, seed=4))
    y = normal(items, 2, seed=5)
    problem = iv.Problem(A, y, noise=0.7).take(torch.arange(items).repeat_interleave(chains))
    return Target(problem=problem, noise_map=noise_map(prior, 2), shape=(2,), chains=chains)


def test_the_gradient_in_noise_space():
    target = quadratic_target(chains=5)
    u, h = normal(2, 5, 2), 1e-5
    value, grad = target.pullback(u)
    assert torch.allclose(value, target.log_likelihood(u))
    for k in range(2):
        unit = h * torch.eye(2, dtype=D)[k]
        slope = (target.log_likelihood(u + unit) - target.log_likelihood(u - unit)) / (2 * h)
        assert torch.allclose(slope, grad[..., k], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kernel", ["hmc", "pcn"])
def test_a_move_leaves_the_target_where_it_is(kernel):
    """From exact draws of the tempered target, with a metric and steps that are far from ideal."""
    target, beta = quadratic_target(), torch.tensor([0.3, 1.0], dtype=D)
    first = target.problem.data.view(2, 4000, 2)[:, 0]
    zero = torch.zeros(2, 1, 2, dtype=D)
    base = target.signals(zero.expand(2, 4000, 2)).view(2, 4000, 2)[0, 0]
    columns = [
        target.signals((zero + torch.eye(2, dtype=D)[k]).expand(2, 4000, 2)).view(2, 4000, 2)[0, 0] for k in range(2)
    ]
    matrix = target.problem.operator(torch.stack(columns) - base).mT  # A T, of linear T
    clean = target.problem.operator(base[None])[0]
    covariance = torch.linalg.inv(torch.eye(2, dtype=D) + beta[:, None, None] * (matrix.T @ matrix) / 0.49)
    mean = (covariance @ (beta[:, None] * ((first - clean) @ matrix) / 0.49)[..., None])[..., 0]
    u = mean[:, None] + normal(2, 4000, 2, seed=8) @ torch.linalg.cholesky(covariance).mT
    value, grad = target.pullback(u)
    chains = Chains(u=u, log_likelihood=value, grad=grad)
    root = torch.tensor([[1.0, 0.0], [0.8, 0.5]], dtype=D).repeat(2, 2, 1, 1)
    metric = Metric(mean=normal(2, 2, 2, seed=11), root=root)
    moved = 0.0
    for i in range(6):

        def draw(index, shape, i=i):
            return normal(2, *shape, seed=100 + 10 * i + index)

        if kernel == "pcn":
            chains, accept = autoregressive(target, chains, metric, beta, torch.full((2,), 0.6, dtype=D), draw)
        else:
            leaps = torch.tensor([1, 3])
            chains, accept = hamiltonian(target, chains, metric, beta, torch.full((2,), 0.7, dtype=D), leaps, draw)
        moved += float(accept.mean())
    assert 0.5 < moved < 5.9  # some are refused
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert (((chains.u.mean(1) - mean) / sd).abs() < 5 / math.sqrt(4000)).all()
    away = chains.u - mean[:, None]
    found = away.mT @ away / 4000
    assert ((found - covariance).abs() / (sd[:, :, None] * sd[:, None]) < 5 * math.sqrt(2 / 4000)).all()


def test_a_chain_has_no_part_in_its_own_metric():
    u, w = normal(1, 40, 3), torch.full((1, 40), 1 / 40, dtype=D)
    other = u.clone()
    other[0, 5] += 10
    for make in (
        lambda v: Metric.of(v, w, Metric.identity(v)),
        lambda v: Metric.of_scores(v, -v, w, Metric.identity(v)),
    ):
        one, two = make(u), make(other)
        assert torch.equal(one.root[:, 0], two.root[:, 0]) and not torch.allclose(one.root[:, 1], two.root[:, 1])
        assert torch.allclose(one.unwhiten(one.whiten(u)), u)


def test_metrics_of_a_gaussian():
    covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], dtype=D)
    u = normal(1, 20000, 2) @ torch.linalg.cholesky(covariance).T
    w = torch.full((1, 20000), 1 / 20000, dtype=D)
    for metric in (
        Metric.of(u, w, Metric.identity(u)),
        Metric.of_scores(u, -u @ torch.linalg.inv(covariance), w, Metric.identity(u)),
    ):
        found = metric.root @ metric.root.mT
        assert torch.allclose(found, covariance.expand_as(found), rtol=0.05, atol=0.03)
    wide = normal(1, 64, 600)
    diagonal = Metric.of(wide, torch.full((1, 64), 1 / 64, dtype=D), Metric.identity(wide))
    assert diagonal.root.shape == (1, 2, 600) and torch.allclose(diagonal.unwhiten(diagonal.whiten(wide)), wide)


def test_a_metric_that_cannot_be_formed_falls_back():
    u = torch.full((1, 8, 2), math.nan, dtype=D)
    metric = Metric.of_scores(u, u, torch.full((1, 8), 1 / 8, dtype=D), Metric.identity(u))
    assert torch.equal(metric.root, Metric.identity(u).root)


def test_the_rise_keeps_what_it_should():
    logs = torch.stack((1e6 * normal(500), normal(500, seed=1), 1e-3 * normal(500, seed=2)))
    logs[0, :7] = -math.inf
    rise = rise_of(logs, torch.ones(3, dtype=D), 0.5)
    w = torch.softmax(rise[:, None] * logs, 1)
    share = 1 / w.square().sum(1)
    assert share[0] / 493 == pytest.approx(0.5, abs=1e-3) and rise[2] == 1 and share[2] > 250
    assert share[1] >= 249.9


def test_samples_are_taken_once_and_by_evidence():
    log_evidence = torch.log(torch.tensor([[1.0, 1.0, 2.0, 4.0]], dtype=D))
    number, chain = plan(log_evidence, 64, 32, torch.tensor([8]))
    assert number.min() >= 1 and number.max() <= 8
    assert torch.bincount(chain[0] // 8, minlength=4).tolist() == [8, 8, 16, 32]
    assert len({(int(n), int(c)) for n, c in zip(number[0], chain[0], strict=True)}) == 64
    few = plan(log_evidence, 3, 32, torch.tensor([8]))[1]
    assert len(set(few[0].tolist())) == 3


# --- what is said of convergence -------------------------------------------------------------------------------------
FOUR = 2 * (torch.tensor([4.0], dtype=D),)  # rounds in either sum


def sums(values):
    """(items, chains, rounds, q) -> the sums that are kept."""
    half = values.shape[2] // 2
    return values[:, :, :half].sum(2), values[:, :, half:].sum(2), values.square().sum(2)


def test_independent_draws_have_all_their_size():
    values = normal(200, 64, 8, 3)
    found = chain_statistics(*sums(values), torch.zeros(200, 8, dtype=D), *2 * [torch.full((200,), 4.0, dtype=D)])
    # In posterior stds; the root mean square over items of one quantity's error would be 1 / sqrt(512).
    assert 1.1 < float(found["mean_error"].mean() / 512**-0.5) < 1.9  # the worst of three, times 1.2
    assert (found["island_error"] == 0).all() and (found["drift"] < 0.2).all()
    assert float(found["ess"].median()) > 300 and float(found["rhat"].median()) < 1.1


def test_islands_that_disagree_or_drift_are_seen():
    values = normal(1, 64, 8, 3)
    apart = values + 2 * torch.arange(8).repeat_interleave(8)[None, :, None, None]
    assert chain_statistics(*sums(apart), torch.zeros(1, 8, dtype=D), *FOUR)["mean_error"] > 0.2
    moving = values + 0.5 * torch.arange(8)[None, None, :, None]
    found = chain_statistics(*sums(moving), torch.zeros(1, 8, dtype=D), *FOUR)
    assert found["drift"] > 0.5 and found["mean_error"] >= found["drift"]
    evidence = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 5.0]], dtype=D)
    assert chain_statistics(*sums(values), evidence, *FOUR)["island_error"] > 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseMCMC(kernel="gibbs"), "`kernel` must be one of 'auto', 'hmc', 'mala', 'pcn'"),
        (lambda: NoiseMCMC(chains=100), "`chains` must be a multiple of 8 islands"),
        (lambda: NoiseMCMC(chains=8), "`chains` must be a multiple of 8 islands, at least twice"),
        (lambda: NoiseMCMC(islands=5, chains=100), "`islands` must be even"),
        (lambda: NoiseMCMC(keep=1.0), "`keep` must be between 0 and 1"),
        (lambda: NoiseMCMC(forget=0), "`forget` must be between 0 and 1"),
        (lambda: NoiseMCMC(rounds=1), "`rounds` must be at least 4"),
        (lambda: NoiseMCMC(patience=0), "`patience` must be at least 1"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(iv.errors.InputError, match=message):
        make()


def test_a_black_box_has_no_gradient():
    box = Box(torch.eye(6, dtype=D))
    with pytest.raises(iv.errors.UnsupportedError, match="an operator with a derivative.*kernel='pcn'"):
        iv.solve(box, torch.zeros(6, dtype=D), gaussian(), noise=1.0, strategy=NoiseMCMC(kernel="hmc"))


def test_samples_of_an_item_stay_together():
    bound = NoiseMCMC().bind(
        iv.Problem(iv.operators.Matrix(matrix=torch.eye(6, dtype=D)), torch.zeros(2, 6, dtype=D), noise=1.0), gaussian()
    )
    with pytest.raises(iv.errors.UnsupportedError, match="must run together"):
        bound.take(torch.tensor([0, 1, 0]))


def test_whitening_undoes_both_kinds_of_roots():
    """Lower factors of covariances and upper ones of scores, side by side; `unwhiten` multiplies with either."""
    lower = (
        torch.eye(5, dtype=torch.float64)
        + torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tril() / 4
    )
    metric = Metric(
        mean=torch.ones(2, 2, 5, dtype=torch.float64), root=torch.stack([torch.stack([lower, lower.mT])] * 2)
    )
    z = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(metric.whiten(metric.unwhiten(z)), z)
