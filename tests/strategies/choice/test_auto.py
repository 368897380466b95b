"""`strategy="auto"`: which strategies it tries, when it stops, and what its certificate says."""

import functools
import math
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

import invsolve as iv
from invsolve.operators import BlackBox
from invsolve.results import certificate as certificates
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving import escalation, judging
from invsolve.solving.decisions import Decisions
from invsolve.solving.escalation import escalate
from invsolve.solving.request import pooled
from invsolve.solving.spending import Spending
from invsolve.strategies.choice.candidates import Candidate, candidates
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.reported import Reported

D = torch.float64
N = 4
EYE = torch.eye(N, dtype=D)
NEARLY = EYE + 1e-9 * (1 - EYE)  # correlated, if barely: posteriors do not fall apart into entries


def prior(covariance=NEARLY):
    return iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=covariance)


def hidden(exact):
    return iv.priors.from_denoiser(exact._denoise, shape=tuple(exact.shape), mean=exact.mean, scale=exact.scale)


def mixture(covariance=NEARLY):
    means = torch.tensor([[-2.0, 0, 0, 1], [1.5, 1, 0, 0]], dtype=D)
    return iv.priors.GaussianMixturePrior(
        weights=torch.tensor([0.4, 0.6], dtype=D), means=means, covariances=0.2 * covariance.repeat(2, 1, 1)
    )


class Box(BlackBox):
    in_shape = out_shape = (N,)

    def _apply(self, x):
        return x + 0.1 * x**3

    def fingerprint(self):
        return "box"


LINEAR = iv.operators.Matrix(matrix=EYE)
BENT = iv.operators.from_callable(lambda x: x + 0.1 * x**3, (N,), (N,))
LAPLACE = iv.priors.SparsePrior(shape=(N,), coefficients=iv.priors.Laplace(scale=0.5), dtype=D)
WAVELETS = replace(LAPLACE, transform="haar")
BIG = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(4096,), scale=1.0)


@pytest.mark.parametrize(
    ("operator", "law", "names", "word"),
    [
        (LINEAR, prior(), ["Exact"], "closed-form"),
        (LINEAR, mixture(), ["Exact"], "closed-form"),
        (LINEAR, LAPLACE, ["Exact"], "closed-form"),
        (BENT, prior(EYE), ["Exact"], "closed-form"),
        (Box(), mixture(EYE), ["Exact"], "closed-form"),
        (LINEAR, WAVELETS, ["NoiseMCMC"] * 4 + ["MMPS"], "with gradients"),
        (BENT, prior(), ["NoiseMCMC"] * 4 + ["MMPS"], "not a LinearOperator"),
        (Box(), prior(), ["NoiseMCMC"] * 4, "without a gradient"),
        (LINEAR, hidden(mixture()), ["SMC"] * 2 + ["NoiseMCMC"] * 4 + ["MMPS"], "weights correct"),
        (BENT, mixture(), ["SMC"] * 2 + ["NoiseMCMC"] * 4 + ["MMPS"], "weights correct"),
        (Box(), mixture(), ["NoiseMCMC"] * 4, "without a gradient"),
    ],
)
def test_candidates_are_decided_by_what_is_known(operator, law, names, word):
    problem = iv.Problem(operator, torch.zeros(N, dtype=D), noise=0.1)
    found = candidates(problem, law, 16)
    assert [r.strategy.name for r in found] == names and word in found[0].why


def test_chains_through_a_network_are_run_where_nothing_else_can_be():
    class Big(Box):
        in_shape = out_shape = (160,)

    free = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(160,), scale=1.0, dtype=D)
    network = iv.priors.NetworkPrior(network=Zero().double(), shape=(160,), scale=1.0, sigma_range=(0.01, 10.0))
    for law, operator, name in ((free, None, "NoiseMCMC"), (network, None, "MMPS"), (network, Big(), "NoiseMCMC")):
        operator = operator or iv.operators.Mask(mask=torch.arange(160) < 80)
        assert candidates(iv.Problem(operator, torch.zeros(160, dtype=D), noise=0.1), law, 4)[0].strategy.name == name


class Zero(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, c):
        return self.weight * x


