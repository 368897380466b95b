"""What surrounds a call does not change its answer: inference mode, autocast, no_grad, default dtype and device.

Each case is run outside, then inside of every state; answers are the same to the bit, of the same dtype and device, and
can be part of a graph. The default device is torch's "meta", whose tensors hold no values: whatever is made there by
accident fails at once.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from operator_cases import CASES as LINEAR
from operator_cases import Numbers
from strategy_cases import MASKED, MIXTURE, NEW, PRIORS_LAW, STRATEGIES, A, N, Y, denoiser, network_prior, numbers
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.core.random import Draws
from invsolve.core.torch_state import Defined

ops = iv.operators
F32, CPU = torch.float32, torch.device("cpu")


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


STATES: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "float64 by default": float64_by_default,
    "another device by default": lambda: torch.device("meta"),
}


def tensors(value: Any) -> list[Tensor]:
    """All tensors of an answer, in order; numbers count."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (bool, int, float)):
        return [torch.tensor(float(value), dtype=torch.float64, device="cpu")]
    if isinstance(value, dict):
        value = [v for k, v in value.items() if k != "seconds"]
    elif is_dataclass(value):
        value = [getattr(value, f.name) for f in fields(value) if f.name != "seconds"]
    return [t for v in value for t in tensors(v)] if isinstance(value, (list, tuple)) else []


def same_everywhere(case: Callable[[], Any], states: tuple[str, ...] = tuple(STATES)) -> None:
    expected = tensors(case())
    assert expected
    for state in states:
        with STATES[state]():
            answer = case()
        found = tensors(answer)
        assert len(found) == len(expected), state
        for a, b in zip(expected, found, strict=True):
            assert (a.dtype, a.device) == (b.dtype, b.device), state
            assert torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan()), state
            assert not b.is_inference(), state


# --- operators -----------------------------------------------------------------------------------------------------
MATRIX = numbers(3, 5)
CURVED: dict[str, Callable[[], ops.Operator]] = {
    "a function": lambda: ops.from_callable(lambda x: torch.tanh(x) @ MATRIX.mT, (5,), (3,)),
    "phase retrieval": lambda: ops.PhaseRetrieval(operator=ops.Matrix(matrix=MATRIX)),
    "saturation": lambda: ops.Saturation(in_shape=(5,), low=-0.5, high=0.8, softness=0.2),
    "nonlinear blur": lambda: ops.NonlinearBlur(ops.Blur(MATRIX[0, :3].abs(), in_shape=(5,)), contrast=1.5),
    "a stack": lambda: ops.NonlinearStack(
        operators=(ops.Matrix(MATRIX), ops.Saturation(in_shape=(5,), high=0.8, softness=0.2))
    ),
    "a chain": lambda: ops.Matrix(MATRIX) @ ops.Saturation(in_shape=(5,), high=0.8, softness=0.2),
}


def single(A: ops.Operator) -> ops.Operator:
    """A new operator in float32, the precision that autocast changes; where it can be."""
    return A if getattr(A, "precision", None) is not None else A.to(dtype=F32)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operators(name):
    draw, rows = Numbers(3), LINEAR[name].batch or 2
    dtype = single(LINEAR[name]).dtype or F32
    x, dx = (draw.signals(LINEAR[name], rows) for _ in range(2))
    x, dx, y = (t.to(dtype.to_complex() if t.is_complex() else dtype) for t in (x, dx, draw.data(LINEAR[name], rows)))

    def case() -> Any:
        A = single(LINEAR[name])
        value, pull = A.vjp(x)
        found = [
            A(x),
            A.adjoint(y),
            A.normal(x),
            A.norm(),
            A.pinv(y, max_iter=5),
            A.solve_normal(x, tau=0.5, max_iter=5),
            value,
            pull(y),
        ]
        return [*found, *A.jvp(x, dx), A.svd(like=y.real).values, iv.testing.dot_test(A, like=y)]

    same_everywhere(case)


@pytest.mark.parametrize("name", CURVED)
def test_curved_operators(name):
    x, dx = numbers(2, 5), numbers(2, 5, seed=1)
    v = numbers(2, *CURVED[name]().out_shape, seed=2)

    def case() -> Any:
        A = CURVED[name]()
        value, pull = A.vjp(x)
        J = A.linearize(x)
        return [A(x), value, pull(v), *A.jvp(x, dx), J(dx), J.adjoint(v), iv.testing.derivative_gap(A, x[0], 1.0)]

    same_everywhere(case)


