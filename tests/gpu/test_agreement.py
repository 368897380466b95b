"""A GPU gives the answers of the CPU: every operator, prior, noise model, sampler, strategy, and training.

The cases are those of the contracts (`tests/shared/`). Each is computed on the CPU, and on another device: a GPU where
there is one (`gpu`), and everywhere the pretended device of `tests/shared/pretended.py`, which refuses what mixes devices
and rounds otherwise. So the tests themselves are tested where no GPU is.

**Tolerance.** How far roundings reach is measured: the case is computed on the pretended device, every result of
arithmetic off by up to two units in its last place, of the precision that it is computed in. What that changes, the
largest over the entries of a tensor, times `FACTOR`, is allowed; a device may add up in another order.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pretended
import pytest
import torch
from curved_cases import CASES as CURVED
from noise_cases import MODELS
from operator_cases import CASES as LINEAR
from operator_cases import KINDS, Numbers
from sampler_cases import ALL as SAMPLERS
from strategy_cases import MASKED, MIXTURE, NEW, PRIORS_LAW, STRATEGIES, WALKS, A, N, Y, network_prior, numbers
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.core.random import Draws

ops = iv.operators
F32, F64, CPU = torch.float32, torch.float64, torch.device("cpu")
FACTOR = 20
Case = Callable[[torch.device, torch.dtype], Any]


class Machine:
    """A device, and what it is entered with."""

    def __init__(self, device: torch.device, enter: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self.device, self.enter = device, enter
        self.seeds = (1,) if device == pretended.DEVICE else (1, 2)  # of the runs that show how far roundings reach

    def __call__(self, case: Case, dtype: torch.dtype) -> list[Tensor]:
        with self.enter():
            found = tensors(case(self.device, dtype))
            assert {t.device.type for t in found} <= {self.device.type, "cpu"}
            return [t.detach().cpu() for t in found]


def tensors(value: Any) -> list[Tensor]:
    """All tensors of floating point of an answer, in order; numbers count."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() or value.is_complex() else [value.double()]
    if isinstance(value, (bool, int, float)):
        return [torch.tensor(float(value), dtype=F64)]
    if isinstance(value, dict):
        value = [v for k, v in value.items() if k != "seconds"]
    elif is_dataclass(value):
        value = [getattr(value, f.name) for f in fields(value) if f.name != "seconds"]
    return [t for v in value for t in tensors(v)] if isinstance(value, (list, tuple)) else []


def host() -> Machine:
    return Machine(CPU, contextlib.nullcontext)


