"""User code that works in place, or writes into one buffer at every call, gives what the same code in pure form gives."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import invsolve as iv

F64 = torch.float64
S = iv.strategies


def pure(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of N(0, 1)."""
    return x / (1 + sigma**2)


def in_place(x: Tensor, sigma: Tensor) -> Tensor:
    sigma **= 2
    x /= 1 + sigma
    return x


def prior(function: Callable[..., Tensor], n: int = 4) -> iv.priors.Prior:
    return iv.priors.from_denoiser(function, shape=(n,), scale=1.0, dtype=F64)


def test_samples_of_a_denoiser_in_place_have_the_std_of_the_prior():
    x = iv.sample(prior(in_place, 64), num_samples=64).samples
    assert abs(float(x.std()) - 1) < 5 / math.sqrt(2 * x.numel()) + 0.005  # and half a percent for the last level
    assert torch.equal(x, iv.sample(prior(pure, 64), num_samples=64).samples)


STRATEGIES = {
    "MMPS": S.MMPS(num_steps=6),
    "PiGDM": S.PiGDM(num_steps=6),
    "TMPD": S.TMPD(num_steps=6),
    "DPS": S.DPS(num_steps=6),
    "LGD": S.LGD(num_steps=6),
    "DDRM": S.DDRM(num_steps=6),
    "DDNM": S.DDNM(num_steps=6),
    "DiffPIR": S.DiffPIR(num_steps=6),
    "PnPDM": S.PnPDM(num_steps=6),
    "DAPS": S.DAPS(num_steps=3),
    "FunDPS": S.FunDPS(num_steps=6, weight=0.1),
    "DiffusionPDE": S.DiffusionPDE(num_steps=6, weight=0.1),
    "REDDiff": S.REDDiff(num_steps=6),
    "LanPaint": S.LanPaint(num_steps=6),
    "AdaptiveSDE": S.AdaptiveSDE(S.NoGuidance(), rtol=0.5, atol=0.1),
    "DeqParallel": S.DeqParallel(S.NoGuidance(), num_steps=6),
    "SMC": S.SMC(num_steps=6),
    "MCGDiff": S.MCGDiff(num_steps=6),
    "NoiseMCMC": S.NoiseMCMC(chains=64, num_steps=20),
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_every_strategy_takes_a_denoiser_in_place(strategy):
    A = iv.operators.Mask(torch.tensor([True, False, True, True]))
    options = dict(noise=0.3, strategy=strategy, num_samples=8, throw=False)
    y = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=F64)
    one, other = (iv.solve(A, y, prior(f), **options) for f in (pure, in_place))
    assert torch.isfinite(one.samples).all() and torch.equal(one.samples, other.samples)


def double(x: Tensor) -> Tensor:
    return 2 * x


def numpy_in_place(x: Tensor) -> Tensor:
    a = x.numpy()
    a *= 2
    return torch.from_numpy(a)


class Buffered:
    """A simulator that writes every answer into the same memory."""

    def __init__(self) -> None:
        self.out = torch.zeros(0, dtype=F64)

    def __call__(self, x: Tensor) -> Tensor:
        if self.out.shape != x.shape:
            self.out = torch.zeros_like(x)
        self.out[...] = 2 * x
        return self.out


@pytest.mark.parametrize("simulator", [numpy_in_place, Buffered()], ids=["numpy in place", "one buffer"])
def test_black_boxes_may_work_in_place(simulator):
    """y = 2 x + n, prior N(0, 1), noise 1: mean 0.4 y, std 0.2^(1/2), to 5 standard errors of chains that know theirs."""
    y = torch.tensor([1.0, -0.5], dtype=F64)
    gaussian = iv.priors.GaussianPrior(torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    result = {}
    for f in (double, simulator):
        A = iv.operators.from_callable(f, (2,), (2,), kind="black box", dtype=F64)
        strategy = S.NoiseMCMC(chains=256)
        result[f] = iv.solve(A, y, gaussian, noise=1.0, strategy=strategy, num_samples=256)
    assert torch.equal(result[double].samples, result[simulator].samples)
    error = 5 * (float(result[simulator].info["mean_error"].max()) + 1 / 16) * 0.2**0.5
    assert (result[simulator].mean - 0.4 * y).abs().max() < error
    A = iv.operators.from_callable(simulator, (2,), (2,), kind="black box", dtype=F64)
    first, x = A(torch.ones(3, 2, dtype=F64)), torch.zeros(3, 2, dtype=F64)
    A(x)
    assert torch.equal(first, torch.full((3, 2), 2.0, dtype=F64)) and not x.any()


def scaled(x: Tensor) -> Tensor:
    x *= 2
    return x


def test_functions_that_torch_differentiates_may_work_in_place():
    x, v = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.ones(2, 3)
    for options in ({}, {"kind": "linear"}, {"kind": "linear", "adjoint": scaled}):
        A, B = (iv.operators.from_callable(f, (3,), (3,), **options) for f in (double, scaled))
        before = x.clone()
        assert torch.equal(B(x), A(x))
        assert torch.equal(B.vjp(x)[1](v), 2 * v) and torch.equal(B.jvp(x, v)[1], 2 * v)
        assert torch.equal(x, before) and torch.equal(v, torch.ones(2, 3))
        iv.testing.check_operator(B)


@pytest.mark.parametrize("rows", [1, 3])
def test_scipy_operators_may_work_in_place(rows):
    from scipy.sparse.linalg import LinearOperator

    buffer: dict[tuple[int, ...], Any] = {}

    def product(v: Any) -> Any:
        v *= 3
        out = buffer.setdefault(v.shape, v.copy())
        out[...] = v
        return out

    A = iv.operators.from_scipy(
        LinearOperator((4, 4), matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=float)
    )
    x = torch.ones(rows, 4, dtype=F64)
    y = A(x)
    A.adjoint(torch.zeros(rows, 4, dtype=F64))
    assert torch.equal(y, 3 * torch.ones(rows, 4, dtype=F64)) and torch.equal(x, torch.ones(rows, 4, dtype=F64))


def test_physics_of_deepinv_may_work_in_place():
    import deepinv

    class Physics(deepinv.physics.LinearPhysics):
        def A(self, x: Tensor, **_: Any) -> Tensor:
            return x.mul_(2)

        A_adjoint = A

    A = iv.operators.from_deepinv(Physics(), (3, 4), (3, 4))
    x = torch.ones(2, 3, 4)
    assert torch.equal(A(x), 2 * torch.ones(2, 3, 4)) and torch.equal(x, torch.ones(2, 3, 4))
    assert torch.equal(A.adjoint(x), 2 * torch.ones(2, 3, 4)) and torch.equal(x, torch.ones(2, 3, 4))


class Net(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.inplace = nn.SiLU(inplace=inplace), inplace
        self.weight = nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=F64) / 6)

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        if self.inplace:
            time.mul_(2)
            time.div_(2)
        return self.first(z) @ self.weight


