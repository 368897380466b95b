"""`solve`: what goes in, what comes out, and what it says about it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from scipy import stats

import invsolve as iv
from invsolve.results.status import blanked
from invsolve.results.warnings import impossible, misfit, thinned

N = 6


def prior(dtype: torch.dtype = torch.float32) -> iv.priors.GaussianPrior:
    r = (torch.arange(N, dtype=torch.float64)[:, None] - torch.arange(N)).abs()
    return iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=dtype), covariance=(0.8**r).to(dtype))


A = iv.operators.Mask(mask=torch.tensor([True, False, True, True, False, True]))
Y = torch.tensor([1.0, 0.0, -1.0, 0.5, 0.0, 2.0])


def test_unbatched_data_give_unbatched_results():
    one = iv.solve(A, Y, prior(), noise=0.1, num_samples=5)
    many = iv.solve(A, Y[None], prior(), noise=0.1, num_samples=5)
    assert one.samples.shape == (5, N) and one.mean.shape == (N,) and one.chi2.shape == (5,)
    assert many.samples.shape == (5, 1, N) and many.mean.shape == (1, N)
    assert torch.equal(one.samples, many.samples[:, 0])


def test_numpy_and_xarray_are_converted_once_to_the_priors_precision():
    xarray = pytest.importorskip("xarray")
    plain = iv.solve(A, Y, prior(), noise=0.1, num_samples=3).samples
    data = Y.numpy().astype(np.float64)
    assert torch.equal(iv.solve(A, data, prior(), noise=0.1, num_samples=3).samples, plain)
    assert torch.equal(
        iv.solve(A, xarray.DataArray(data, dims=["x"]), prior(), noise=0.1, num_samples=3).samples, plain
    )
    named = iv.solve(A, xarray.DataArray(data, dims=["depth"]), prior(), noise=0.1, num_samples=3)
    assert named.dims == ("depth",) and named.to_xarray()["mean"].dims == ("depth",)
    assert iv.solve(A, data, prior(torch.float64), noise=0.1, num_samples=3).samples.dtype == torch.float64
    assert np.array_equal(data, Y.numpy())


def test_inputs_are_not_changed_and_may_be_views():
    y = torch.stack([Y, Y + 1], dim=1).T
    assert not y.is_contiguous()
    before = y.clone()
    for strategy in ("auto", iv.strategies.MMPS(num_steps=5), iv.strategies.PiGDM(num_steps=5)):
        views = iv.solve(A, y, prior(), noise=0.1, num_samples=2, strategy=strategy).samples
        assert torch.equal(y, before)
        assert torch.allclose(
            views, iv.solve(A, y.contiguous(), prior(), noise=0.1, num_samples=2, strategy=strategy).samples, atol=1e-5
        )


def test_a_problem_can_be_solved_whole():
    problem = iv.Problem(A, Y, noise=0.1, dims=("x",), units="mm")
    result = iv.solve(problem, prior(), num_samples=3)
    assert torch.equal(result.samples, iv.solve(A, Y, prior(), noise=0.1, num_samples=3).samples)
    assert result.dims == ("x",) and result.units == "mm"


def test_the_result_says_what_was_done():
    result = iv.solve(A, Y, prior(), noise=0.1, num_samples=5)
    assert result.strategy == "Exact" and "closed-form" in result.why
    assert (result.nfe, result.vjps) == (0, 0)
    assert result.status is iv.Status.SUCCESS
    assert result.settings["num_samples"] == 5 and result.seed == 0
    assert set(result.versions) == {"invsolve", "torch", "python"}
    guided = iv.solve(A, Y, prior(), noise=0.1, num_samples=5, strategy=iv.strategies.MMPS(num_steps=7))
    assert guided.strategy == "MMPS" and guided.why == "Chosen by the caller."
    assert guided.nfe == 7 and guided.operator_calls["operator"] > 0 and guided.seconds > 0
    assert repr(guided).count("\n") == 0 and len(repr(guided)) < 200


def test_chi2_of_posterior_samples_is_about_one():
    truth = prior().sample(200, seed=1)
    y = A(truth + 0.3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)))
    chi2 = iv.solve(A, y, prior(), noise=0.3, num_samples=1).chi2
    assert abs(chi2.mean() - 1) < 5 * math.sqrt(2 / 4 / 200)  # four data each


@dataclass
class Meter(iv.progress.Progress):
    seen: list[object] = field(default_factory=list)

    def init(self, total: int) -> None:
        self.seen.append(("init", total))

    def step(self, done: int, total: int) -> None:
        self.seen.append(done)

    def close(self) -> None:
        self.seen.append("close")


def test_progress_counts_row_steps_and_is_always_closed():
    meter = Meter()
    iv.solve(A, Y, prior(), noise=0.1, num_samples=4, chunk=3, strategy=iv.strategies.MMPS(num_steps=2), progress=meter)
    assert meter.seen == [("init", 8), 3, 6, 7, 8, "close"]

    def broken(x, sigma):
        raise ArithmeticError("broken")

    sick = iv.priors.from_denoiser(broken, shape=(N,), mean=torch.zeros(N), scale=1.0)
    meter = Meter()
    with pytest.raises(ArithmeticError):
        iv.solve(A, Y, sick, noise=0.1, progress=meter)
    assert meter.seen[-1] == "close"


def test_all_rows_failed():
    sick = iv.priors.from_denoiser(lambda x, sigma: x * math.nan, shape=(N,), mean=torch.zeros(N), scale=1.0)
    with pytest.raises(iv.errors.SolveError, match="2 of 2 samples failed"):
        iv.solve(A, Y, sick, noise=0.1, num_samples=2)
    result = iv.solve(A, Y, sick, noise=0.1, num_samples=2, throw=False, strategy=iv.strategies.MMPS())
    assert result.status is iv.Status.ALL_FAILED and result.failed.all() and result.samples.isnan().all()
    assert (result.info["diverged_at"] == 9).all()  # seen at the first look


def test_a_failed_complex_sample_is_nan_in_both_parts():
    sick = iv.priors.from_denoiser(lambda x, sigma: x * math.nan, shape=(N,), kind="complex", scale=1.0)
    y = torch.complex(Y, Y)
    operator = iv.operators.Mask(mask=A.mask, kind="complex")
    result = iv.solve(operator, y, sick, noise=0.1, num_samples=2, throw=False, strategy=iv.strategies.MMPS())
    assert result.samples.real.isnan().all() and result.samples.imag.isnan().all()
    assert torch.equal(blanked(y[None], torch.tensor([False])), y[None])


def test_a_nearly_right_adjoint_is_mentioned():
    matrix = torch.eye(N)
    nearly = iv.operators.from_callable(
        lambda x: x @ matrix, (N,), (N,), kind="linear", adjoint=lambda y: y * (1 + 3e-4)
    )
    assert any("adjoint" in w for w in iv.solve(nearly, Y, prior(), noise=0.1, num_samples=1).warnings)
    assert iv.solve(A, Y, prior(), noise=0.1, num_samples=1).warnings == ()


@dataclass(frozen=True, kw_only=True)
class Weighted(iv.strategies.Strategy):
    """A user's strategy with log weights and one wrong shape on demand."""

    wrong: bool = False
    bad: float = 0.0  # added to the first log weight
    num_steps: int = 1

    def init(self, run):
        return iv.samplers.SamplerState(x=run.prior.mean + run.normal(-1))

    def step(self, run, state, i):
        return state, {"size": state.x.square().sum(1)}

    def log_weights(self, run, state):
        log = run.problem.log_likelihood(state.x)
        return torch.cat([log[:1] + self.bad, log[1:]])

    def samples(self, run, state):
        return state.x[:, :2] if self.wrong else state.x