def test_where_no_ensemble_fits_into_the_budget_there_is_guidance():
    """Of a denoiser without a law, which only chains could be exact about."""
    n = 160
    A = iv.operators.Mask(mask=torch.arange(n) < 120)
    slow = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(n,), scale=1.0)
    y = torch.where(torch.arange(n) < 120, 3.0, 0.0).repeat(2, 1)
    result = iv.solve(A, y, slow, noise=0.1, num_samples=4, budget=iv.Budget(evaluations=40_000))
    assert result.strategy == "MMPS" and "No ensemble would end" in result.why and not result.certificate.reached
    assert "MMPS is an approximation that was not tested" in result.certificate.missing
    assert [a.strategy for a in result.certificate.attempts] == ["MMPS()"]
    # The prior is a Gaussian, of which guidance is exact: mean 3 / 1.01, std 0.1 / 1.01^(1/2).
    seen = result.samples[..., :120]
    assert abs(float(seen.mean()) - 3 / 1.01) < 5 * 0.1 / seen.numel() ** 0.5
    assert not any("power" in text for text in result.warnings)


def test_of_a_batch_only_the_items_far_from_the_data_are_guided(tmp_path, monkeypatch):
    """Item 0 is led to its data, item 1 is stopped on the way; with a checkpoint the same, and again."""
    n = 64
    laplace = iv.priors.SparsePrior(shape=(n,), coefficients=iv.priors.Laplace(scale=0.5), dtype=D)
    A = iv.operators.Matrix(matrix=torch.eye(n, dtype=D)[:48] + 1e-9)  # nearly a mask, that mixes entries
    y = torch.zeros(2, 48, dtype=D)
    y[1] = 6 * torch.randn(48, generator=torch.Generator().manual_seed(0), dtype=D)
    few = Candidate(strategy=iv.strategies.NoiseMCMC(chains=64, num_steps=20), why="few moves")
    guess = Candidate(strategy=iv.strategies.MMPS(), why="guidance", tested=False, is_fallback=True)
    monkeypatch.setattr(sys.modules["invsolve.solving.solve"], "candidates", lambda *args, **kwargs: [few, guess])
    options = {"noise": 0.2, "num_samples": 4}
    result = iv.solve(A, y, laplace, **options)
    beta = result.info["beta"][0]
    assert 0.2 < float(beta[0]) < 1 and beta[1].isnan()
    certificate = result.certificate
    assert "the samples of 1 of 2 items are those of MMPS()" in certificate.missing
    assert certificate.tests["power of the likelihood that was reached"] == float(beta[0])
    assert [a.items for a in certificate.attempts] == [2, 1] and any("power" in text for text in result.warnings)
    assert float(result.chi2[:, 1].mean()) < 2  # the chains' are at hundreds
    for _ in range(2):
        again = iv.solve(A, y, laplace, checkpoint=tmp_path / "c", **options)
        assert torch.equal(again.samples, result.samples)


@pytest.mark.parametrize("guess", [iv.strategies.MMPS(), iv.strategies.Unconditional()])
def test_guidance_is_taken_for_counts_where_it_fits_them_better(guess, monkeypatch):
    """Chains that have seen a fraction of the likelihood: guidance that knows the noise fits, prior draws do not."""
    prior = iv.priors.GaussianFieldPrior(mean=5.0, shape=(16, 16), spectrum=iv.priors.Matern(std=0.8, length=4.0))
    A = iv.operators.GaussianBlur(std=1.0, in_shape=(16, 16))
    x = prior.sample(1, seed=0)
    y = torch.poisson(2000 * A(x).clamp_min(0), generator=torch.Generator().manual_seed(0))[0]
    few = Candidate(strategy=iv.strategies.NoiseMCMC(chains=64, num_steps=10), why="few moves")
    fallback = Candidate(strategy=guess, why="guidance", tested=False, is_fallback=True)
    monkeypatch.setattr(sys.modules["invsolve.solving.solve"], "candidates", lambda *args, **kwargs: [few, fallback])
    result = iv.solve(A, y, prior, noise=iv.noise.Poisson(counts_per_unit=2000.0), num_samples=8)
    assert not result.certificate.reached and len(result.certificate.attempts) == 2
    if guess.name == "MMPS":
        # chi^2 per datum of samples that fit: 1, of 256 data to 5 standard errors of sqrt(2 / 256).
        assert result.strategy == "MMPS" and abs(float(result.chi2.mean()) - 1) < 5 * (2 / 256) ** 0.5
        assert float((result.mean - x[0]).abs().mean()) < 5 * float(result.std.mean())
    else:
        assert result.strategy == "NoiseMCMC" and "those of" not in result.certificate.missing


