"""What keeps a step cheap: nothing is read back or copied in the loop, and the benchmark's loops do one arithmetic."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
from _loops import ClosedStub, Stub, autograd, by_hand, closed, in_place
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import invsolve as iv
from invsolve.core.random import Draws
from invsolve.priors import NetworkPrior
from invsolve.priors.networks import UNet, UNetConfig
from invsolve.strategies import Guided, NoGuidance, Run

F64 = torch.float64
ITEMS, SIDE = 3, 10  # 100 numbers a row: the long rows of `Draws`
NOISE = 0.1
aten = torch.ops.aten


def mask(items: int | None = None) -> Tensor:
    shape = (SIDE, SIDE) if items is None else (items, SIDE, SIDE)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5


def data(dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(ITEMS, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=dtype) * mask()


# --- the loops of benchmarks/overhead.py do what solve does ----------------------------------------------------------
@pytest.mark.parametrize("loop", [by_hand, in_place])
@pytest.mark.parametrize(("stub", "pullback"), [(Stub, autograd), (ClosedStub, closed)])
def test_the_hand_written_loops_are_pigdm_with_ancestral_steps(loop, stub, pullback):
    grid, y = iv.samplers.log_grid(10.0, 0.01, 12), data()
    strategy = iv.strategies.PiGDM(sampler=iv.samplers.Ancestral(), grid=grid)
    result = iv.solve(
        iv.operators.Mask(mask=mask()),
        y,
        stub(mean=torch.zeros(SIDE, SIDE, dtype=F64)),
        noise=NOISE,
        strategy=strategy,
        num_samples=1,
        seed=5,
    )
    draws = Draws.for_rows(5, list(range(ITEMS)), [0] * ITEMS, y.device)
    x = 10.0 * draws.normal((SIDE, SIDE), F64, step=0)
    x = loop(
        x, y, mask().to(F64), grid.tolist(), NOISE, pullback, lambda i: draws.normal((SIDE, SIDE), F64, step=i + 1)
    )
    # 12 steps of some 15 roundings of numbers up to 50; a step contracts the errors of those before it.
    torch.testing.assert_close(result.samples[0], x, rtol=0, atol=12 * 15 * 50 * torch.finfo(F64).eps)


def test_the_stub_has_the_pullback_that_it_states():
    x, v = data(), data().flip(0)
    _, by_graph = Stub(mean=x[0]).pullback(x, 0.7)
    _, by_formula = ClosedStub(mean=x[0]).pullback(x, 0.7)
    torch.testing.assert_close(by_graph(v), by_formula(v), rtol=1e-14, atol=0)


# --- nothing is read back --------------------------------------------------------------------------------------------
class Stalls(TorchDispatchMode):
    """Counts what makes an accelerator wait for Python, or Python for it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in (
            aten._local_scalar_dense.default,
            aten._linalg_check_errors.default,
            aten.nonzero.default,
            aten.equal.default,
            aten.masked_select.default,
        ):
            self.seen[str(func)] += 1
        elif func is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.seen["index by a mask"] += 1
        elif func in (aten._to_copy.default, aten.copy_.default):
            source, target = (args[0], out) if func is aten._to_copy.default else (args[1], args[0])
            to_device = source.device.type == "cpu" and kwargs.get("non_blocking", False)
            if source.device != target.device and not to_device:
                self.seen[f"copy from {source.device.type} to {target.device.type}"] += 1
        return out


def gaussian(dtype: torch.dtype = torch.float32) -> iv.priors.GaussianPrior:
    where = torch.arange(SIDE * SIDE, dtype=F64)
    covariance = (-(where[:, None] - where).abs() / 5).exp()
    return iv.priors.GaussianPrior(mean=torch.zeros(SIDE, SIDE, dtype=dtype), covariance=covariance.to(dtype))


def stub(cls: type[Stub] = Stub) -> Stub:
    return cls(mean=torch.zeros(SIDE, SIDE))