# --- priors --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NEW)
def test_priors(name):
    shape = NEW[name]().shape
    x, v, y = numbers(3, *shape), numbers(3, *shape, seed=1), numbers(2, *shape, seed=2)
    keep = torch.ones(shape, dtype=torch.bool)

    def case() -> Any:
        prior = NEW[name]()
        value, pull = prior.pullback(x, 0.7)
        found = [prior.mean, prior.scale, prior.denoise(x, 0.7), value, pull(v), *prior.moments(x, 0.7)]
        found.append(prior.sample(2, seed=1))
        if prior.has_transport:
            z, back = prior.transport(x)
            found += [z, back(v), prior.inverse_transport(z)]
        if hasattr(prior, "log_prob"):
            found.append(prior.log_prob(x, 0.5))
        if prior.has_posterior:
            posterior = prior.posterior(ops.Mask(keep), y, 0.5)
            found += [posterior.mean, posterior.std.tolist(), posterior.sample(2), *posterior.evidence()]
        return found

    same_everywhere(case)


# --- noise ---------------------------------------------------------------------------------------------------------
noise = iv.noise
MODELS: dict[str, Callable[[], noise.Noise]] = {
    "Gaussian": lambda: noise.Gaussian(0.4),
    "covariance": lambda: noise.Gaussian(covariance=0.5 * torch.eye(4, device="cpu", dtype=F32)),
    "Poisson": lambda: noise.Poisson(counts_per_unit=7.0, background=0.5),
    "PoissonTransmission": lambda: noise.PoissonTransmission(i0=30.0, background=0.5),
    "Rician": lambda: noise.Rician(std=0.5),
    "Laplace": lambda: noise.Laplace(scale=0.4),
    "Multiplicative": lambda: noise.Multiplicative(std=0.3),
    "Speckle": lambda: noise.Speckle(looks=3.0),
    "SinglePhoton": lambda: noise.SinglePhoton(counts_per_unit=0.5, background=0.1, frames=4),
    "Saturated": lambda: noise.Saturated(std=0.4, low=0.0, high=1.0),
    "Quantised": lambda: noise.Quantised(std=0.3, step=0.5),
}
CLEAN = torch.tensor([[0.03, 0.4, 0.95, 2.5]])


@pytest.mark.parametrize("name", MODELS)
def test_noise_models(name):
    def case() -> Any:
        model = MODELS[name]().check((4,), 1, F32, CPU)
        y = model.sample(CLEAN, Draws.for_rows(0, [0], [0], CPU))
        found = [y, model.log_prob(y, CLEAN), model.grad(y, CLEAN), model.curvature(y, CLEAN), model.residual(y, CLEAN)]
        problem = iv.Problem(ops.Matrix(torch.eye(4, dtype=F32, device="cpu")), y, noise=MODELS[name]())
        return [*found, problem.chi2(CLEAN), problem.log_likelihood(CLEAN), *problem.surrogate(CLEAN)[1:]]

    same_everywhere(case)


# --- solves --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies(name):
    def case() -> Any:
        prior, strategy = STRATEGIES[name]()
        operator = ops.Subsample(torch.tensor([0, 2, 3], device="cpu"), (N,)) if name in MASKED else ops.Matrix(A)
        result = iv.solve(operator, Y, prior, noise=0.4, strategy=strategy, num_samples=5, seed=1)
        return [result.samples, result.mean, result.std, result.chi2, result.info, result.weights]

    same_everywhere(case)


@pytest.mark.parametrize("name", ["MMPS, mixture", "MMPS, network", "SMC", "NoiseMCMC, transport", "DPS"])
def test_strategies_through_a_curved_operator_and_counts(name):
    curved = ops.from_callable(lambda x: torch.exp(x / 3) @ A.abs().mT, (N,), (3,))
    counts = torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 4.0]])

    def case() -> Any:
        prior, strategy = STRATEGIES[name]()
        model = noise.Poisson(counts_per_unit=1.0, background=0.1)
        return iv.solve(curved, counts, prior, noise=model, strategy=strategy, num_samples=5).samples

    same_everywhere(case)