def test_a_try_that_came_further_is_kept():
    """Neither of two tries knows its error."""
    call = Scripted([math.nan, math.nan], powers=[0.1, 0.9])
    _, last, certificate = escalate(
        call, [*tries(1, 1), replace(tries(1)[0], is_fallback=True)], iv.Budget(seconds=1e9)
    )
    assert call.ran == [0, 1] and last.why == "candidate 1" and "those of" not in certificate.missing


def test_large_signals_known_by_a_denoiser_are_guided_and_not_certified():
    A = iv.operators.Mask(mask=torch.arange(4096) % 2 == 0)
    result = iv.solve(A, torch.zeros(4096), BIG, noise=0.1, num_samples=2)
    assert result.strategy == "MMPS" and "approximation" in result.why
    assert not result.certificate.reached and "not tested" in str(result.certificate)
    assert math.isnan(result.certificate.mean_error)


def test_rows_that_must_be_alone():
    y = torch.zeros(N, dtype=D)
    result = iv.solve(BENT, y, prior(), noise=0.1, num_samples=2, reproducible=True)
    assert result.strategy == "MMPS"
    with pytest.raises(
        iv.errors.UnsupportedError, match="its samples see each other; not MMPS, which needs an operator"
    ):
        iv.solve(Box(), y, prior(), noise=0.1, reproducible=True)
    assert iv.solve(BENT, y, prior(), noise=0.1, num_samples=2, chunk=1).strategy == "NoiseMCMC"


def test_an_exact_result_is_certified():
    result = iv.solve(LINEAR, torch.zeros(2, N, dtype=D), prior(), noise=0.1, num_samples=2)
    certificate = result.certificate
    assert certificate.reached and certificate.exact and certificate.passed.tolist() == [True, True]
    assert certificate.mean_error.tolist() == [0, 0] and "exact draws" in str(certificate)
    assert repr(certificate) == "Certificate(certified, 1 attempt(s))"


def test_a_chosen_strategy_has_no_certificate_but_the_closed_form():
    y = torch.zeros(N, dtype=D)
    result = iv.solve(LINEAR, y, prior(), noise=0.1, strategy=iv.strategies.MMPS(num_steps=5), num_samples=2)
    assert result.certificate is None
    exact = iv.solve(LINEAR, y, prior(), noise=0.1, strategy=iv.strategies.Exact(), num_samples=2)
    assert exact.certificate.exact and exact.why.startswith("Chosen by the caller.")


def test_a_hidden_mixture_is_right_and_certified():
    exact = mixture()
    A = iv.operators.Matrix(matrix=torch.tensor([[1.0, -1.0, 0.5, 0.0]], dtype=D))
    y = torch.tensor([[-0.4], [0.2]], dtype=D)
    posterior = exact.posterior(A, y, noise=0.8)
    result = iv.solve(A, y, hidden(exact), noise=0.8, num_samples=4096, seed=3)
    assert result.strategy == "SMC" and result.certificate.reached and result.log_weights is None
    bound = result.certificate.mean_error
    found = ((result.mean - posterior.mean) / posterior.std).abs().amax(1)
    assert (found < bound + 5 / math.sqrt(4096)).all() and (bound < 0.15).all()
    assert ((result.std / posterior.std - 1).abs() < 0.08).all()
    assert ((result.log_evidence - posterior.log_evidence).abs() < 4 * result.log_evidence_se).all()


def test_few_samples_come_from_the_same_particles():
    exact = mixture()
    y = torch.zeros(N, dtype=D)
    result = iv.solve(LINEAR, y, hidden(exact), noise=2.0, num_samples=3, seed=3)
    assert result.samples.shape == (3, N) and result.certificate.reached
    assert len({tuple(x) for x in result.samples.tolist()}) == 3