CASES = {  # name: prior, strategy for a number of steps
    "PiGDM": (stub, lambda n: iv.strategies.PiGDM(sampler=iv.samplers.Ancestral(), num_steps=n)),
    "PiGDM, closed pullback": (lambda: stub(ClosedStub), lambda n: iv.strategies.PiGDM(num_steps=n)),
    "TMPD": (gaussian, lambda n: iv.strategies.TMPD(num_steps=n)),
    "MMPS, law": (gaussian, lambda n: iv.strategies.MMPS(covariance="law", num_steps=n)),
    "unconditional": (stub, lambda n: iv.strategies.Unconditional(num_steps=n)),
}


def solve(prior: iv.priors.Prior, strategy: Guided, items: int | None = None) -> Counter[str]:
    with Stalls() as stalls:
        iv.solve(
            iv.operators.Mask(mask=mask(items), in_shape=(SIDE, SIDE)),
            data(torch.float32),
            prior,
            noise=NOISE,
            strategy=strategy,
            num_samples=2,
            seed=0,
        )
    return stalls.seen


# Operators that differ from item to item are solved by conjugate gradients in MMPS: these look whether they are done.
READS = [(name, items) for name in CASES for items in (None, ITEMS) if not (name == "MMPS, law" and items)]


@pytest.mark.parametrize(("name", "items"), READS, ids=str)
def test_ten_more_steps_read_nothing_more(name, items):
    prior, strategy = CASES[name]
    assert solve(prior(), strategy(20), items) == solve(prior(), strategy(10), items)


def test_a_read_in_the_loop_would_be_seen():
    class Reading(Stub):
        def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
            return x / (1 + float(sigma) ** 2)

    _, strategy = CASES["PiGDM"]
    more = solve(stub(Reading), strategy(20)) - solve(stub(Reading), strategy(10))
    assert more == {"aten._local_scalar_dense.default": 10}