SAMPLERS = [getattr(iv.samplers, n) for n in iv.samplers.__all__ if inspect.isclass(getattr(iv.samplers, n))]
SAMPLERS = [c for c in SAMPLERS if issubclass(c, iv.samplers.Sampler) and c is not iv.samplers.Sampler]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda c: c.__name__)
def test_samplers(sampler):
    def case() -> Any:
        way = ivs.Unconditional(sampler=sampler(), num_steps=4)
        return iv.sample(MIXTURE, num_samples=3, strategy=way).samples

    same_everywhere(case)


@pytest.mark.parametrize("method", ["lattice", "gibbs"])
def test_unknown_scalars(method):
    def case() -> Any:
        how = iv.Hierarchy(method=method, num_sweeps=4) if method == "gibbs" else iv.Hierarchy(method=method)
        unknown = noise.Gaussian(std=iv.LogNormal(median=0.4, factor=2.0))
        result = iv.solve(ops.Matrix(A), Y, PRIORS_LAW, noise=unknown, hierarchy=how, num_samples=4)
        return [result.samples, result.parameters]

    same_everywhere(case)


# --- around a solve ------------------------------------------------------------------------------------------------
RESULT = iv.solve(ops.Matrix(A), Y, MIXTURE, noise=0.4, num_samples=40)


def test_results(tmp_path):
    RESULT.save(tmp_path / "r.nc")

    def case() -> Any:
        r = iv.load_result(tmp_path / "r.nc")
        derived = r.map(lambda x: x @ A.mT)
        return [r.samples, r.mean, r.std, r.quantile(0.5), *r.interval(0.5)[:2], derived.mean, derived.std]

    same_everywhere(case)


def test_checks_and_calibration():
    def case() -> Any:
        report = RESULT.check()
        calibrated = iv.calibrate(ops.Matrix(A), MIXTURE, noise=0.4, strategy=ivs.Exact(), runs=16, num_samples=19)
        return [report, calibrated.to_dict()]

    same_everywhere(case)


def test_densities_and_comparisons():
    def case() -> Any:
        density = iv.log_density(denoiser(), numbers(2, 4), sigma_min=0.3, num_steps=4)
        other = iv.solve(ops.Matrix(A), Y, PRIORS_LAW, noise=0.4, num_samples=8)
        return [density, iv.compare({"a": RESULT, "b": other})]

    same_everywhere(case)


def test_baselines_scores_and_data():
    B, image, truth = ops.Blur(numbers(3).abs(), in_shape=(12,)), numbers(1, 12), Y @ A

    def case() -> Any:
        y = B(image)
        found = [f(B, y) for f in (iv.baselines.zero_filled,)]
        found += [iv.baselines.tikhonov(B, y, weight=0.1), iv.baselines.total_variation(B, y, weight=0.1)]
        scan = iv.datasets.simulate_mri(iv.datasets.t1_slice(), grid=(16, 16), num_coils=2)
        found += [scan.kspace, scan.maps, iv.metrics.nrmse(found[1], image), iv.metrics.crps(RESULT.samples, truth)]
        other = PRIORS_LAW.sample(40, seed=1)
        found.append(iv.posterior_metrics.mmd(RESULT.samples[:, :1], other[:, None]))
        return found

    same_everywhere(case)


def test_weights_are_loaded_and_trained(tmp_path):
    from invsolve.priors.networks import UNetConfig
    from invsolve.priors.training import Options, train

    images = numbers(16, 8, 8)
    small = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=False)

    def case() -> Any:
        options = Options(batch=4, warmup=2, save_every=1e6)
        prior = train(images, network=small, options=options, steps=2)
        shipped = iv.priors.load("head-mr-128")
        return [*prior.network.state_dict().values(), prior.mean, *shipped.network.state_dict().values(), shipped.mean]

    same_everywhere(case, ("inference mode", "float64 by default", "another device by default"))


# --- values --------------------------------------------------------------------------------------------------------
UNIT = ops.Mask(torch.ones(2, dtype=torch.bool))