def pretending(seed: int) -> Machine:
    return Machine(pretended.DEVICE, lambda: pretended.pretended(seed))


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Without TensorFloat-32, which torch allows convolutions on a GPU by default: it keeps 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(params=[pytest.param("pretended", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest) -> Machine:
    return pretending(3) if request.param == "pretended" else Machine(torch.device("cuda", 0), whole_float32)


def finite(a: Tensor) -> Tensor:
    return torch.view_as_real(a.resolve_conj()).double() if a.is_complex() else a.double()


def agree(
    case: Case, machine: Machine, dtypes: tuple[torch.dtype, ...] = (F32, F64), seeds: tuple[int, ...] = ()
) -> None:
    if machine.device == pretended.DEVICE:
        dtypes = dtypes[-1:]  # the tighter one: half the time
    for dtype in dtypes:
        expected = host()(case, dtype)
        assert expected
        spread = [pretending(seed)(case, dtype) for seed in seeds or machine.seeds]
        found = machine(case, dtype)
        expected = expected[: len(found)]
        for i, (a, b) in enumerate(zip(expected, found, strict=True)):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), i
            a64, b64, others = finite(a), finite(b), [finite(s[i]) for s in spread]
            assert torch.equal(a64.isfinite(), b64.isfinite()), i
            a64, b64, others = (v.nan_to_num(0.0, 0.0, 0.0) for v in (a64, b64, torch.stack(others)))
            if a64.numel():
                last = torch.finfo(a.dtype).eps * float(a64.abs().max())
                reach = FACTOR * (float((others - a64).abs().max()) + last)
                assert float((a64 - b64).abs().max()) <= reach, (i, dtype)


# --- operators -----------------------------------------------------------------------------------------------------
def cast(value: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return value.to(device, dtype.to_complex() if value.is_complex() else dtype)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators(name, machine):
    A, draw = LINEAR[name], Numbers(3)
    if machine.device == pretended.DEVICE and ("sparse" in name or isinstance(A, iv.operators.NonCartesianMRI)):
        pytest.skip("sparse matrices cannot be wrapped: they have no strides")
    rows = A.batch or 2
    x, dx, y = draw.signals(A, rows), draw.signals(A, rows), draw.data(A, rows)

    def case(device, dtype):
        B = A.to(device, dtype)
        u, du, v = (cast(t, dtype, device) for t in (x, dx, y))
        value, pull = B.vjp(u)
        found = [B(u), B.adjoint(v), B.normal(u), value, pull(v), *B.jvp(u, du), B.norm()]
        # Two steps: where conjugate gradients have converged, a rounding decides whether they take one more.
        found += [B.solve_normal(u, tau=0.5, max_iter=2), B.pinv(v, max_iter=2), B.svd(like=v.real).values]
        return [*found, B.linearize(u)(du)]

    agree(case, machine)


@pytest.mark.parametrize("name", CURVED)
def test_curved_operators(name, machine):
    A, draw = CURVED[name], Numbers(3)
    rows = A.batch or 2
    x, dx = draw.signals(A, rows), draw.signals(A, rows)
    y = draw.randn(rows, *A.out_shape, dtype=KINDS[A.out_kind])

    def case(device, dtype):
        B = A.to(device, dtype)
        u, du, v = (cast(t, dtype, device) for t in (x, dx, y))
        value, pull = B.vjp(u)
        J = B.linearize(u)
        # Forward mode ends torch on subclasses: on a real device only.
        forward = [] if device.type == "meta" else [*B.jvp(u, du), J(du)]
        return [B(u), value, pull(v), J.adjoint(v), *forward]

    agree(case, machine)


# --- priors --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NEW)
def test_priors(name, machine):
    shape = NEW[name]().shape
    x, v, y = numbers(3, *shape), numbers(3, *shape, seed=1), numbers(2, *shape, seed=2)

    def case(device, dtype):
        prior = NEW[name]().to(device, dtype)
        at, along, data = (t.to(device, dtype) for t in (x, v, y))
        value, pull = prior.pullback(at, 0.7)
        found = [prior.mean, prior.scale, prior.denoise(at, 0.7), value, pull(along), *prior.moments(at, 0.7)]
        found.append(prior.sample(2, seed=1))
        if prior.has_transport:
            z, back = prior.transport(at)
            found += [z, back(along), prior.inverse_transport(z)]
        if hasattr(prior, "log_prob"):
            found.append(prior.log_prob(at, 0.5))
        if prior.has_posterior:
            keep = torch.ones(shape, dtype=torch.bool, device=device)
            posterior = prior.posterior(ops.Mask(keep), data, 0.5)
            found += [posterior.mean, posterior.std, posterior.sample(2), *posterior.evidence()]
        return found

    agree(case, machine)


# --- noise ---------------------------------------------------------------------------------------------------------
GAUSSIAN = {
    "Gaussian": iv.noise.Gaussian(0.4),
    "Gaussian, a std each": iv.noise.Gaussian(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)),
    "Gaussian, covariance": iv.noise.Gaussian(covariance=0.5 * torch.eye(4, dtype=F64) + 0.1),
}
CLEAN = torch.tensor([[0.03, 0.4, 0.95, 2.5], [0.2, 0.3, 0.4, 0.5]], dtype=F64)


@pytest.mark.parametrize("name", [*GAUSSIAN, *MODELS])
def test_noise_models(name, machine):
    def case(device, dtype):
        model = (GAUSSIAN | MODELS)[name].check((4,), 2, dtype, device)
        clean = CLEAN.to(device, dtype)
        y = model.sample(clean, Draws.for_rows(0, [0, 1], [0, 0], device))
        found = [y, model.log_prob(y, clean), model.grad(y, clean), model.curvature(y, clean)]
        found += [model.residual(y, clean), *model.expansion(y, clean)]
        problem = iv.Problem(ops.Matrix(torch.eye(4, dtype=dtype, device=device)), y, noise=(GAUSSIAN | MODELS)[name])
        return [*found, problem.chi2(clean), problem.log_likelihood(clean), *problem.surrogate(clean)[1:]]

    agree(case, machine)


# --- samplers and strategies: one seed, the same samples -------------------------------------------------------------
def answers(result: iv.Result) -> list[Any]:
    return [result.samples, result.mean, result.std, result.chi2, result.weights, result.ess]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_samplers(sampler, machine):
    def case(device, dtype):
        way = ivs.Unconditional(sampler=sampler, num_steps=4)
        return iv.sample(MIXTURE.to(device, dtype), num_samples=3, strategy=way).samples

    agree(case, machine)


@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name, machine):
    def case(device, dtype):
        prior, strategy = STRATEGIES[name]()
        operator = ops.Subsample(torch.tensor([0, 2, 3]), (N,)) if name in MASKED else ops.Matrix(A)
        problem = iv.Problem(operator, Y, noise=0.4).to(device, dtype)
        result = iv.solve(problem, prior.to(device, dtype), strategy=strategy, num_samples=5, seed=1)
        assert result.samples.device.type == device.type and result.samples.dtype == dtype
        return answers(result)

    agree(case, machine)