def test_candidates_are_tried_inside_the_budget(monkeypatch):
    """Nothing is certified to 1e-4 posterior std: the first candidate does not pass, the next is too dear."""
    monkeypatch.setattr(certificates, "MEAN_ERROR", 1e-4)
    result = iv.solve(
        BENT,
        torch.zeros(N, dtype=D),
        prior(),
        noise=0.1,
        num_samples=8,
        budget=iv.Budget(seconds=1e6, evaluations=10**6),
    )
    certificate = result.certificate
    assert not certificate.reached
    assert "would take about" in certificate.missing and "are left" in certificate.missing
    assert "NoiseMCMC(chains=" in certificate.missing
    assert len(certificate.attempts) > 1 and certificate.attempts[0].evaluations > 1000
    assert sum(a.evaluations for a in certificate.attempts) < 10**6


@pytest.mark.parametrize("budget", [1e-6, iv.Budget(evaluations=1)])
def test_chains_stop_where_the_budget_ends(budget):
    """After one move: samples there are, but nothing vouches for them."""
    result = iv.solve(BENT, torch.full((2, N), 3.0, dtype=D), prior(), noise=0.01, num_samples=8, budget=budget)
    certificate = result.certificate
    assert result.info["moves"].unique().tolist() == [1] and float(result.info["beta"].max()) < 1
    assert result.info["mean_error"].isnan().all() and result.samples.isfinite().all()
    assert not certificate.reached and "stopped when the budget was spent" in certificate.missing
    assert "power of the likelihood" in certificate.missing
    assert any("power" in text for text in result.warnings)


def test_without_a_budget_what_was_begun_is_finished(monkeypatch):
    monkeypatch.setattr(escalation, "Budget", lambda: iv.Budget(seconds=1e-6))
    result = iv.solve(BENT, torch.zeros(N, dtype=D), prior(), noise=0.1, num_samples=8)
    assert result.certificate.reached and float(result.info["moves"].min()) > 8


class Scripted:
    """A call whose strategies find what the test says."""

    def __init__(self, errors, powers=None):
        self.errors, self.powers, self.ran = list(errors), powers, []
        self.problem, self.prior = iv.Problem(LINEAR, torch.zeros(1, N, dtype=D), noise=0.1), prior()
        self.num_samples, self.saved, self.free = 2, None, False
        self.decisions = Decisions()

    def on(self, items):
        return self

    def run(self, last, number, over=None, thinning=None):
        self.ran.append(number)
        error = torch.full((2,), self.errors[number], dtype=D)
        info = {"mean_error": error, "std_error": error, "island_error": error}
        if self.powers:
            info["beta"] = torch.full((2,), self.powers[number], dtype=D)
        return StrategyOutput(
            samples=torch.zeros(2, N, dtype=D),
            chi2=torch.ones(2, dtype=D),
            log_weights=None,
            info=Diagnostics.from_mapping(info),
            calls=Counter(denoise=1000),
            processed=2,
            seconds=1.0,
            chunk=2,
            warnings=(),
        )


def tries(*costs):
    return [
        Candidate(strategy=iv.strategies.MMPS(num_steps=10 + i), why=f"candidate {i}", cost=c)
        for i, c in enumerate(costs)
    ]


def test_escalation_stops_when_certified():
    call = Scripted([0.5, 0.01, 0.01])
    _, last, certificate = escalate(call, tries(1, 1, 1), iv.Budget(seconds=1e9))
    assert call.ran == [0, 1] and last.why == "candidate 1" and certificate.reached and certificate.missing == ""
    assert [a.reached for a in certificate.attempts] == [0, 1]
    assert "Certified (MMPS()" in str(certificate) and "0.02 posterior std" in str(certificate)


def test_the_best_is_returned_when_none_is_certified():
    call = Scripted([0.5, 0.2, 0.3])
    _, last, certificate = escalate(call, tries(1, 1, 1), iv.Budget(seconds=1e9))
    assert call.ran == [0, 1, 2] and last.why == "candidate 1" and not certificate.reached
    assert "mean known to 0.6 posterior std (asked: 0.15)" in certificate.missing  # of the last attempt
    assert certificate.remedy.startswith("No strategy is left to try")


