"""`from_simulator`: what a function with named arguments is called with, and what is refused."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, OperatorError
from invsolve.testing import check_operator

F64 = torch.float64
TIMES = torch.tensor([0.0, 1.0, 3.0], dtype=F64)
X = torch.tensor([[2.0, 0.5], [1.0, 0.1]], dtype=F64)
WANT = X[:, :1] * torch.exp(-X[:, 1:] * TIMES)
make = iv.operators.from_simulator


def decay(amount, rate):
    return amount * np.exp(-rate * TIMES.numpy())


def smooth(amount, rate):
    return amount[:, None] * torch.exp(-rate[:, None] * TIMES.to(rate))


@pytest.mark.parametrize("out", [np.asarray, list, torch.as_tensor], ids=["array", "list", "tensor"])
def test_a_black_box_gets_floats_and_gives_what_it_likes(out):
    seen = []

    def f(amount, rate):
        seen.append((amount, rate))
        return out(decay(amount, rate))

    A = make(f, ["amount", "rate"], (3,))
    assert torch.allclose(A(X), WANT, rtol=1e-12)
    assert seen == [(2.0, 0.5), (1.0, 0.1)] and type(seen[0][0]) is float
    assert A(X.float()).dtype == torch.float32
    assert isinstance(A, iv.operators.BlackBox)


def test_with_torch_it_has_derivatives():
    A = make(smooth, ["amount", "rate"], (3,), kind="nonlinear")
    assert torch.allclose(A(X), WANT, rtol=1e-12)
    assert check_operator(A).passed and not isinstance(A, iv.operators.BlackBox)


def test_the_vector_is_in_the_order_of_the_layout():
    A = make(decay, ["rate", "amount"], (3,))
    assert torch.allclose(A(X.flip(1)), WANT, rtol=1e-12)
    prior = iv.priors.independent(rate=iv.LogNormal(0.3, 1.5), amount=iv.LogNormal(1.0, 1.5))
    assert torch.allclose(make(decay, prior.layout, (3,))(X.flip(1)), WANT, rtol=1e-12)


def test_parts_with_a_shape_come_as_arrays_of_their_own():
    layout = iv.Layout([iv.Part("image", (2, 2)), iv.Part("gain", ())])

    def f(image, gain):
        image *= gain  # in place: it is a copy
        return image.sum()

    x = torch.arange(5.0)[None]
    A = make(f, layout, ())
    assert float(A(x)) == 24.0 and torch.equal(x, torch.arange(5.0)[None])

    def g(image, gain):
        return image.flatten(1).mul_(gain[:, None]).sum(1)

    assert float(make(g, layout, (), kind="nonlinear")(x)) == 24.0 and torch.equal(x, torch.arange(5.0)[None])


def test_parameters_of_which_the_simulation_failed_are_not_met():
    def f(amount, rate):
        return decay(amount, rate) if rate < 0.55 else np.full(3, np.nan)

    prior = iv.priors.independent(amount=iv.LogNormal(2.0, 1.2), rate=iv.LogNormal(0.5, 1.5))
    chains = iv.strategies.NoiseMCMC(chains=64, islands=4, rounds=4)
    result = iv.solve(make(f, prior.layout, (3,)), WANT[0], prior, noise=0.3, strategy=chains, num_samples=64)
    rate = result["rate"].samples
    assert float(rate.max()) < 0.55 and float((rate > 0.4).double().mean()) > 0.3


def test_other_arguments_have_a_default():
    def f(amount, rate, scale=2.0, **options):
        return scale * decay(amount, rate)

    assert torch.allclose(make(f, ["amount", "rate"], (3,))(X), 2 * WANT, rtol=1e-12)
    assert torch.allclose(make(functools.partial(f, scale=1.0), ["amount", "rate"], (3,))(X), WANT, rtol=1e-12)
    assert torch.allclose(make(lambda **p: decay(**p), ["amount", "rate"], (3,))(X), WANT, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: make(1, ["a"], (3,)), InputTypeError, "from_simulator: `f` must be a function of named parameters"),
        (lambda: make(decay, "amount", (3,)), InputTypeError, "`parameters` must be prior.layout, or a sequence of"),
        (
            lambda: make(decay, ["amount"], (3,)),
            InputError,
            "the arguments amount, the parameters, got one with amount, r",
        ),
        (lambda: make(decay, ["amount", "speed"], (3,)), InputError, "functools.partial"),
        (lambda: make(decay, ["amount", "rate"], (3,), kind="fast"), InputError, "`kind` must be"),
        (
            lambda: make(decay, ["amount", "rate"], (4,))(X),
            OperatorError,
            r"`f` \(decay\) must return shape \(4,\), got \(3,\)",
        ),
        (
            lambda: make(lambda amount, rate: ["a"], ["amount", "rate"], (1,))(X),
            OperatorError,
            "must return real numbers",
        ),
        (
            lambda: make(lambda amount, rate: amount, ["amount", "rate"], (3,), kind="nonlinear")(X),
            OperatorError,
            r"must return a tensor of shape \(2, 3\), got \(2,\). With kind='nonlinear' .* a row for each set of them",
        ),
        (
            lambda: make(lambda amount, rate: 1.0, ["amount", "rate"], (3,), kind="nonlinear")(X),
            OperatorError,
            "got float",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_prior_of_other_parameters_is_refused():
    A = make(decay, ["amount", "rate"], (3,))
    prior = iv.priors.independent(rate=iv.LogNormal(0.3, 1.5), amount=iv.LogNormal(1.0, 1.5))
    with pytest.raises(InputError, match="of the parameters of A, in their order: amount, rate, got rate, amount"):
        iv.solve(A, WANT[0], prior, noise=0.1)


@pytest.mark.parametrize("items", [0, 2])
def test_the_table_of_a_result_is_by_name(items):
    prior = iv.priors.independent(amount=iv.LogNormal(1.0, 1.5), rate=iv.LogNormal(0.3, 1.5), units={"rate": "1/s"})
    A = make(smooth, prior.layout, (3,), kind="nonlinear")
    chains = iv.strategies.NoiseMCMC(chains=64, islands=4, rounds=4)
    y = WANT[:items] if items else WANT[0]
    result = iv.solve(A, y, prior, noise=0.1, strategy=chains, num_samples=39)
    text, rate = result.summary(), result["rate"]
    assert rate.units == "1/s" and rate.shape == ()
    for item in range(max(items, 1)):
        pick = (lambda v, item=item: float(v[item])) if items else float
        low, high = (pick(rate.quantile(q)) for q in (0.05, 0.95))
        words = f"mean {pick(rate.mean):.4g}, std {pick(rate.std):.4g}, 90% interval {low:.4g} to {high:.4g}"
        assert f"rate [1/s]{f', item {item}' if items else ''}: {words}" in text
        assert words in result._repr_html_()
    few = iv.solve(A, y, prior, noise=0.1, strategy=chains, num_samples=4).summary()
    assert "rate [1/s]" in few and "90% interval" not in few


def test_rows_that_failed_are_left_out_of_the_statistics_of_a_number():
    """Of a signal without axes, too: its statistics broadcast over none."""
    prior = iv.priors.independent(amount=iv.LogNormal(1.0, 1.5), rate=iv.LogNormal(0.3, 1.5))
    A = make(smooth, prior.layout, (3,), kind="nonlinear")
    chains = iv.strategies.NoiseMCMC(chains=64, islands=4, rounds=4)
    result = iv.solve(A, WANT[0], prior, noise=0.1, strategy=chains, num_samples=39)
    cut = result.map(lambda x: torch.where(x[:, 0] > x[:, 0].median(), x[:, 0], torch.nan))
    good = cut.samples[~cut.failed]
    assert len(good) == 19
    assert float(cut.mean) == pytest.approx(float(good.mean())) and float(cut.std) == pytest.approx(float(good.std()))
    assert float(cut.quantile(0.05)) == pytest.approx(float(good.min()))
