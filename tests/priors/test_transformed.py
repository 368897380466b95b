"""Priors of x = f(u): densities against scipy's, means in closed form, maps against differences, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.priors.entry_maps import ByDistribution, Exponential, Logistic, SoftPlus
from invsolve.priors.fields.padded import Crop
from invsolve.testing import check_operator

F64 = torch.float64
pri = iv.priors
LAWS = (iv.Normal(1.0, 2.0), iv.LogNormal(3.0, 1.5), iv.Uniform(-1.0, 4.0), iv.LogUniform(0.1, 10.0))
MAPS = {
    "exp": Exponential(in_shape=(4,)),
    "softplus": SoftPlus(in_shape=(4,), width=0.3),
    "bounded": Logistic(in_shape=(4,), low=-1.0, high=3.0),
    "distributions": ByDistribution(laws=LAWS),
}
EVERY_MAP = pytest.mark.parametrize("name", MAPS)


def gaussian(n=2, mean=0.4, seed=0):
    root = torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return pri.GaussianPrior(torch.full((n,), mean, dtype=F64), 0.3 * root @ root.mT + 0.2 * torch.eye(n, dtype=F64))


def one(mean=0.4, std=0.8):
    return pri.GaussianPrior(torch.tensor([mean], dtype=F64), torch.tensor([[std**2]], dtype=F64))


def near(f, u):
    h = 1e-5
    return (f(u + h) - f(u - h)) / (2 * h)


# --- the maps -----------------------------------------------------------------------------------------------------------
@EVERY_MAP
def test_a_map_increases_within_its_support_and_has_the_slope_and_the_inverse_it_states(name):
    f = MAPS[name]
    u = torch.linspace(-3.0, 3.0, 13, dtype=F64)[:, None].expand(13, 4).contiguous()
    x = f(u)
    assert bool((x[1:] > x[:-1]).all())
    low, high = f.support
    assert float(x.min()) >= low and float(x.max()) <= high
    # Central differences of 1e-5: an error of 1e-10 of the third derivative, and 1e-11 of rounding over h.
    assert torch.allclose(f.slope(u, x), near(f, u), rtol=1e-7)
    assert torch.allclose(f.log_slope(u).exp(), f.slope(u, x), rtol=1e-12)
    assert torch.allclose(f.invert(x), u, atol=1e-10)
    assert check_operator(f).passed
    assert torch.equal(f.vjp(u)[1](torch.ones_like(u)), f.jvp(u, torch.ones_like(u))[1])


def test_values_that_no_u_gives_have_no_inverse():
    assert float(MAPS["exp"].invert(torch.zeros(1, 4))[0, 0]) == -math.inf
    assert bool(MAPS["bounded"].invert(torch.full((1, 4), 5.0)).isnan().all())
    found = MAPS["distributions"].invert(torch.tensor([[0.0, -1.0, 5.0, 20.0]]))
    assert bool(torch.isfinite(found[0, 0])) and found[0, 1:].tolist() == [-math.inf, math.inf, math.inf]


def test_rounding_does_not_leave_the_bounds():
    for low, high in ((0.1, 0.3), (-0.7, 0.1), (1.1, 1.3)):
        x = Logistic(in_shape=(1,), low=low, high=high)(torch.tensor([[-200.0], [200.0], [0.0]]))
        low32, high32 = torch.tensor([low, high])
        assert bool(((x >= low32) & (x <= high32)).all())


def test_methods_are_the_functions():
    base = gaussian()
    for found, want in (
        (base.exp(), pri.exp(base)),
        (base.softplus(width=2.0), pri.softplus(base, width=2.0)),
        (base.sigmoid(), pri.sigmoid(base)),
        (base.bounded(low=1.0, high=2.0), pri.bounded(base, low=1.0, high=2.0)),
    ):
        assert found.fingerprint() == want.fingerprint()


def test_softplus_is_u_far_above_0_and_an_exponential_below():
    f = SoftPlus(in_shape=(2,), width=2.0)
    x = f(torch.tensor([[200.0, -200.0]], dtype=F64))
    assert float(x[0, 0]) == 200.0
    assert float(x[0, 1]) == pytest.approx(2.0 * math.exp(-100.0), rel=1e-12)


# --- the measure --------------------------------------------------------------------------------------------------------
def test_densities_of_one_entry_are_scipys():
    x = torch.tensor([[0.1], [0.5], [0.9]], dtype=F64)
    log_normal = stats.lognorm(s=0.8, scale=math.exp(0.4)).logpdf(x[:, 0])
    assert torch.allclose(pri.exp(one()).log_density(x), torch.tensor(log_normal), rtol=1e-12)
    v = x[:, 0].numpy()
    logit = np.log(v / (1 - v))
    logit_normal = stats.norm(0.4, 0.8).logpdf(logit) - np.log(v * (1 - v))
    assert torch.allclose(pri.sigmoid(one()).log_density(x), torch.as_tensor(logit_normal), rtol=1e-12)
    assert float(pri.exp(one()).log_density(torch.tensor([[-1.0]], dtype=F64))) == -math.inf


@pytest.mark.parametrize(
    ("prior", "ends"),
    [
        (pri.exp(one()), (0, 400)),
        (pri.softplus(one(), width=0.5), (0, 8)),
        (pri.bounded(one(), low=2.0, high=5.0), (2, 5)),
        (pri.exp(pri.softplus(one())), (1, 100)),
    ],
    ids=str,
)
def test_densities_integrate_to_one_and_give_the_mean(prior, ends):
    def density(x):
        return float(prior.log_density(torch.tensor([[x]], dtype=F64)).exp())

    assert integrate.quad(density, *ends, limit=200)[0] == pytest.approx(1, abs=1e-6)
    mean = integrate.quad(lambda x: x * density(x), *ends, limit=200)[0]
    if isinstance(prior.base, pri.TransformedPrior):  # of 256 draws
        assert float(prior.mean) == pytest.approx(mean, abs=5 * prior.scale / 16)
    else:
        assert float(prior.mean) == pytest.approx(mean, rel=1e-5)


def test_the_density_of_several_entries_takes_the_whole_determinant():
    base = gaussian(3)
    x = pri.exp(base).sample(5, seed=1)
    law = stats.multivariate_normal(base.mean.numpy(), base._covariance(torch.eye(3, dtype=F64)).numpy())
    want = law.logpdf(np.log(x.numpy())) - np.log(x.numpy()).sum(1)
    assert torch.allclose(pri.exp(base).log_density(x), torch.tensor(want), rtol=1e-10)


def test_a_log_normal_field_has_the_mean_in_closed_form():
    field = pri.GaussianFieldPrior((6, 5), pri.Matern(std=0.7, length=0.3), mean=1.0, dtype=F64)
    variance = field.law.modes.marginal_variances(field.law.variances)
    assert torch.allclose(pri.exp(field).mean, torch.exp(1.0 + variance / 2), rtol=1e-12)


def test_scale_is_about_the_largest_root_eigenvalue():
    prior = pri.exp(one())
    assert prior.scale == pytest.approx(float(stats.lognorm(s=0.8, scale=math.exp(0.4)).std()), rel=0.4)


# --- what a prior is asked for ------------------------------------------------------------------------------------------
def test_draws_are_those_of_the_base():
    base = gaussian()
    assert torch.equal(pri.exp(base).sample(7, seed=3), base.sample(7, seed=3).exp())


def test_the_transport_is_f_after_that_of_the_base():
    prior = pri.exp(gaussian())
    z = torch.randn(4, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    x, pull = prior.transport(z)
    assert torch.equal(x, prior.base.transport(z)[0].exp())
    assert torch.allclose(prior.inverse_transport(x), z, atol=1e-12)
    leaf = z.clone().requires_grad_()
    L = prior.base.transport(torch.eye(2, dtype=F64))[0] - prior.base.mean
    (grad,) = torch.autograd.grad(torch.exp(prior.base.mean + leaf @ L).sum(), leaf)
    assert torch.allclose(pull(torch.ones_like(z)), grad, rtol=1e-12)
    assert not pri.exp(pri.from_denoiser(lambda x, s: x, shape=(2,), scale=1.0)).has_transport


def test_what_the_prior_cannot_make_is_mapped_to_the_nearest_end():
    prior = pri.bounded(one(mean=0.0, std=1.0), low=0.0, high=1.0)
    x = torch.tensor([[-1.0], [0.0], [0.5], [1.0], [2.0]], dtype=F64)
    assert prior.inverse_transport(x)[:, 0].tolist() == pytest.approx([-9.0, -9.0, 0.0, 9.0, 9.0])
    uniform = pri.independent(a=iv.Uniform(0.0, 1.0))
    assert uniform.inverse_transport(x)[[0, 4], 0].tolist() == pytest.approx([-9.0, 9.0])
    assert uniform.log_density(x[[0, 2, 4]]).tolist() == pytest.approx([-math.inf, 0.0, -math.inf])


def test_there_is_no_denoiser_and_that_is_said():
    with pytest.raises(UnsupportedError, match=r"E\[x \| x \+ noise\] of x = exp\(GaussianPrior.*prior.base"):
        pri.exp(gaussian()).denoise(torch.ones(1, 2, dtype=F64), 1.0)


def test_on_another_grid_and_in_another_precision():
    field = pri.GaussianFieldPrior((8,), pri.Matern(std=0.7, length=0.3), mean=1.0)
    finer = pri.exp(field).on((16,))
    assert finer.shape == (16,) and torch.equal(finer.sample(2), field.on((16,)).sample(2).exp())
    double = pri.exp(field).to(dtype=F64)
    assert double.dtype == F64 and double.sample(1).dtype == F64 and double.mean.dtype == F64
    with pytest.raises(UnsupportedError, match="GaussianPrior has no `on`"):
        pri.exp(gaussian()).on((3,))
    with pytest.raises(UnsupportedError, match="build it again"):
        field.padded().on((16,))


def test_names_and_fingerprints_tell_them_apart():
    base = gaussian()
    made = [
        pri.exp(base),
        pri.softplus(base),
        pri.softplus(base, width=2.0),
        pri.sigmoid(base),
        pri.bounded(base, low=0.0, high=2.0),
        base,
    ]
    assert len({p.fingerprint() for p in made}) == len({repr(p) for p in made}) == 6
    assert repr(made[3]).startswith("sigmoid(GaussianPrior")
    assert made[0].fingerprint() == pri.exp(gaussian()).fingerprint()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pri.exp("a prior"), InputTypeError, "exp: `prior` must be an iv.priors.Prior"),
        (
            lambda: pri.exp(pri.GaussianPrior(torch.zeros(2, dtype=torch.complex64), torch.eye(2))),
            InputTypeError,
            "exp: `prior` must be real: complex numbers have no order",
        ),
        (lambda: pri.softplus(one(), width=0.0), InputError, "softplus: `width` must be positive"),
        (lambda: pri.bounded(one(), low=1.0, high=1.0), InputError, "bounded: `high` must be above low = 1"),
        (
            lambda: pri.TransformedPrior(base=one(), function=Exponential(in_shape=(2,))),
            InputError,
            r"`base` must be over signals of shape \(2,\)",
        ),
        (
            lambda: pri.TransformedPrior(base=one(), function=Crop(in_shape=(1,), margin=(0,), in_kind="complex")),
            InputError,
            "`base` must be complex, got real",
        ),
        (lambda: pri.TransformedPrior(base=1, function=Exponential(in_shape=(2,))), InputTypeError, "`prior` must be"),
        (
            lambda: pri.exp(pri.from_denoiser(lambda x, s: x, shape=(1,), scale=1.0)).log_density(torch.ones(1, 1)),
            UnsupportedError,
            "has no formula",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- named parameters ---------------------------------------------------------------------------------------------------
def test_independent_numbers_have_their_distributions():
    prior = pri.independent(a=LAWS[0], b=LAWS[1], c=LAWS[2], d=LAWS[3], units={"b": "mm"})
    x = prior.sample(4000, seed=0)
    for i, law in enumerate(LAWS):
        assert stats.kstest(x[:, i].numpy(), lambda v, law=law: cdf(law, v)).pvalue > 1e-3
    want = sum(law.log_prob(x[:5, i]) for i, law in enumerate(LAWS))
    assert torch.allclose(prior.log_density(x[:5]), want, rtol=1e-9)
    assert prior.layout.names == ("a", "b", "c", "d") and prior.layout["b"].unit == "mm"
    assert prior.shape == (4,) and prior.dtype == F64
    assert pri.independent(a=LAWS[0], dtype=torch.float32).sample(1).dtype == torch.float32
    assert repr(prior).startswith("independent(a=Normal(mean=1.0, std=2.0), b=LogNormal(median=3.0")


def cdf(law, x):
    z = ByDistribution(laws=(law,)).invert(torch.as_tensor(x)[:, None])[:, 0]
    return torch.special.ndtr(z).numpy()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pri.independent(), InputError, "independent: `parameters` must be given by name"),
        (lambda: pri.independent(a=1.0), InputTypeError, "independent: `a` must be a distribution"),
        (lambda: pri.independent(a=LAWS[0], units={"b": "m"}), InputError, "`units` must be of parameters: a, got 'b'"),
        (lambda: pri.independent(a=LAWS[0], units="m"), InputTypeError, "`units` must be a mapping"),
        (lambda: pri.independent(a=LAWS[0], dtype=torch.int64), InputTypeError, "`dtype` must be torch.float32 or"),
    ],
)
def test_refusals_of_independent(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- padded fields ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("basis", ["neumann", "dirichlet", "periodic"])
@pytest.mark.parametrize("shape", [(40,), (17, 24)])
def test_a_padded_field_has_the_stated_std_up_to_its_edges(basis, shape):
    field = pri.GaussianFieldPrior(shape, pri.Matern(std=1.5, length=0.2), basis=basis, dtype=F64)
    padded = field.padded()
    inner = padded.base
    std = padded.function(inner.law.modes.marginal_variances(inner.law.variances)[None])[0].sqrt()
    assert padded.shape == shape
    assert float((std / 1.5 - 1).abs().max()) < 0.01 * len(shape)
    # The nodes are those of the field: the step between them is.
    nodes = [(a + (basis == "dirichlet"), b + (basis == "dirichlet")) for a, b in zip(shape, inner.shape, strict=True)]
    assert [L / b for L, (_, b) in zip(inner.extent, nodes, strict=True)] == pytest.approx([1 / a for a, _ in nodes])


def test_a_padded_field_keeps_its_mean_and_its_posterior_is_the_dense_one():
    mean = torch.linspace(0, 1, 12, dtype=F64)
    field = pri.GaussianFieldPrior((12,), pri.Matern(std=1.0, length=0.3), mean=mean, dtype=F64)
    padded = field.padded(margin=0.25)
    assert torch.allclose(padded.mean, mean, rtol=1e-12)
    n = padded.base.shape[0]
    assert n == 18
    C = padded.base._covariance(torch.eye(n, dtype=F64))[3:15, 3:15]
    A = iv.operators.Subsample(index=torch.tensor([1, 6, 11]), in_shape=(12,))
    H, y = torch.eye(12, dtype=F64)[[1, 6, 11]], torch.tensor([0.5, -1.0, 2.0], dtype=F64)
    gain = C @ H.mT @ torch.linalg.inv(H @ C @ H.mT + 0.09 * torch.eye(3, dtype=F64))
    want, std = mean + gain @ (y - H @ mean), (C - gain @ H @ C).diagonal().sqrt()
    result = iv.solve(A, y, padded, noise=0.3, num_samples=4000)
    assert result.strategy == "Exact" and result.shape == (12,)
    assert float(((result.samples.mean(0) - want) / std).abs().max()) < 5 / 4000**0.5
    assert float((result.samples.std(0) / std - 1).abs().max()) < 5 / 8000**0.5


def test_refusals_of_padded_fields():
    free = pri.GaussianFieldPrior((4,), pri.Spectrum(lambda k: 1 / (1 + k)))
    with pytest.raises(InputError, match="`margin` must be given, for a spectrum that is no Matern"):
        free.padded()
    with pytest.raises(InputError, match="`spectrum` must be a function, which knows the modes"):
        pri.GaussianFieldPrior((4,), torch.ones(4)).padded(0.1)
    with pytest.raises(InputError, match="`margin` must be positive"):
        free.padded(-1.0)