def test_a_candidate_that_would_not_end_in_time_is_not_begun():
    call = Scripted([0.5, 0.01])
    _, _, certificate = escalate(call, tries(1, 100), iv.Budget(seconds=50))
    assert call.ran == [0] and "would take about 1 min 40 s, 50 s are left of budget=50" in certificate.missing
    assert certificate.remedy == "Give a larger budget"
    call = Scripted([0.5, 0.01])
    _, _, certificate = escalate(call, tries(1, 8), iv.Budget(evaluations=5000))
    assert call.ran == [0] and "would take about 8,000 evaluations, 3,996 are left" in certificate.missing


def test_nan_is_no_certificate():
    _, _, certificate = escalate(Scripted([math.nan]), tries(1), iv.Budget())
    assert not certificate.reached and not bool(certificate.passed.any())


def test_pooling_counts_islands_by_their_evidence_and_drops_what_failed():
    count, items, islands = 50, 2, 4
    samples = torch.randn(count, items, islands, 1, generator=torch.Generator().manual_seed(0), dtype=D)
    samples[:, 0, 0] += 10  # an island that found what others did not, of evidence e^2
    evidence = torch.zeros(items, islands, dtype=D)
    evidence[0, 0] = 2.0
    logs = evidence.expand(count, items, islands).clone()
    samples[0, 1, 2] = math.nan
    prior = iv.priors.GaussianPrior(torch.full((1,), 3.0, dtype=D), torch.eye(1, dtype=D))
    problem = iv.Problem(iv.operators.Matrix(torch.eye(1, dtype=D)), torch.zeros(items, 1, dtype=D), noise=1.0)
    rows, info, moments = pooled(
        samples.view(-1, 1),
        torch.ones(count * items * islands, dtype=D),
        logs.reshape(-1),
        Diagnostics(
            log_evidence=evidence, log_evidence_se=torch.tensor([[0.1] * 4, [0.1, 0.1, math.inf, 0.1]], dtype=D)
        ),
        1000,
        Reported.of(lambda x: 2 * x, problem, prior),
    )
    chosen = samples.view(-1, 1)[rows].view(1000, items)
    share = math.exp(2) / (math.exp(2) + 3)
    assert float((chosen[:, 0] > 5).double().mean()) == pytest.approx(share, abs=2e-3)
    assert torch.isfinite(chosen).all()
    assert info["mean_error"][0] > 0.25 > info["mean_error"][1]
    assert info["log_evidence"][0] == pytest.approx(math.log((math.exp(2) + 3) / 4))
    weights = evidence.softmax(1)[0].repeat(count)[:, None] / count  # of item 0, all particles
    values = 2 * samples[:, 0].reshape(-1, 1)  # what is reported
    mean = (weights * values).sum()
    var = (weights * (values - mean).square()).sum() / (1 - weights.square().sum())
    assert float(moments.mean[0]) == pytest.approx(float(mean), rel=1e-12) and moments.known == "ensemble"
    assert float(moments.std[0]) == pytest.approx(float(var.sqrt()), rel=1e-12)
    alive = 2 * samples[:, 1][torch.isfinite(samples[:, 1])]
    assert float(moments.mean[1]) == pytest.approx(float(alive.mean()), abs=0.01)  # 49 count as 50 of the others
    assert info["island_error"][0] > 0.5 and info["island_error"][1] == 0
    # An island that does not know its own evidence agrees with the others by what all of them share.
    assert info["log_evidence_se"].view(1000, items)[0].tolist() == [float(info["island_error"][0]), math.inf]