PREDICTIONS = {
    "EDM": iv.priors.EDM(),
    "direct": iv.priors.Direct(),
    **{what: iv.priors.Scheduled(what, iv.priors.VP()) for what in ("noise", "score", "signal", "v")},
    "velocity": iv.priors.Scheduled("velocity", iv.priors.Flow()),
}


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
def test_networks_may_begin_with_a_layer_in_place(prediction):
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=F64)
    before = x.clone()
    clean, dirty = (
        iv.priors.from_network(Net(i), prediction, shape=(6,), sigma_range=(0.01, 10.0)) for i in (False, True)
    )
    assert torch.equal(clean.denoise(x, 0.5), dirty.denoise(x, 0.5)) and torch.equal(x, before)
    for one, other in zip(clean.pullback(x, 0.5)[:1], dirty.pullback(x, 0.5)[:1], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(clean.pullback(x, 0.5)[1](x), dirty.pullback(x, 0.5)[1](x)) and torch.equal(x, before)


class OwnOperator(iv.operators.LinearOperator):
    in_shape = out_shape = (4,)

    def _apply(self, x: Tensor) -> Tensor:
        return x.mul_(2)

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.mul_(2)

    def _normal(self, x: Tensor) -> Tensor:
        return x.mul_(4)

    def _vjp(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return x.mul_(2), lambda v: v.mul_(2)

    def _solve_normal(self, rhs: Tensor, *, weight: Any, tau: float, **_: Any) -> Tensor:
        return rhs.div_(4 * weight + tau)


class OwnPrior(iv.priors.Prior):
    shape, mean, scale = (4,), torch.zeros(4, dtype=F64), 1.0

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x.div_(1 + sigma**2)

    def _pullback(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        kept = sigma.clone()
        return x.div_(1 + sigma**2), lambda v: v.div_(1 + kept**2)

    def noise(self, z: Tensor) -> Tensor:
        return z.mul_(1.0)


@dataclass(frozen=True, eq=False)
class OwnNoise(iv.noise.Entrywise):
    """N(0, 0.3^2)."""

    def _log_prob(self, y: Tensor, clean: Tensor) -> Tensor:
        return y.sub_(clean).square_().mul_(-0.5 / 0.09).sub_(math.log(0.3) + 0.5 * math.log(2 * math.pi))

    def _grad(self, y: Tensor, clean: Tensor) -> Tensor:
        return clean.sub_(y).div_(0.09)

    def _information(self, clean: Tensor) -> Tensor:
        return clean.zero_().add_(1 / 0.09)

    def _sample(self, clean: Tensor, normal: Any) -> Tensor:
        return clean.add_(0.3 * normal(clean.dtype))


class OwnGuidance(S.Guidance):
    """That of no data."""

    def bind(self, problem: iv.Problem, prior: iv.priors.Prior) -> OwnBound:
        return OwnBound()


class OwnBound:
    def __call__(self, x: Tensor, t: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return x.div_(1 + t**2), {}

    def take(self, index: Tensor) -> OwnBound:
        return self


def exact() -> iv.priors.Prior:
    return iv.priors.GaussianPrior(torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64))


@pytest.mark.parametrize("strategy", ["MMPS", "DPS", "DiffPIR", "TMPD"])
@pytest.mark.parametrize("which", ["operator", "prior", "noise"])
def test_subclasses_of_users_may_work_in_place(which, strategy):
    A = iv.operators.Matrix(2 * torch.eye(4, dtype=F64))
    y = torch.tensor([1.0, 0.3, -1.0, 0.5], dtype=F64)
    theirs = {"operator": (OwnOperator(), prior(pure), 0.3), "prior": (A, OwnPrior(), 0.3)}
    model = theirs.get(which, (A, prior(pure), OwnNoise()))
    options = dict(strategy=STRATEGIES[strategy], num_samples=4)
    mine = iv.solve(A, y, prior(pure), noise=0.3, **options)
    own = iv.solve(model[0], y, model[1], noise=model[2], **options)
    assert (mine.samples - own.samples).abs().max() < 1e-6  # solved in other ways: to their tolerance
    assert torch.equal(own.problem.data[0], y)
    assert abs(float((mine.chi2 - own.chi2).abs().max())) < 1e-5


def test_compositions_lend_to_their_parts():
    A = iv.operators.Matrix(torch.eye(4, dtype=F64)) @ OwnOperator() @ OwnOperator()
    x = torch.ones(2, 4, dtype=F64)
    assert torch.equal(A(x), 4 * x) and torch.equal(A.adjoint(x), 4 * x) and torch.equal(x, torch.ones_like(x))


@pytest.mark.parametrize(
    "run", [lambda g: S.Guided(g, iv.samplers.Heun(), num_steps=8), lambda g: S.AdaptiveSDE(g, rtol=0.5, atol=0.1)],
    ids=["Guided", "AdaptiveSDE"],
)  # fmt: skip
def test_guidance_of_users_may_work_in_place(run):
    A, y = iv.operators.Mask(torch.tensor([True] * 4)), torch.zeros(4, dtype=F64)
    own, mine = (
        iv.solve(A, y, prior(pure), noise=1.0, strategy=run(g), num_samples=4) for g in (OwnGuidance(), S.NoGuidance())
    )
    assert torch.equal(own.samples, mine.samples)


@dataclass(frozen=True)
class Writing(S.Strategy):
    """Writes into the data at a step, or where it is bound."""

    where: str
    num_steps: int = 2

    def bind(self, problem: iv.Problem, prior: iv.priors.Prior) -> None:
        if self.where == "bind":
            problem.data.sub_(1)

    def init(self, run: S.Run) -> ExactState:
        return ExactState(x=torch.zeros(run.rows, 4, dtype=F64))

    def step(self, run: S.Run, state: ExactState, i: int) -> tuple[ExactState, dict[str, Tensor]]:
        if self.where == "step":
            run.problem.data.sub_(1)
        return state, {}


@dataclass(frozen=True)
class ExactState:
    x: Tensor


@pytest.mark.parametrize("where", ["bind", "step"])
def test_a_strategy_that_writes_into_the_data_is_refused(where):
    A, y = iv.operators.Matrix(torch.eye(4, dtype=F64)), torch.ones(4, dtype=F64)
    with pytest.raises(iv.errors.InputError, match=rf"Writing: `{where}\(\.\.\.\)` must .*, got data changed in place"):
        iv.solve(A, y, exact(), noise=1.0, strategy=Writing(where))
    assert iv.solve(A, y, exact(), noise=1.0, strategy=Writing("nowhere")).status is iv.Status.SUCCESS


def test_functionals_and_spectra_may_work_in_place():
    def peak(x: Tensor) -> Tensor:
        return x.abs_().amax(1)

    A = iv.operators.Matrix(torch.eye(4, dtype=F64))
    reports = [
        iv.calibrate(A, exact(), noise=1.0, strategy=S.Exact(), runs=64, num_samples=15, functionals={"own": f})
        for f in (lambda x: x.abs().amax(1), peak)
    ]
    one, other = (re.sub(r"[\d.]+ s\b", "", str(report)) for report in reports)  # but for the time it took
    assert "own" in reports[0].names and one == other
    field = [
        iv.priors.GaussianFieldPrior((8,), iv.priors.Spectrum(f)).sample(2)
        for f in (lambda k2: 1 / (1 + k2), lambda k2: k2.add_(1).reciprocal_())
    ]
    assert torch.equal(*field)


def test_hooks_keep_their_names_and_inheritance():
    assert OwnOperator._apply.__name__ == "_apply" and OwnOperator._apply is not iv.operators.LinearOperator._apply
    assert OwnPrior().cheap_pullback and not prior(pure).cheap_pullback
    assert dataclasses.is_dataclass(OwnNoise) and OwnNoise().per_item is False


def test_a_dataset_does_not_share_memory_with_its_result():
    A, y = iv.operators.Matrix(torch.eye(4, dtype=F64)), torch.ones(4, dtype=F64)
    result = iv.solve(A, y, exact(), noise=1.0, num_samples=8)
    before, dataset = result.samples.clone(), result.to_xarray()
    for name in ("samples", "mean", "chi2"):
        dataset[name].values[...] = 0
    assert torch.equal(result.samples, before) and result.mean.all() and result.chi2.all()
