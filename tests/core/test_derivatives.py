"""Derivatives in one place: right values, any number of products, compiled functions, and no zero by accident."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.core.derivatives import pullback
from invsolve.errors import OperatorError, UnsupportedError

N = 4
MATRIX = torch.randn(N, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def smooth(x: Tensor) -> Tensor:
    return torch.tanh(torch.sin(x @ MATRIX.mT) * x)


def jacobian(x: Tensor) -> Tensor:
    return torch.func.vmap(torch.func.jacrev(lambda row: smooth(row[None])[0]))(x)


def test_any_number_of_products():
    x, v = (torch.randn(3, N, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (1, 2))
    value, pull = pullback(smooth, x, RuntimeError)
    assert torch.equal(value, smooth(x)) and not value.requires_grad and not x.requires_grad
    expected = torch.einsum("bmn,bm->bn", jacobian(x), v)
    for _ in range(3):
        assert torch.allclose(pull(v), expected, atol=1e-14) and not pull(v).requires_grad


class Donating(torch.autograd.Function):
    """What `torch.compile` makes once it was trained with: its graph serves one product only, and says so."""

    @staticmethod
    def forward(ctx, x, layer):
        ctx.save_for_backward(x)
        ctx.layer = layer
        layer.evaluations += 1
        return smooth(x)

    @staticmethod
    def backward(ctx, grad):
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError("compiled with non-empty donated buffers which requires retain_graph=False")
        (x,) = ctx.saved_tensors
        return torch.einsum("bmn,bm->bn", jacobian(x), grad), None


class Layer(torch.nn.Module):
    evaluations = 0

    def forward(self, z: Tensor, time: Tensor | None = None) -> Tensor:
        return Donating.apply(z.flatten(1), self).view(z.shape)


def test_graphs_that_serve_once_are_made_again():
    x, v = torch.ones(2, N, dtype=torch.float64), torch.eye(N, dtype=torch.float64)[:2]
    layer = Layer()
    _, pull = pullback(layer, x, RuntimeError)
    _, expected = pullback(smooth, x, RuntimeError)
    for k in range(1, 4):
        assert torch.allclose(pull(k * v), expected(k * v), atol=1e-14)
    assert layer.evaluations == 3  # one for each product


def test_other_errors_of_a_graph_are_its_own():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no derivative today")

    _, pull = pullback(Broken.apply, torch.ones(1, N), RuntimeError)
    with pytest.raises(RuntimeError, match="no derivative today"):
        pull(torch.ones(1, N))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv1d(1, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv1d(8, 1, 3, padding=1)
            )

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        return self.layers(z * (1 + time.view(-1, 1, 1)))


def solved(network: torch.nn.Module, strategy: ivs.Strategy) -> Tensor:
    prior = iv.priors.from_network(network, iv.priors.EDM(), shape=(N,), scale=2.0, detail=0.3)
    A = iv.operators.Matrix(MATRIX[:3].float())
    return iv.solve(A, torch.ones(1, 3), prior, noise=0.5, strategy=strategy, num_samples=4).samples


GUIDED = {
    "DPS": ivs.DPS(num_steps=3),
    "MMPS": ivs.MMPS(num_steps=3),
    "LGD": ivs.LGD(clouds=2, num_steps=3),
    "TMPD": ivs.TMPD(num_steps=3),
    "PiGDM": ivs.PiGDM(num_steps=3),
    "SMC": ivs.SMC(num_steps=3),
}


def test_compiled_networks_give_the_posterior_of_the_plain_one():
    """Compiled without code generation, and differentiated before, as after training: its graphs then serve once."""
    network = Net().requires_grad_(False).eval()
    compiled = torch.compile(network, backend="aot_eager")
    for rows in (2, 3):  # of any number of rows
        z = torch.ones(rows, 1, N, requires_grad=True)
        torch.autograd.grad(compiled(z, torch.zeros(rows)).sum(), z)
    z = torch.ones(4, 1, N, requires_grad=True)
    with pytest.raises(RuntimeError, match="donated"):
        torch.autograd.grad(compiled(z, torch.zeros(4)).sum(), z, retain_graph=True)
    for name in ("DPS", "MMPS", "TMPD"):  # one product a step, several, one for all data
        strategy = GUIDED[name]
        assert torch.allclose(solved(compiled, strategy), solved(network, strategy), atol=1e-5), name
    torch._dynamo.reset()


# --- no gradient is no zero ----------------------------------------------------------------------------------------
@torch.no_grad()
def detached(x: Tensor, sigma: Tensor | None = None) -> Tensor:
    return x / 2


HIDDEN = torch.ones(N, requires_grad=True)  # a parameter: the output has a graph, which x is not part of


@pytest.mark.parametrize(
    "function",
    [
        detached,
        lambda x: x.detach() / 2,
        lambda x: torch.from_numpy(x.detach().numpy() / 2),
        lambda x: torch.zeros_like(x),
    ],
    ids=["no_grad", "detach", "numpy", "constant"],
)
def test_operators_without_a_gradient(function):
    A = iv.operators.from_callable(function, (N,), (N,))
    with pytest.raises(OperatorError, match=r"CallableOperator: .*does not depend on its input.*say so: add 0 \* x"):
        A.vjp(torch.ones(1, N))
    linear = iv.operators.from_callable(function, (N,), (N,), kind="linear")
    with pytest.raises(OperatorError, match="torch cannot differentiate this function"):
        linear.adjoint(torch.ones(1, N))


def test_parameters_with_gradients_do_not_stand_for_the_input():
    x = torch.ones(1, N)
    with pytest.raises(OperatorError, match="does not depend on its input"):
        iv.operators.from_callable(lambda x: x.detach() * HIDDEN, (N,), (N,)).vjp(x)[1](x)
    with pytest.raises(OperatorError, match="torch cannot differentiate"):
        iv.operators.from_callable(lambda x: x.detach() * HIDDEN, (N,), (N,), kind="linear").adjoint(x)
    prior = iv.priors.from_denoiser(lambda x, s: x.detach() * HIDDEN, shape=(N,), scale=1.0)
    with pytest.raises(UnsupportedError, match="from_denoiser: .*must be differentiable by torch"):
        prior.pullback(x, 1.0)[1](x)


def test_constants_that_say_so_have_derivative_zero():
    x = torch.ones(2, N)
    y, pull = iv.operators.from_callable(lambda x: torch.ones_like(x) + 0 * x, (N,), (N,)).vjp(x)
    assert torch.equal(y, x) and torch.equal(pull(x), torch.zeros(2, N))


@pytest.mark.parametrize("prediction", [iv.priors.EDM(), iv.priors.Direct()], ids=str)
def test_networks_without_a_gradient(prediction):
    """The rest of D = c_skip x + c_out F has one, which must not be taken for all of it."""

    def network(z: Tensor, time: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.tanh(z)

    prior = iv.priors.from_network(network, prediction, shape=(N,), sigma_range=(0.01, 10.0))
    assert prior.denoise(torch.ones(1, N), 1.0).isfinite().all()
    with pytest.raises(UnsupportedError, match="NetworkPrior: `network` must be differentiable by torch"):
        prior.pullback(torch.ones(1, N), 1.0)


@pytest.mark.parametrize("name", ["MMPS", "DPS", "LGD", "SMC"])
def test_solves_say_what_has_no_gradient(name):
    prior = iv.priors.from_denoiser(detached, shape=(N,), scale=1.0, detail=0.3)
    with pytest.raises(UnsupportedError, match="from_denoiser: .*detached.* must be differentiable by torch"):
        iv.solve(iv.operators.Matrix(MATRIX.float()), torch.ones(N), prior, noise=1.0, strategy=GUIDED[name])