@pytest.mark.slow
def test_only_items_that_are_not_certified_go_on(monkeypatch):
    """The second of three fails at first: the others keep what the first candidate found, bit for bit."""
    y = torch.randn(3, N, generator=torch.Generator().manual_seed(0), dtype=D)
    first = iv.solve(BENT, y, prior(), noise=0.1, num_samples=64, strategy=iv.strategies.NoiseMCMC(chains=4096))
    honest = judging.judged

    def strict(info):
        passed, tests, wrong = honest(info)
        assert bool(passed.all())
        return (
            (passed & torch.tensor([True, False, True]), tests, "too narrow")
            if len(passed) == 3
            else (passed, tests, wrong)
        )

    monkeypatch.setattr(judging, "judged", strict)
    result = iv.solve(BENT, y, prior(), noise=0.1, num_samples=64, budget=1e6)
    attempts = result.certificate.attempts
    assert [(a.items, a.reached) for a in attempts] == [(3, 2), (1, 1)] and result.certificate.reached
    assert "2 of 3 items certified" in str(result.certificate) and "from a wider start" in result.why
    assert torch.equal(result.samples[:, [0, 2]], first.samples[:, [0, 2]])
    assert not torch.equal(result.samples[:, 1], first.samples[:, 1])
    assert torch.equal(result.info["ess"][:, [0, 2]], first.info["ess"][:, [0, 2]])