# --- everything is where the data are: a pretended GPU ----------------------------------------------------------------
def moved(value: Any) -> Any:
    """Tensors of a bound strategy on the pretended device; grids and tables of a plan stay where they are computed."""
    if isinstance(value, iv.samplers.Plan):
        return dataclasses.replace(value)
    if isinstance(value, Tensor):
        return value.to("cuda")
    if isinstance(value, UNet):  # made there: parameters cannot be moved to a device that is pretended
        with torch.device("cuda"):
            return UNet(value.config).eval().requires_grad_(False)
    if isinstance(value, torch.Size):
        return value
    if isinstance(value, dict):
        return {key: moved(v) for key, v in value.items()}
    if hasattr(value, "_fields"):  # a named tuple
        return type(value)(*map(moved, value))
    if isinstance(value, (tuple, list)):
        return type(value)(moved(v) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        copy = object.__new__(type(value))
        for name, part in vars(value).items():
            object.__setattr__(copy, name, moved(part))
        return copy
    return value


def masked(items: int | None = None) -> iv.Problem:
    return iv.Problem(iv.operators.Mask(mask=mask(items), in_shape=(SIDE, SIDE)), data(torch.float32), noise=NOISE)


def run_pretended(prior: iv.priors.Prior, strategy: Guided, problem: iv.Problem | None = None) -> Counter[str]:
    """All steps of a strategy on a device 'cuda' without one: mixed devices raise, and so does reading a value."""
    problem = masked() if problem is None else problem
    bound = strategy.bind(problem, prior)
    rows = list(range(ITEMS))
    with FakeTensorMode(allow_non_fake_inputs=True):
        device = torch.device("cuda")
        run = Run(
            problem=moved(problem),
            prior=moved(prior),
            bound=moved(bound),
            draws=Draws.for_rows(0, rows, [0] * ITEMS, device),
        )
        state = strategy.init(run)
        state, _ = strategy.step(run, state, 0)  # levels that differ from row to row are copied to the device once
        with Stalls() as stalls:
            for i in range(1, strategy.num_steps):
                state, _ = strategy.step(run, state, i)
        assert state.x.device.type == "cuda"
    return stalls.seen


SAMPLERS = (
    iv.samplers.Euler(),
    iv.samplers.Heun(),
    iv.samplers.DPMSolver2M(),
    iv.samplers.SDEDPMSolver2M(),
    iv.samplers.DPMSolver3M(),
    iv.samplers.UniPC(),
    iv.samplers.ERSDE(),
    iv.samplers.Ancestral(),
    iv.samplers.Churn(),
)


# Without a GPU: autograd's engine asks for a real context, and levels that differ from row to row are read once on the host.
@pytest.mark.parametrize("name", [name for name in CASES if name != "PiGDM"])
def test_on_a_device_everything_is_there_and_nothing_waits(name):
    prior, strategy = CASES[name]
    assert not run_pretended(prior(), strategy(5))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_on_a_device_no_sampler_waits(sampler):
    assert not run_pretended(stub(), Guided(guidance=NoGuidance(), sampler=sampler, num_steps=5))


def test_a_tensor_left_on_the_host_would_be_seen():
    class Host(Stub):
        def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
            return x / (1 + torch.full_like(x, 1.0, device="cpu"))

    _, strategy = CASES["unconditional"]
    with pytest.raises(RuntimeError, match="device"):
        run_pretended(stub(Host), strategy(5))


def test_a_copy_from_the_host_would_be_seen():
    class Copying(Stub):
        def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
            return x / (1 + torch.ones(1, device="cpu").to(x.device))

    _, strategy = CASES["unconditional"]
    assert run_pretended(stub(Copying), strategy(5)) == {"copy from cpu to cuda": 4}


# --- a network and MRI: the main job ----------------------------------------------------------------------------------
COILS = 3


def scanned() -> iv.Problem:
    """Some lines of k-space by several coils; what the operator prepares is there, as after the first step."""
    rng = torch.Generator().manual_seed(2)
    maps = torch.randn(COILS, SIDE, SIDE, dtype=torch.complex64, generator=rng) / 2
    lines = (torch.arange(SIDE) % 3 != 1)[None]
    operator = iv.operators.MRI(mask=lines, in_shape=(SIDE, SIDE), maps=maps)
    y = operator(torch.randn(ITEMS, SIDE, SIDE, dtype=torch.complex64, generator=rng))
    operator.normal(operator.adjoint(y))
    return iv.Problem(operator, y, noise=NOISE)


def network() -> NetworkPrior:
    torch.manual_seed(0)
    net = UNet(UNetConfig(channels=2, width=8, multipliers=(1, 2), blocks=1)).eval()
    for p in net.parameters():  # the last layers start at zero
        torch.nn.init.normal_(p, std=0.1)
    shape, spectrum = (SIDE, SIDE), iv.priors.Matern(std=1.0, length=0.2)
    law = iv.priors.GaussianFieldPrior(shape=shape, spectrum=spectrum, basis="periodic", kind="complex").law
    return NetworkPrior(network=net, shape=shape, kind="complex", scale=3.0, sigma_range=(0.01, 50.0), law=law)


LEARNED = {
    "unconditional": lambda n: iv.strategies.Unconditional(num_steps=n),
    "MMPS, law": lambda n: iv.strategies.MMPS(covariance="law", num_steps=n),
    "PiGDM": lambda n: iv.strategies.PiGDM(num_steps=n),
    "MMPS": lambda n: iv.strategies.MMPS(num_steps=n),
}


def scan(name: str, steps: int) -> tuple[Counter[str], iv.Result]:
    with Stalls() as stalls:
        result = iv.solve(scanned(), network(), strategy=LEARNED[name](steps), num_samples=2, throw=False)
    return stalls.seen, result


@pytest.mark.parametrize("name", [name for name in LEARNED if name != "MMPS"])
def test_a_step_with_a_network_reads_nothing_back(name):
    assert (scan(name, 12)[0] - scan(name, 8)[0]).total() < 12 - 8  # grids may take one more look at the start


def test_moment_matching_looks_once_before_every_product():
    """Where conjugate gradients stop depends on values; a look costs less than the product that it may save."""
    (few, first), (more, last) = (scan("MMPS", n) for n in (8, 12))
    looks, products = more - few, round(last.vjps - first.vjps)
    assert 0 < looks.total() <= products + 4 and set(looks) == {"aten._local_scalar_dense.default"}


@pytest.mark.parametrize("name", ["unconditional", "MMPS, law"])
def test_on_a_device_a_network_and_mri_are_there_and_nothing_waits(name):
    assert not run_pretended(network(), LEARNED[name](5), scanned())