@pytest.mark.parametrize("state", ["inference mode", "autocast"])
@pytest.mark.parametrize("strategy", [ivs.MMPS(), ivs.SMC(num_steps=20)], ids=["MMPS", "SMC"])
def test_a_posterior_inside_of_inference_mode_and_autocast(strategy, state):
    """N(0, 1) by a denoiser and its derivative, y = (1, -1) with noise 1: N(+-0.5, 0.5); to 5 standard errors."""
    n = 1024
    with STATES[state]():
        prior = iv.priors.from_denoiser(lambda x, s: x / (1 + s**2), shape=(2,), scale=1.0, detail=0.5)
        result = iv.solve(UNIT, torch.tensor([1.0, -1.0]), prior, noise=1.0, strategy=strategy, num_samples=n)
    ess = float(result.ess.min())
    assert (result.mean - torch.tensor([0.5, -0.5])).abs().max() < 5 * (0.5 / ess) ** 0.5 + 0.02  # and discretisation
    assert (result.std / 0.5**0.5 - 1).abs().max() < 5 / (2 * ess) ** 0.5 + 0.02


def test_what_was_made_in_inference_mode_may_be_used_outside():
    """Parameters, data and points: torch refuses to differentiate through them."""
    with torch.inference_mode():
        made = {
            k: v.clone() for k, v in {"A": A, "y": Y, "x": Y @ A, "eye": torch.eye(N), "zero": torch.zeros(N)}.items()
        }
        operator = ops.Matrix(made["A"])
    assert made["x"].is_inference() and not operator.matrix.is_inference()
    operator = ops.Matrix(made["A"])
    prior = iv.priors.GaussianPrior(made["zero"], made["eye"])
    leaf = torch.ones(1, N, requires_grad=True)
    operator(leaf).sum().backward()
    assert torch.equal(leaf.grad[0], A.sum(0))
    curved = ops.from_callable(lambda x: torch.tanh(x), (N,), (N,))
    value, pull = curved.vjp(made["x"])
    assert torch.allclose(pull(torch.ones_like(value)), 1 - value**2, atol=1e-6)
    with torch.inference_mode():  # the map back may be called there
        assert torch.allclose(pull(made["x"]), (1 - value**2) * made["x"], atol=1e-6)
    expected = iv.solve(ops.Matrix(A), Y, iv.priors.GaussianPrior(torch.zeros(N), torch.eye(N)), noise=0.4)
    assert torch.equal(iv.solve(operator, made["y"], prior, noise=0.4).samples, expected.samples)
    assert torch.equal(prior.posterior(operator, made["y"], 0.4).mean, prior.posterior(ops.Matrix(A), Y, 0.4).mean)


def test_gradients_are_recorded_where_the_caller_records_them():
    x = torch.ones(1, 5, requires_grad=True)
    operator = ops.Matrix(MATRIX)
    assert operator(x).requires_grad
    for enter in (torch.no_grad, torch.inference_mode):
        with enter():
            assert not operator(x).requires_grad and not torch.is_grad_enabled()
    with torch.autocast("cpu", torch.bfloat16):
        assert operator(x).requires_grad and torch.is_autocast_enabled("cpu")


def test_code_of_users_may_build_on_the_defaults():
    with float64_by_default():
        operator = ops.from_callable(lambda x: x @ torch.eye(5)[:, :3], (5,), (3,), kind="linear")
        x = torch.ones(1, 5)
        assert x.dtype == torch.float64 and torch.equal(operator.adjoint(operator(x))[0, :3], x[0, :3])


def test_a_network_runs_in_half_precision_only_where_it_says_so():
    x = numbers(2, 4)
    full, half = (network_prior(b).denoise(x, 1.0) for b in (False, True))
    assert 1e-4 < (full - half).abs().max() < 1e-1  # bfloat16 rounds at 4e-3


# --- rules ---------------------------------------------------------------------------------------------------------
ROOT = Path(iv.__file__).parent
FACTORIES = {
    "arange", "as_tensor", "asarray", "empty", "eye", "fft.fftfreq", "fft.rfftfreq", "full", "linspace", "logspace",
    "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "sparse_coo_tensor", "sparse_csr_tensor", "tensor",
    "zeros",
}  # fmt: skip
# Networks are built in `core.torch_state.for_new_weights`; others have the dtype of integers or of their arguments.
BUILT = ("priors/networks/", "priors/formats/")
OF_INTEGERS = {"arange", "randint", "randperm", "sparse_csr_tensor", "tensor", "as_tensor", "full"}