def test_the_list_of_strategies_is_complete():
    listed = {type(s) for _, s in (make() for make in STRATEGIES.values())}
    kinds = {type(s.guidance) for _, s in (make() for make in STRATEGIES.values()) if isinstance(s, ivs.Guided)}
    public = [getattr(ivs, name) for name in ivs.__all__]
    classes = [c for c in public if isinstance(c, type)]
    named = {type(s) for s in WALKS.values()}
    assert named <= listed
    bases = {ivs.Strategy, ivs.Guided, ivs.Advised}
    assert {c for c in classes if issubclass(c, ivs.Strategy)} - listed - bases - _COMBINATIONS == set()
    assert {c for c in classes if issubclass(c, ivs.Guidance)} - kinds - {ivs.Guidance, ivs.NoGuidance} == set()


_COMBINATIONS = {ivs.MMPS, ivs.TMPD, ivs.PiGDM, ivs.Unconditional}  # calling them gives a `Guided`


@pytest.mark.parametrize("name", ["MMPS, mixture", "MMPS, network", "SMC", "NoiseMCMC, transport", "DPS"])
def test_a_curved_operator_and_counts(name, machine):
    counts, matrix = torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 4.0]]), A.abs()

    class Bent(ops.Operator):
        in_shape, out_shape = (N,), (3,)

        def _apply(self, x: Tensor) -> Tensor:
            return torch.exp(x / 3) @ matrix.to(x).mT

        def _jvp(self, x: Tensor, dx: Tensor) -> tuple[Tensor, Tensor]:  # forward mode ends torch on subclasses
            return self._apply(x), (torch.exp(x / 3) * dx / 3) @ matrix.to(x).mT

    def case(device, dtype):
        prior, strategy = STRATEGIES[name]()
        problem = iv.Problem(
            Bent(), counts.to(device, dtype), noise=iv.noise.Poisson(counts_per_unit=1.0, background=0.1)
        )
        return answers(iv.solve(problem, prior.to(device, dtype), strategy=strategy, num_samples=5))

    agree(case, machine)