@pytest.mark.slow
def test_a_killed_escalation_goes_on(tmp_path):
    exact = mixture()
    y = torch.zeros(N, dtype=D)

    def go(**more):
        return iv.solve(LINEAR, y, hidden(exact), noise=0.5, num_samples=4, **more)

    whole = go()
    saved = tmp_path / "run.ckpt"
    assert torch.equal(go(checkpoint=saved).samples, whole.samples) and saved.exists()
    assert torch.equal(go(checkpoint=saved).samples, whole.samples)  # from the finished file


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ("long", "`budget` must be a number of seconds or an iv.Budget"),
        (True, "`budget` must be a number of seconds or an iv.Budget"),
        (-1, "`seconds` must be non-negative|`seconds` must be positive"),
        (0, "`seconds` must be positive"),
    ],
)
def test_budgets_are_checked(budget, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        iv.solve(LINEAR, torch.zeros(N, dtype=D), prior(), noise=0.1, budget=budget)


def test_budget_of_evaluations_is_checked():
    with pytest.raises(iv.errors.InputError, match="`evaluations` must be at least 1"):
        iv.Budget(evaluations=0)


def test_a_budget_is_of_auto_only():
    with pytest.raises(iv.errors.InputError, match="`budget` must be left out with a strategy of your own"):
        iv.solve(LINEAR, torch.zeros(N, dtype=D), prior(), noise=0.1, budget=5.0, strategy=iv.strategies.Exact())


def test_a_kind_that_was_not_run_yet_is_not_free():
    call = Scripted([0.5, 0.01])
    others = [*tries(1), Candidate(strategy=iv.strategies.NoiseMCMC(), why="another kind")]
    _, _, certificate = escalate(call, others, iv.Budget(evaluations=1500))
    assert call.ran == [0] and "would take about 1,000 evaluations, 496 are left" in certificate.missing


def test_a_finished_checkpoint_keeps_its_seconds(tmp_path):
    def go():
        return iv.solve(BENT, torch.zeros(N, dtype=D), prior(), noise=0.1, num_samples=4, checkpoint=tmp_path / "c")

    first, again = go(), go()
    assert 0.5 * first.seconds < again.seconds < 2 * first.seconds + 0.1


def test_noise_of_each_item_with_a_curved_operator():
    noise = iv.noise.Gaussian(std=torch.tensor([[0.3], [0.4]], dtype=D))
    result = iv.solve(
        BENT, torch.zeros(2, N, dtype=D), mixture(), noise=noise, num_samples=4, strategy=iv.strategies.SMC()
    )
    assert torch.isfinite(result.samples).all()


def test_one_founder_says_nothing_of_the_evidence():
    from invsolve.core.resampling import relative_variance

    weights, zero = torch.full((8, 1), 1 / 8, dtype=D), torch.zeros(8, 1, dtype=torch.int64)
    assert relative_variance(weights, zero).isinf().all()
    assert relative_variance(weights, torch.arange(8)[:, None]).item() == 0


def test_a_certificate_is_saved_with_its_result(tmp_path):
    y = torch.zeros(2, N, dtype=D)
    for law, operator in ((prior(), LINEAR), (prior(), BENT)):
        result = iv.solve(operator, y, law, noise=0.1, num_samples=8)
        result.save(tmp_path / "r.nc")
        back = iv.load_result(tmp_path / "r.nc").certificate
        assert str(back) == str(result.certificate) and repr(back) == repr(result.certificate)
        assert torch.equal(back.passed, result.certificate.passed)
        assert torch.equal(back.mean_error, result.certificate.mean_error.double())
    chosen = iv.solve(LINEAR, y, prior(), noise=0.1, num_samples=8, strategy=iv.strategies.MMPS(num_steps=5))
    chosen.save(tmp_path / "r.nc")
    assert iv.load_result(tmp_path / "r.nc").certificate is None


def test_a_certificate_of_nothing_is_none():
    value = iv.solve(LINEAR, torch.zeros(N, dtype=D), prior(), noise=0.1).certificate.to_dict()
    with pytest.raises(ValueError, match="without attempts"):
        certificates.Certificate.from_dict(value | {"attempts": []})
    with pytest.raises(KeyError):
        certificates.Certificate.from_dict({})


def test_a_likelihood_that_is_zero_everywhere_fails_soon():
    """The second item is like any other."""

    class Nowhere(BlackBox):
        in_shape = out_shape = (N,)

        def _apply(self, x):
            return x.clone()

        def fingerprint(self):
            return "nowhere"

    y = torch.tensor([[1e200] * N, [0.1] * N], dtype=D)
    result = iv.solve(
        Nowhere(), y, prior(), noise=0.3, num_samples=4, throw=False, strategy=iv.strategies.NoiseMCMC(num_steps=200)
    )
    assert result.status is iv.Status.SOME_FAILED
    assert result.failed[:, 0].all() and not result.failed[:, 1].any()
    assert result.info["moves"][0, 0] == 30 and result.info["mean_error"][0, 0].isnan()
    with pytest.raises(iv.errors.SolveError, match="4 of 8 samples failed"):
        iv.solve(Nowhere(), y, prior(), noise=0.3, num_samples=4, strategy=iv.strategies.NoiseMCMC(num_steps=200))


def test_chains_that_were_stopped_are_so_from_their_checkpoint_too(tmp_path):
    """The finished file is not taken for an answer that was not certified for another reason."""
    y = torch.full((N,), 3.0, dtype=D)

    def go():
        return iv.solve(
            BENT, y, prior(), noise=0.01, num_samples=8, budget=iv.Budget(evaluations=1), checkpoint=tmp_path / "c"
        )

    first, again = go(), go()
    assert torch.equal(first.samples, again.samples)
    assert len(again.certificate.attempts) == 1 and "stopped when the budget was spent" in again.certificate.missing


def test_guidance_that_would_leave_the_budget_is_given_up(monkeypatch):
    """Chains that hardly meet the data and a budget that they have used up: the answer is theirs, and that is said."""
    A = iv.operators.from_callable(lambda x: x**3 + x.roll(1, -1), (4,), (4,))
    prior = iv.priors.GaussianPrior(torch.zeros(4), torch.eye(4))
    monkeypatch.setattr(Spending, "over", lambda self, calls, *, lost, ahead=None: True)
    result = iv.solve(A, torch.ones(1, 4), prior, noise=1e-4, num_samples=8, budget=iv.Budget(evaluations=20_000))
    text = str(result.certificate)
    assert not result.certificate.reached and "MMPS() in their place had no time to end" in text
    assert [a.strategy[:4] for a in result.certificate.attempts] == ["Nois"] and result.strategy == "NoiseMCMC"


def test_chains_that_a_budget_stopped_say_what_their_end_would_take():
    """By how much of their work they had done: within a factor of three of what is enough."""
    A = iv.operators.from_callable(lambda x: x + 0.3 * x**3 + 0.5 * x.roll(1, -1), (8,), (8,))
    prior = iv.priors.GaussianPrior(torch.zeros(8), torch.eye(8))
    solve = functools.partial(iv.solve, A, torch.ones(1, 8), prior, noise=3e-4, num_samples=19)
    stopped = solve(budget=iv.Budget(evaluations=16_000)).certificate
    assert not stopped.reached and "it would end after about " in stopped.missing
    need = int(stopped.missing.split("after about ")[1].split(" evaluations")[0].replace(",", ""))
    assert solve(budget=iv.Budget(evaluations=3 * need)).certificate.reached and need > 16_000