def test_weights_of_a_strategy_reach_the_result():
    """Importance sampling from the prior: the weighted mean is the posterior mean."""
    eye = iv.priors.GaussianPrior(mean=torch.zeros(N), covariance=torch.eye(N))
    result = iv.solve(A, Y, eye, noise=1.0, strategy=Weighted(), num_samples=20000, weighted=True)
    assert result.log_weights.shape == (20000,) and result.info["size"].shape == (20000,)
    assert (result.mean - Y / 2).abs().max() < 5 / math.sqrt(float(result.ess))
    draws = iv.solve(A, Y, eye, noise=1.0, strategy=Weighted(), num_samples=20000, chunk=7000)
    copies = draws.samples.unique(dim=0, return_counts=True)[1].double()
    assert draws.log_weights is None and float(draws.ess) == pytest.approx(20000**2 / float(copies.square().sum()))
    assert float(draws.info["ess"][0]) == float(draws.ess) < float(result.ess)  # whole copies of some, none of others
    assert (draws.samples.mean(0) - result.mean).abs().max() < 1 / math.sqrt(20000)  # systematic: less than of draws
    assert torch.equal(draws.info["size"], draws.samples.square().sum(1)) and draws.interval(0.9)[0].shape == (N,)
    with pytest.raises(
        iv.errors.InputError, match=r"Weighted: `samples\(state\)` must be of shape \(2, 6\), got \(2, 2\)"
    ):
        iv.solve(A, Y, eye, noise=1.0, strategy=Weighted(wrong=True), num_samples=2)


