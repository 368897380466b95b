"""Several unknowns as one: a and u = A a against the formulas of their joint Gaussian distribution."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.operators.unpack import Flatten, Unpack
from invsolve.testing import check_operator

F64 = torch.float64
SHAPE = (3, 4)


class Laplace(iv.operators.LinearOperator):
    """A smoothing map of fields to fields, symmetric."""

    in_shape = out_shape = SHAPE
    root = torch.linalg.qr(torch.randn(12, 12, dtype=F64, generator=torch.Generator().manual_seed(0)))[0]
    matrix = root * torch.linspace(0.1, 1.0, 12, dtype=F64) @ root.mT

    def _apply(self, x):
        return (x.flatten(1) @ self.matrix.to(x.dtype)).view(-1, *SHAPE)

    _adjoint = _apply


def field():
    return iv.priors.GaussianFieldPrior(SHAPE, iv.priors.Matern(1.0, 0.5), mean=0.4, dtype=F64)


@pytest.mark.parametrize("name", ["a", "c", "s"])
def test_unpack_is_an_operator(name):
    layout = iv.Layout([iv.Part("a", (2, 3)), iv.Part("c", (3,), kind="complex"), iv.Part("s", ())])
    operator = Unpack(layout, name)
    assert check_operator(operator).passed
    values = {"a": torch.randn(5, 2, 3), "c": torch.randn(5, 3) + 1j * torch.randn(5, 3), "s": torch.randn(5)}
    assert torch.equal(operator(layout.pack(values)), values[name].view(5, *operator.out_shape))


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (4, 1, 5)])
def test_flatten_is_an_operator(shape):
    assert check_operator(Flatten(in_shape=shape)).passed


@pytest.mark.parametrize("items", [None, 2])
def test_coefficient_and_solution_from_data_of_both(items):
    prior, A = field(), Laplace()
    both = iv.priors.joint(a=prior, u=A)
    assert both.layout.names == ("a", "u")
    assert torch.allclose(both.mean, torch.cat([prior.mean.flatten(), A(prior.mean[None]).flatten()]))
    assert torch.equal(both.layout.split(both.sample(3))["u"], A(prior.sample(3)))
    H = iv.operators.Stack(
        [
            iv.operators.Subsample([1, 5], in_shape=SHAPE) @ Unpack(both.layout, "a"),
            iv.operators.Subsample([0, 7, 11], in_shape=SHAPE) @ Unpack(both.layout, "u"),
        ]
    )
    y = torch.randn(*(() if items is None else (items,)), 5, dtype=F64, generator=torch.Generator().manual_seed(1))
    result = iv.solve(H, y, both, noise=0.3, num_samples=200, seed=0)
    assert result.strategy == "Exact"
    # The joint Gaussian distribution, written out.
    law = prior.law
    C = law.modes.synthesis(law.variances * law.modes.adjoint(torch.eye(12, dtype=F64).view(12, *SHAPE))).flatten(1)
    L = torch.cat([torch.eye(12, dtype=F64), A.matrix])
    joint_mean, joint = L @ prior.mean.flatten(), L @ C @ L.mT
    rows = torch.zeros(5, 24, dtype=F64)
    rows[torch.arange(5), torch.tensor([1, 5, 12, 19, 23])] = 1
    S = rows @ joint @ rows.mT + 0.09 * torch.eye(5, dtype=F64)
    gain = joint @ rows.mT @ torch.linalg.inv(S)
    mean = joint_mean + (y - rows @ joint_mean) @ gain.mT
    std = (joint - gain @ rows @ joint).diagonal().sqrt()
    for name, part in (("a", slice(0, 12)), ("u", slice(12, 24))):
        found = result[name]
        assert found.shape == SHAPE
        lead = () if items is None else (items,)
        assert torch.allclose(found.mean, mean[..., part].view(*lead, *SHAPE), atol=1e-10)
        assert torch.allclose(found.std, std[part].view(SHAPE).expand(*lead, *SHAPE), atol=1e-10)
        assert {"mean", "std", "quantile"} <= set(found.exact_statistics)
        assert float(((found.samples.mean(0) - found.mean).abs() / found.std).max()) < 5 / 200**0.5
    # The equation holds in every sample.
    a, u = (result[name].samples.reshape(-1, *SHAPE) for name in ("a", "u"))
    assert torch.allclose(A(a), u, atol=1e-12)
    assert torch.allclose(result.log_evidence, prior_evidence(rows, joint_mean, joint, y), atol=1e-9)


def prior_evidence(rows, mean, joint, y):
    S = rows @ joint @ rows.mT + 0.09 * torch.eye(len(rows), dtype=F64)
    return torch.distributions.MultivariateNormal(rows @ mean, S).log_prob(y)


def test_it_is_saved_and_checked(tmp_path):
    both = iv.priors.joint(a=field(), u=Laplace())
    H = iv.operators.Subsample(list(range(12)), in_shape=SHAPE) @ Unpack(both.layout, "u")
    y = H(both.sample(1, seed=3))[0] + 0.05 * torch.randn(12, dtype=F64, generator=torch.Generator().manual_seed(2))
    result = iv.solve(H, y, both, noise=0.05, num_samples=64, seed=0)
    assert result.check().passed
    loaded = iv.load_result(result.save(tmp_path / "r.nc"))
    assert torch.equal(loaded["u"].mean, result["u"].mean)
    assert torch.equal(loaded["a"].std, result["a"].std)
    assert result.latent.shape == SHAPE


def test_a_solution_that_is_not_linear_in_the_coefficient_and_an_unknown_length():
    prior = iv.priors.GaussianFieldPrior(SHAPE, iv.priors.Matern(0.3, 0.5), dtype=F64)
    A = iv.operators.from_callable(lambda a: (a * a).flatten(1).cumsum(1).view(-1, *SHAPE), SHAPE, SHAPE)
    both = iv.priors.joint(a=iv.priors.exp(prior), u=A)
    H = iv.operators.Subsample([3, 7, 11], in_shape=SHAPE) @ Unpack(both.layout, "u")
    y = H(both.sample(1, seed=1))[0]
    strategy = iv.strategies.NoiseMCMC(num_steps=10)
    result = iv.solve(H, y, both, noise=0.05, num_samples=8, strategy=strategy)
    assert torch.allclose(A(result["a"].samples), result["u"].samples)
    assert bool((result["a"].samples > 0).all())
    family = iv.priors.GaussianFieldPrior(SHAPE, iv.priors.Matern(1.0, iv.LogUniform(0.2, 2.0)), dtype=F64)
    linear = iv.priors.joint(a=family, u=Laplace())
    found = iv.solve(H, torch.zeros(3, dtype=F64), linear, noise=0.3, num_samples=16)
    assert found["prior.length"].samples.shape == (16,)
    assert torch.allclose(Laplace()(found["a"].samples), found["u"].samples)


def test_a_prior_over_channels_has_named_parts():
    channels = iv.priors.GaussianFieldPrior((2, 3, 4), iv.priors.Matern(1.0, 0.5), dtype=F64)
    prior = iv.priors.packed(channels, iv.Layout([iv.Part("a", (3, 4)), iv.Part("u", (3, 4), unit="Pa")]))
    H = iv.operators.Subsample([0, 5], in_shape=(3, 4)) @ Unpack(prior.layout, "u")
    y = torch.tensor([1.0, -1.0], dtype=F64)
    result = iv.solve(H, y, prior, noise=0.1, num_samples=32)
    exact = channels.posterior(H @ Flatten(in_shape=(2, 3, 4)), y[None], 0.1)
    for channel, name in enumerate("au"):
        assert torch.allclose(result[name].mean, exact.mean[0, channel], atol=1e-10)
        assert torch.allclose(result[name].std, exact.std[0, channel], atol=1e-10)
    assert result["u"].units == "Pa"


def test_refusals():
    prior = field()
    with pytest.raises(InputError, match="one prior, and operators of its signal, got priors: none"):
        iv.priors.joint(u=Laplace())
    with pytest.raises(InputError, match="priors: a, b"):
        iv.priors.joint(a=prior, b=prior)
    with pytest.raises(InputTypeError, match="`u` must be an operator with a derivative"):
        iv.priors.joint(a=prior, u=3.0)
    with pytest.raises(InputError, match=r"`u` must be an operator on real signals of shape \(3, 4\), those of a"):
        iv.priors.joint(a=prior, u=iv.operators.Matrix(torch.eye(5, dtype=F64)))
    with pytest.raises(InputError, match="one operator for all items"):
        iv.priors.joint(a=prior, u=iv.operators.Mask(torch.ones(2, 3, 4, dtype=torch.bool), in_shape=SHAPE))
    with pytest.raises(InputTypeError, match=r"`layout` must be an iv.Layout"):
        iv.priors.packed(prior, 12)
    with pytest.raises(InputError, match="`layout` must be of 12 numbers"):
        iv.priors.packed(prior, iv.Layout([iv.Part("a", (3,))]))
    with pytest.raises(InputError, match="`name` must be one of 'a'"):
        Unpack(iv.Layout([iv.Part("a", (3,))]), "b")
    with pytest.raises(InputTypeError, match="`layout` must be an iv.Layout"):
        Unpack(("a",), "a")