def torch_calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)).startswith("torch."):
            yield name.removeprefix("torch."), node


def undefined(source: str) -> list[str]:
    """Tensors that would have the default dtype or device."""
    found = []
    for name, call in torch_calls(source):
        stated = {k.arg for k in call.keywords}
        if name in FACTORIES and not {"device", *({"dtype"} - ({"dtype"} if name in OF_INTEGERS else set()))} <= stated:
            found.append(ast.unparse(call))
        elif (
            name in FACTORIES
            and "dtype" not in stated
            and any(isinstance(n, ast.Constant) and isinstance(n.value, float) for n in ast.walk(call))
        ):
            found.append(ast.unparse(call))
        elif name == "where" and len(call.args) == 3 and all(map(is_number, call.args[1:])):
            found.append(ast.unparse(call))
    return found


def is_number(node: ast.expr) -> bool:
    node = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(node, ast.Constant) or ast.unparse(node) in ("torch.nan", "torch.inf", "math.nan", "math.inf")


def test_every_tensor_is_made_with_its_own_dtype_and_device():
    assert undefined("torch.zeros(3); torch.tensor([1.0], device=d); torch.where(c, 0.0, torch.nan)") != []
    for source in ("torch.zeros(3)", "torch.zeros(3, device=d)", "torch.tensor([1.0], device=d)", "torch.arange(3)"):
        assert undefined(source), source
    for source in ("torch.zeros(3, dtype=t, device=d)", "torch.tensor(i, device=d)", "torch.where(c, 0.0, x)"):
        assert not undefined(source), source
    wrong = {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(BUILT) and (found := undefined(path.read_text(encoding="utf-8"))):
            wrong[name] = found
    assert wrong == {}


# Functions that make no tensor with values of their own, or whose numbers are float64 all the way.
FREE = {
    "as_noise", "check_grid", "cite", "custom_grid", "ddpm_grid", "karras_grid", "log_grid",
    "Poisson", "open_fields", "shipped", "to_deepinv", "to_scipy", "tolerance", "vp_grid",
}  # fmt: skip
FACES = [iv, iv.noise, iv.operators, iv.priors, iv.samplers, iv.strategies, iv.testing, iv.datasets]
FACES += [iv.metrics, iv.posterior_metrics, iv.baselines]
TENSORS = (ops.Operator, ops.Spectrum, iv.priors.Prior, iv.priors.GaussianLaw, iv.priors.Modes, noise.Noise, iv.Problem)
TENSORS += (iv.Result, iv.Distribution, iv.samplers.Sampler, ivs.Strategy, ivs.Guidance, iv.datasets.MRIScan)


def public_functions(face: Any) -> dict[str, Any]:
    names = getattr(
        face, "__all__", [n for n, f in vars(face).items() if getattr(f, "__module__", "") == face.__name__]
    )
    return {n: f for n in names if inspect.isfunction(f := getattr(face, n)) and not n.startswith("_")}


def test_public_calls_run_in_the_defined_state():
    every = {n: f for face in FACES for n, f in public_functions(face).items()}
    assert {n for n, f in every.items() if f.__code__.co_name != "defined"} == FREE
    assert [cls for cls in TENSORS if not issubclass(cls, Defined)] == []


def test_subclasses_of_users_run_in_the_defined_state():
    class Mine(ops.Operator):
        in_shape, out_shape = (2,), (2,)

        def _apply(self, x: Tensor) -> Tensor:
            return x.exp()

        def twice(self, x: Tensor) -> bool:
            return torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu")

        @staticmethod
        def still(x: Tensor) -> bool:
            return torch.is_inference_mode_enabled()

        @classmethod
        def kind(cls) -> bool:
            return torch.is_inference_mode_enabled() or cls is not Mine

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        x = torch.zeros(1, 2)
        assert not Mine().twice(x) and not Mine.still(x) and not Mine.kind()
        assert torch.equal(Mine().vjp(x)[1](x + 1), torch.ones(1, 2))
