"""The five benchmarks on fields from a few sensors."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.problems.equations import EQUATIONS, BetweenWalls, WithStart
from invsolve.testing import check_operator

D = torch.float64
MAKE = {name: getattr(iv.problems, name) for name in EQUATIONS}


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_case_is_whole_and_of_its_seed_alone(name):
    case, again, other = (MAKE[name](12, sensors=5, seed=seed) for seed in (3, 3, 4))
    for one in (case, again):
        assert torch.equal(one.truth, case.truth)
        assert torch.equal(one.problem.data, case.problem.data)
    assert not torch.equal(other.truth, case.truth)
    assert "2406.17763" in repr(case)
    # other draws, of the same seed too
    truths, problem = case.simulate(8, seed=3)
    assert truths.shape == (8, *case.truth.shape)
    assert min(float((truth - case.truth).abs().max()) for truth in truths) > 0.01
    # the noise has the std that is said: relative to the data, and in the data
    A, std = case.problem.operator, float(case.problem.noise.std)
    assert std == pytest.approx(0.01 * float(A(case.truth[None]).square().mean().sqrt()))
    left = ((problem.data - A(truths)) / std).square()
    assert float(left.mean()) == pytest.approx(1, abs=4.5 * (2 / left.numel()) ** 0.5)
    left = ((case.problem.data - A(case.truth[None])) / std).square().sum()
    assert 1e-3 < float(left) / case.problem.data.numel() < 10


@pytest.mark.parametrize("name", EQUATIONS)
def test_single_precision(name):
    case = MAKE[name](8, sensors=4, dtype=torch.float32)
    assert case.truth.dtype == case.problem.data.dtype == torch.float32
    assert case.prior.dtype == torch.float32


def std_of(prior):
    """Of a point, on average over the box."""
    prior = getattr(prior, "base", prior)
    return math.sqrt(float(prior.law.variances.sum()) / math.prod(prior.shape))


@pytest.mark.parametrize(
    ("name", "std"), [("darcy", 0.29208), ("poisson", 0.29208), ("helmholtz", 0.29208), ("navier_stokes", 0.26196)]
)
def test_fields_have_the_published_std(name, std):
    prior = EQUATIONS[name](128, D).prior
    assert std_of(prior) == pytest.approx(std, abs=1e-5)
    # the same law on coarser grids, but for their missing waves
    assert std_of(EQUATIONS[name](32, D).prior) == pytest.approx(std, rel=2e-3)


def test_burgers_starts_with_the_published_modes():
    k = torch.arange(1, 65, dtype=D)
    wanted = 49.0**2 * ((2 * math.pi * k) ** 2 + 49) ** -2.5  # each of a sine and a cosine of mean square 1
    assert std_of(EQUATIONS["burgers"](256, D).prior) == pytest.approx(float(2 * wanted.sum()) ** 0.5, rel=1e-9)


@pytest.mark.parametrize(("name", "square"), [("poisson", 0.0), ("helmholtz", 1.0)])
def test_five_points_solve_for_the_source(name, square):
    made = EQUATIONS[name](9, D)
    f = made.prior.sample(2, seed=0)
    u = made.solution(f)
    rim = torch.ones(9, 9, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert not u[:, rim].any()
    laplacian = (u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2] - 4 * u[:, 1:-1, 1:-1]) * 64
    assert torch.allclose(laplacian + square * u[:, 1:-1, 1:-1], f[:, 1:-1, 1:-1], rtol=0, atol=1e-12)
    assert bool(f[:, rim].any()) == (name == "poisson")  # Helmholtz has a source of 0 there


def test_darcy_is_positive_and_settles_with_the_grid():
    blocks = EQUATIONS["darcy"](8, D).prior.sample(2, seed=1)
    assert blocks.unique().tolist() == [3.0, 12.0]
    seen = []
    for many in (2, 4, 8):
        u = EQUATIONS["darcy"](8 * many, D).solution(blocks.repeat_interleave(many, 1).repeat_interleave(many, 2))
        assert float(u.min()) > 0
        seen.append(u.view(2, 8, many, 8, many).mean((2, 4)))
    first, second = (float((a - b).norm() / seen[2].norm()) for a, b in zip(seen[:-1], seen[1:], strict=True))
    assert second < first / 1.5  # between 1 and 2 orders, as corners of media have it
    assert second < 0.01


def test_states_do_not_depend_on_the_grid():
    fields = []
    for n in (32, 64):
        grid = iv.CartesianGrid((n, n), points="periodic")
        y, x = grid.mesh()
        w = torch.sin(2 * math.pi * x) * torch.cos(2 * math.pi * y) + 0.3 * torch.cos(4 * math.pi * (x - y))
        out = EQUATIONS["navier_stokes"](n, D).solution(w[None])
        assert torch.equal(out[0, 0], w)
        fields.append(out[..., :: n // 32, :: n // 32])
    assert torch.allclose(*fields, rtol=0, atol=1e-5)
    case = iv.problems.navier_stokes(16, sensors=256)  # all points, in their order
    u = EQUATIONS["navier_stokes"](16, D).solution(case.truth[None])[0, -1]
    assert torch.allclose(case.problem.operator(case.truth[None])[0], u.flatten(), rtol=0, atol=1e-6)


def test_operators_keep_their_contract():
    check_operator(BetweenWalls(inner=iv.operators.pde.Poisson(iv.CartesianGrid((3, 4), points="interior"))))
    inner = iv.operators.pde.Burgers(iv.CartesianGrid((5,), points="periodic"), viscosity=0.1, times=(0.1, 0.2), dt=0.1)
    check_operator(WithStart(inner=inner))


def test_a_case_is_solved():
    case = iv.problems.helmholtz(16, sensors=60, noise=1e-3)
    result = iv.solve(case.problem, case.prior, num_samples=19)
    assert not result.samples[..., 0, :].any()
    error = (result.mean - case.truth).square().mean()
    assert float(error) < 0.5 * float(case.truth.square().mean())
    assert "mean" in result.exact_statistics


@pytest.mark.parametrize("name", EQUATIONS)
def test_what_cannot_be_is_refused(name):
    make = MAKE[name]
    points = 8 if name == "burgers" else 64
    for given, error, message in (
        ({"resolution": 3}, InputError, "`resolution` must be"),
        ({"sensors": 0}, InputError, "`sensors` must be"),
        ({"sensors": points + 1}, InputError, f"at most {points}, the points"),
        ({"noise": 0.0}, InputError, "`noise` must be"),
        ({"seed": 0.5}, InputTypeError, "`seed` must be"),
        ({"dtype": torch.int64}, InputTypeError, "float32 or torch.float64"),
    ):
        with pytest.raises(error, match=f"{name}: .*{message}" if not message.startswith("`") else message):
            make(**({"resolution": 8} | given))


@pytest.mark.parametrize(("name", "stds"), [("poisson", (0.29195, 4.175e-3)), ("helmholtz", (0.28445, 4.280e-3))])
def test_draws_have_the_statistics_of_the_published_data(name, stds):
    made = EQUATIONS[name](64, D)
    x = made.prior.sample(200, seed=5)
    for values, std in zip((x, made.solution(x)), stds, strict=True):
        square = values.square().flatten(1).mean(1)
        # theirs: of data on 128 x 128 nodes, whose rim of zeros is half as large a share
        rim = 0.01 if name == "helmholtz" or values is not x else 0.0
        assert float(square.mean().sqrt()) == pytest.approx(
            std, rel=4.5 * float(square.std() / square.mean()) / 2 / len(x) ** 0.5 + rim
        )