@pytest.mark.parametrize("method", ["lattice", "gibbs"])
def test_unknown_scalars(method, machine):
    def case(device, dtype):
        how = iv.Hierarchy(method=method, num_sweeps=4) if method == "gibbs" else iv.Hierarchy(method=method)
        unknown = iv.noise.Gaussian(std=iv.LogNormal(median=0.4, factor=2.0))
        operator, y = ops.Matrix(A).to(device, dtype), Y.to(device, dtype)
        result = iv.solve(operator, y, PRIORS_LAW.to(device, dtype), noise=unknown, hierarchy=how, num_samples=4)
        scalar = result["noise.std"]
        return [
            result.samples,
            scalar.samples,
            scalar.mean,
            scalar.std,
            *scalar.interval(0.5)[:2],
            result.mean,
            result.std,
        ]

    agree(case, machine)


# --- the main job: coils, a U-Net ------------------------------------------------------------------------------------
SIDE = 8  # 128 numbers a signal: longer rows are drawn by another generator on a CPU (`core/random.py`)


def scanned(device: torch.device, dtype: torch.dtype) -> iv.Problem:
    rng = torch.Generator().manual_seed(2)
    maps = torch.randn(3, SIDE, SIDE, dtype=torch.complex128, generator=rng) / 2
    operator = ops.MRI(mask=(torch.arange(SIDE) % 3 != 1)[None], in_shape=(SIDE, SIDE), maps=maps)
    y = operator(torch.randn(2, SIDE, SIDE, dtype=torch.complex128, generator=rng))
    return iv.Problem(operator, y, noise=0.1).to(device, dtype)


def unet(device: torch.device, dtype: torch.dtype) -> iv.priors.NetworkPrior:
    from invsolve.priors.networks import UNet, UNetConfig

    rng = torch.Generator().manual_seed(0)
    net = UNet(UNetConfig(channels=2, width=8, multipliers=(1, 2), blocks=1)).eval()
    for p in net.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    shape, spectrum = (SIDE, SIDE), iv.priors.Matern(std=1.0, length=0.2)
    law = iv.priors.GaussianFieldPrior(shape=shape, spectrum=spectrum, basis="periodic", kind="complex").law
    made = iv.priors.NetworkPrior(
        network=net, shape=shape, kind="complex", scale=3.0, sigma_range=(0.01, 50.0), law=law
    )
    return made.to(device, dtype)


MAIN = {
    "MMPS": ivs.MMPS(num_steps=4),
    "MMPS, law": ivs.MMPS(covariance="law", num_steps=4),
    "PiGDM": ivs.PiGDM(num_steps=4),
    "TMPD": ivs.TMPD(num_steps=4),
    "DPS": ivs.DPS(num_steps=4),
}


@pytest.mark.parametrize("name", MAIN)
def test_mri_with_a_network(name, machine):
    def case(device, dtype):
        problem, prior = scanned(device, dtype), unet(device, dtype)
        return answers(iv.solve(problem, prior, strategy=MAIN[name], num_samples=2, throw=False))

    agree(case, machine)


def test_mri_with_a_field(machine):
    def case(device, dtype):
        field = iv.priors.GaussianFieldPrior((SIDE, SIDE), iv.priors.Matern(std=1.0, length=0.2), kind="complex")
        return answers(iv.solve(scanned(device, dtype), field.to(device, dtype), num_samples=2))

    agree(case, machine)


def test_a_half_precision_network_is_wide_around_it(machine):
    """Autocast inside of the network; what is around it keeps the precision of the data."""

    def case(device, dtype):
        return iv.sample(
            network_prior(True).to(device, dtype), num_samples=2, strategy=ivs.Unconditional(num_steps=3)
        ).samples

    agree(case, machine, (F64,))


# --- training --------------------------------------------------------------------------------------------------------
def test_training(machine):
    from invsolve.priors.networks import UNetConfig
    from invsolve.priors.training import Options, train

    images = numbers(16, 8, 8)
    small = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=False)

    def case(device, dtype):
        options = Options(batch=4, warmup=2, save_every=1e6)
        prior = train(images, network=small, options=options, steps=3, device=device)
        return [*prior.network.state_dict().values(), prior.mean]

    # Adam divides gradients by their size: of small ones roundings count by chance, which one run does not show.
    agree(case, machine, (F32,), seeds=(1, 2, 4, 5))
