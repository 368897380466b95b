"""Chains that go on until their errors are small enough, and trajectories that fly off."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError
from invsolve.solving.solver import StrategySolver
from invsolve.strategies import NoiseMCMC
from invsolve.strategies.mcmc.convergence import chain_statistics
from invsolve.strategies.mcmc.recording import halves, lengthened

D = torch.float64
N = 6
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=torch.eye(N, dtype=D))
A = iv.operators.Matrix(matrix=torch.tril(torch.ones(N, N, dtype=D)) / 2)
Y = torch.linspace(-1, 2, N, dtype=D)
FEW = {"chains": 32, "islands": 4, "rounds": 4}


def test_rounds_are_doubled_until_the_errors_are_small():
    short, long = (
        iv.solve(A, Y, PRIOR, noise=0.3, strategy=NoiseMCMC(**FEW, target=t), num_samples=64) for t in (0, 0.06)
    )
    exact = PRIOR.posterior(A, Y, noise=0.3)
    assert short.info["mean_error"][0] > 0.06 >= long.info["mean_error"][0]
    assert long.info["std_error"][0] <= 0.06 and long.info["moves"][0] > 1.5 * short.info["moves"][0]
    # 64 samples of chains whose distribution is known to `mean_error`
    bound = 5 * (64**-0.5 + float(long.info["mean_error"][0]))
    assert float(((long.mean - exact.mean) / exact.std).abs().max()) < bound
    assert len({tuple(x) for x in long.samples.tolist()}) == 64  # none is taken twice


@pytest.mark.parametrize("step", range(60, 100, 7))
def test_stopped_at_any_move_the_errors_are_those_of_what_was_recorded(step):
    """Whatever part of the second half is there; bitwise the run that was not stopped, up to there."""
    left = [step]

    def over(*_):
        left[0] -= 1
        return left[0] < 0

    solver = StrategySolver(prior=PRIOR, strategy=NoiseMCMC(**FEW, target=0.04), over=over)
    result = solver.draw(iv.Problem(A, Y, noise=0.3), num_samples=32, seed=0)
    exact = PRIOR.posterior(A, Y, noise=0.3)
    error = float(result.info["mean_error"][0])
    assert 0.02 < error < 0.3 and float(result.info["moves"][0]) == step + 1
    assert float(((result.mean - exact.mean) / exact.std).abs().max()) < 5 * (32**-0.5 + error)


class Sums:
    """What `lengthened` reads of a state: sums of independent rounds."""

    def __init__(self, done, rounds, values):
        self.done, self.rounds = torch.tensor([float(done)], dtype=D), torch.tensor([float(rounds)], dtype=D)
        first, late = (int(v) for v in halves(self, 4))
        self.first, self.second = values[:, :, :first].sum(2), values[:, :, first : first + late].sum(2)
        self.square = values[:, :, : first + late].square().sum(2)


@pytest.mark.parametrize(
    ("done", "rounds", "found"),
    [(4, 4, (2, 2)), (4, 8, (2, 2)), (5, 8, (4, 1)), (8, 8, (4, 4)), (8, 16, (4, 4)), (9, 16, (8, 1)), (2, 4, (2, 2))],
)
def test_halves_are_merged_with_the_first_round_after_a_doubling(done, rounds, found):
    values = torch.randn(1, 64, 16, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    state = Sums(done, rounds, values)
    assert tuple(int(v) for v in halves(state, 4)) == found
    statistics = chain_statistics(
        state.first, state.second, state.square, torch.zeros(1, 4, dtype=D), *halves(state, 4)
    )
    # Independent draws: the error of a mean, the worst of three, with Student's factor for four islands.
    expected = (64 * sum(found)) ** -0.5
    assert 0.5 < float(statistics["mean_error"] / expected) < 5


def test_what_more_rounds_do_not_mend_is_left_alone():
    """Islands that disagree by stds, however long they run; errors that are not known; and what is good enough."""
    from invsolve.strategies.mcmc.state import NoiseMCMCState

    values = torch.randn(3, 64, 4, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    values[0] += 2 * torch.arange(4).repeat_interleave(16)[:, None, None]
    values[1] = math.nan
    empty = torch.zeros(3, 1, dtype=D)
    fields = dict.fromkeys(NoiseMCMCState.__dataclass_fields__, empty) | {
        "first": values[:, :, :2].sum(2),
        "second": values[:, :, 2:].sum(2),
        "square": values.square().sum(2),
        "log_evidence": torch.zeros(3, 4, dtype=D),
        "done": torch.full((3,), 4.0, dtype=D),
        "rounds": torch.full((3,), 4.0, dtype=D),
    }
    state = NoiseMCMCState(**fields)
    assert lengthened(state, 4, 0.02).rounds.tolist() == [4, 4, 8]
    assert lengthened(state, 4, 5.0).rounds.tolist() == [4, 4, 4]
    assert lengthened(state, 4, 1e-3).rounds.tolist() == [4, 4, 4]  # would take thousands


def test_the_target_is_checked():
    with pytest.raises(InputError, match="NoiseMCMC: `target` must be at least 0, got -1"):
        NoiseMCMC(target=-1)


def test_a_trajectory_that_flies_off_is_not_shown_to_the_simulator():
    """Curved so much that steps overshoot: once the simulator was called with 1e38 and infinity."""
    matrix = torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=D)
    farthest = [0.0]

    def simulator(x):
        farthest[0] = max(farthest[0], float(x.detach().abs().max()))
        return torch.exp(x @ matrix.mT)

    curved = iv.operators.from_callable(simulator, (16,), (16,))
    prior = iv.priors.GaussianPrior(mean=torch.zeros(16, dtype=D), covariance=torch.eye(16, dtype=D))
    y = curved(prior.sample(1, seed=1))[0]
    iv.solve(curved, y, prior, noise=1.0, strategy=NoiseMCMC(**FEW), num_samples=4)
    # N(0, 1) in 16 dimensions: half a squared distance of 8, a momentum of 8, what the likelihoods of the chains differ
    # by at most, and 1,000.
    assert farthest[0] < 100


@pytest.mark.parametrize(("noise", "kernel"), [(0.1, "hmc"), (0.01, "pcn")])
def test_meters_know_about_how_much_is_done(noise, kernel):
    """Powers that rise by orders of magnitude: a meter that counted moves would show a tenth of 1,000 at the end."""
    shown = []

    class Meter(iv.progress.Progress):
        def init(self, total):
            pass

        def step(self, done, total):
            shown.append(done / total)

        def close(self):
            pass

    curved = iv.operators.from_callable(lambda x: x + 0.3 * x.roll(1, -1) ** 2, (N,), (N,))
    y = curved(PRIOR.sample(1, seed=1))[0]
    iv.solve(
        curved, y, PRIOR, noise=noise, strategy=NoiseMCMC(chains=128, kernel=kernel), num_samples=4, progress=Meter()
    )
    away = [abs(share - (k + 1) / len(shown)) for k, share in enumerate(shown)]
    assert max(away) < 0.25 and shown[-1] > 0.9