def test_seeds_zero_and_negative_are_seeds():
    run = lambda seed: iv.solve(A, Y, prior(), noise=0.1, num_samples=2, seed=seed).samples  # noqa: E731
    assert torch.equal(run(0), run(0))
    assert len({tuple(run(s).flatten().tolist()) for s in (0, 1, -1)}) == 3


@pytest.mark.slow
def test_the_same_numbers_in_another_process(tmp_path):
    code = (
        "import torch, invsolve as iv; p = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3));"
        "r = iv.solve(iv.operators.Matrix(matrix=torch.eye(3)), torch.ones(3), p, noise=0.5, num_samples=2, item_ids=['x'],"
        "strategy=iv.strategies.MMPS(num_steps=5)); print(r.samples.flatten().tolist())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_a_prior_draw_shares_no_numbers_with_the_solve_that_recovers_it():
    """Truth, data and solve all with seed 0: sample - truth must have the variance of two independent draws."""
    eye = iv.priors.GaussianPrior(mean=torch.zeros(400), covariance=torch.eye(400))
    truth = eye.sample(1)
    nothing = iv.operators.Mask(mask=torch.zeros(400, dtype=torch.bool))
    for strategy in ("auto", iv.strategies.MMPS(), iv.strategies.MMPS(sampler=iv.samplers.Heun())):
        x = iv.solve(nothing, torch.zeros(1, 400), eye, noise=0.1, strategy=strategy, num_samples=1).samples[0]
        assert abs(float((x - truth).var()) - 2) < 5 * 2 * math.sqrt(2 / 400) + 0.05


def test_a_walk_that_runs_away_is_a_failed_row():
    away = iv.priors.from_denoiser(lambda x, sigma: 1e9 * x, shape=(N,), scale=1.0, detail=1.0)
    result = iv.solve(A, Y, away, noise=1e3, num_samples=2, throw=False, strategy=iv.strategies.PiGDM(num_steps=2))
    assert result.failed.all()


def test_an_error_holds_the_good_rows():
    def sick(x, sigma):
        return torch.where(torch.arange(len(x))[:, None] == 1, torch.nan, x / (1 + sigma**2))

    prior_ = iv.priors.from_denoiser(sick, shape=(N,), scale=1.0)
    with pytest.raises(iv.errors.SolveError, match="1 of 4 samples failed.*in the error's `result`") as caught:
        iv.solve(A, Y, prior_, noise=0.1, num_samples=4, strategy=iv.strategies.MMPS())
    assert isinstance(caught.value.result, iv.Result) and caught.value.result.failed.tolist() == [
        False,
        True,
        False,
        False,
    ]


@pytest.mark.slow
def test_what_does_not_fit_is_said():
    noise_only = iv.priors.from_denoiser(lambda x, sigma: 1e-6 * x, shape=(N,), scale=1.0)
    assert any("do not fit the data" in w for w in iv.solve(A, Y, noise_only, noise=0.01, num_samples=4).warnings)
    cut = iv.operators.from_callable(lambda x: x + torch.tanh(x).detach() * 3, (N,), (N,))
    assert any(
        "disagrees with finite differences" in w for w in iv.solve(cut, Y, prior(), noise=0.3, num_samples=1).warnings
    )
    short = iv.strategies.MMPS(covariance="jacobian", max_iter=1)
    assert any(
        "raise max_iter" in w for w in iv.solve(A, Y, prior(), noise=0.1, num_samples=2, strategy=short).warnings
    )
    assert (
        iv.solve(
            iv.operators.from_callable(lambda x: x + 0.1 * x**3, (N,), (N,)), Y, prior(), noise=0.1, num_samples=1
        ).warnings
        == ()
    )


def test_a_few_samples_that_no_datum_allows_are_said():
    chi2, problem = torch.ones(200), iv.Problem(A, Y[None], noise=0.1)
    assert misfit(chi2, problem) == ()
    assert misfit(torch.where(torch.arange(200) < 1, 1e6, chi2), problem) == ()  # fewer than one in a hundred
    few = torch.where(torch.arange(200) < 20, 1e6, torch.where(torch.arange(200) > 100, torch.nan, chi2))
    (text,) = misfit(few, problem)
    assert text.startswith("0.1 of the samples do not fit the data: chi^2 per datum above 100")


@pytest.mark.parametrize(("count", "limit"), [(1, 27), (4, 9.36), (100, 2.2), (1000, 1.51), (4096, 1.38)])
def test_misfit_is_what_the_number_of_data_makes_impossible(count, limit):
    """A median chi^2 of a right model: never 1e-5 of the time, and a noise std that is 10 % off is no alarm."""
    A = iv.operators.Mask(mask=torch.ones(count, dtype=torch.bool))
    problem = iv.Problem(A, torch.zeros(3, count), noise=1.0)
    most = impossible(problem)
    assert most.shape == (3,) and float(most[0]) == pytest.approx(limit, rel=0.05)
    alarms = 2 * stats.chi2(count).sf(count * float(most[0]) / 1.25)
    assert alarms == pytest.approx(1e-5, rel=1e-3)
    chi2 = torch.ones(7, 3, dtype=torch.float64)
    assert misfit(chi2, problem) == misfit(0.99 * float(most[0]) * chi2, problem) == ()
    (text,) = misfit(torch.stack([chi2[:, 0], chi2[:, 1], 1.01 * most[0] * chi2[:, 2]], 1), problem)
    assert text.startswith(
        f"the samples of 1 of 3 items do not fit the data: chi^2 per datum {1.01 * float(most[0]):.3g}"
    )
    counts = iv.Problem(A, torch.ones(3, count), noise=iv.noise.Poisson(1.0))
    assert (impossible(counts) == 5).all()


def test_noise_that_is_stated_too_small_is_seen_in_many_data():
    """Half as large again: chi^2 is 2.25, which many data make impossible and a few do not."""
    for n, said in ((1024, True), (3, False)):
        prior = iv.priors.GaussianPrior(torch.zeros(n), torch.eye(n) * 1e-4)
        A = iv.operators.Mask(mask=torch.ones(n, dtype=torch.bool))
        y = 0.15 * torch.randn(n, generator=torch.Generator().manual_seed(1))
        right, wrong = (iv.solve(A, y, prior, noise=s, num_samples=19).warnings for s in (0.15, 0.1))
        assert right == () and any("do not fit the data" in text for text in wrong) == said


def test_data_beyond_all_that_a_curved_operator_gives():
    square = iv.operators.from_callable(lambda x: x**2, (1,), (1,))
    prior = iv.priors.GaussianPrior(torch.zeros(1), torch.eye(1))
    chains = iv.strategies.NoiseMCMC(chains=32, islands=2, rounds=4)
    result = iv.solve(square, torch.tensor([-3.0]), prior, noise=0.3, strategy=chains)
    assert any("further from everything that the operator gives than noise puts them" in w for w in result.warnings)


def test_weights_that_leave_few_samples_are_said():
    """Two items, of which the worse counts; failed rows and items apart."""
    none = torch.zeros(16, 2, dtype=torch.bool)

    def heavy(count, of=16):
        """Item 1 with ``count`` equal weights, the others zero: worth ``count``."""
        weights = torch.zeros(of, 2)
        weights[count:, 1] = -math.inf
        return weights

    assert thinned(torch.zeros(16, 2), none) == thinned(heavy(2), none) == ()
    (text,) = thinned(heavy(1), none)
    assert text.startswith("weights are uneven: the 16 samples of an item are worth 1 ")
    many = torch.zeros(100, 2, dtype=torch.bool)
    assert thinned(heavy(11, 100), many) == () and "are worth 9 " in thinned(heavy(9, 100), many)[0]
    (text,) = thinned(heavy(0), none)
    assert text.startswith("no sample of 1 of 2 items has a weight")
    both = heavy(0)
    both[1:, 0] = -math.inf
    assert [w.split()[0] for w in thinned(both, none)] == ["no", "weights"]
    # A failed row has no weight, whatever number stands there; an item of failed rows is said elsewhere.
    failed = none.clone()
    failed[1:, 1] = True
    assert "worth 1 " in thinned(torch.zeros(16, 2), failed)[0]
    assert thinned(heavy(0), torch.ones(1, 2).bool() & torch.tensor([False, True]).expand(16, 2)) == ()
    assert thinned(heavy(0), torch.ones(16, 2).bool()) == ()


def test_uneven_weights_of_a_solve_are_said():
    """Of the second item only: its datum is out of reach of particles that the data do not guide."""
    operator = iv.operators.Mask(mask=torch.ones(1).bool())
    one = iv.priors.GaussianPrior(mean=torch.zeros(1), covariance=torch.eye(1))
    for strategy in (iv.strategies.SMC(num_steps=4), iv.strategies.FPS(num_steps=4)):
        warnings = iv.solve(A, Y, prior(), noise=0.3, num_samples=1, strategy=strategy).warnings
        assert any("a single particle" in w for w in warnings)
    assert iv.solve(A, Y, prior(), noise=0.3, num_samples=8, strategy=iv.strategies.SMC()).warnings == ()
    blind = iv.strategies.MCGDiff(num_steps=10, resample_below=0.0)
    y = torch.tensor([[0.0], [12.0]])
    found = iv.solve(operator, y, one, noise=0.5, num_samples=32, strategy=blind)
    assert float(found.ess[0]) > 10 and float(found.ess[1]) < 1.5
    assert any(w.startswith("weights are uneven: the 32 samples") for w in found.warnings)


def test_an_optimiser_says_what_its_spread_is():
    optimised = iv.solve(A, Y, prior(), noise=0.3, num_samples=2, strategy=iv.strategies.REDDiff(num_steps=20))
    assert (
        optimised.why == "Chosen by the caller. An optimiser: the spread of its answers is not that of the posterior."
    )
    assert (
        iv.solve(A, Y, prior(), noise=0.3, num_samples=2, strategy=iv.strategies.MMPS()).why == "Chosen by the caller."
    )


def test_gradients_do_not_leak():
    layer = torch.nn.Linear(N, N, bias=False)
    net = iv.operators.from_callable(layer, (N,), (N,), kind="linear")
    result = iv.solve(net, Y.clone().requires_grad_(), prior(), noise=0.1, num_samples=3)
    assert not result.samples.requires_grad and not result.chi2.requires_grad
    result.mean.numpy()
    result.check()


class NoSteps(iv.strategies.Strategy):
    def init(self, run):
        return None

    def step(self, run, state, i):
        return state, {}


class NoX(NoSteps):
    num_steps = 1


class Coupled(NoX):
    couples = "samples"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": "no-such-folder/run.ckpt"}, "`checkpoint` must be in a folder that exists"),
        ({"checkpoint": 3}, "`checkpoint` must be a path or an iv.Checkpoint, got int"),
        ({"progress": 1}, "`progress` must be True, False or an iv.progress meter, got int"),
        ({"draws": 3}, r"`draws` must be a function of \(items, samples\)"),
        ({"reproducible": "no"}, "`reproducible` must be True or False"),
        ({"throw": "no"}, "`throw` must be True or False"),
        ({"item_ids": 3}, "`item_ids` must be a sequence of integers or strings"),
        ({"item_ids": "a"}, "`item_ids` must be a sequence of integers or strings"),
        ({"strategy": NoSteps()}, "NoSteps: `num_steps` must be an integer"),
        ({"strategy": NoX()}, r"NoX: `state.x` must be a tensor"),
        ({"strategy": Coupled(), "chunk": 2}, "`chunk` must be left out for Coupled"),
        ({"strategy": Coupled(), "reproducible": True}, "`reproducible` must be False for Coupled"),
    ],
)
def test_options_are_checked_before_any_work(options, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        iv.solve(A, Y, prior(), **({"noise": 0.1, "num_samples": 2} | options))


def test_a_checkpoint_may_be_any_path(tmp_path):
    iv.solve(A, Y, prior(), noise=0.1, num_samples=2, checkpoint=tmp_path / "run.ckpt")
    assert (tmp_path / "run.ckpt").exists()


@pytest.mark.parametrize("answer", ["state", ("state", None), ("state", {}, 1)])
def test_a_step_that_does_not_answer_with_state_and_info_is_named(answer):
    class Half(iv.strategies.Strategy):
        num_steps = 1

        def init(self, run):
            return "state"

        def step(self, run, state, i):
            return answer

    prior = iv.priors.GaussianPrior(torch.zeros(2), torch.eye(2))
    with pytest.raises(iv.errors.InputTypeError, match=r"Half: `step\(\.\.\.\)` must be a state and a mapping"):
        iv.solve(iv.operators.Mask(torch.ones(2, dtype=torch.bool)), torch.ones(2), prior, noise=0.1, strategy=Half())


@pytest.mark.parametrize("noise", [iv.noise.Gaussian, iv.noise.Laplace])
def test_one_noise_level_for_each_item_is_explained(noise):
    A = iv.operators.Mask(torch.ones(4, dtype=torch.bool))
    with pytest.raises(iv.errors.InputError, match=r"One number for each item has shape \(2, 1\)"):
        iv.Problem(A, torch.ones(2, 4), noise=noise(torch.ones(2)))


def test_data_in_other_units_are_said_to_be():
    """Grey levels of 0 to 255 under a prior of 0 to 1; not where the noise is only too small."""
    prior = iv.priors.GaussianPrior(torch.full((8,), 0.5), 0.04 * torch.eye(8))
    for scale, noise, said in ((255.0, 0.02, True), (1.0, 0.02, False)):
        y = scale * torch.linspace(0.1, 0.9, 8)
        result = iv.solve(iv.operators.Matrix(torch.ones(8, 8) / 8), y, prior, noise=noise, num_samples=8)
        assert any("in the units of the prior" in w for w in result.warnings) is said
