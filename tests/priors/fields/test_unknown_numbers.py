"""Fields of which a number is not known: one line makes the family, `solve` infers it; against quadrature."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, UnsupportedError

F64 = torch.float64
MATERN = iv.priors.Matern(iv.LogNormal(1.0, 2.0), iv.LogUniform(0.1, 1.0), smoothness=iv.LogUniform(0.5, 2.5))


def test_a_spectrum_with_distributions_gives_the_family():
    grid = iv.CartesianGrid((12,), extent=2.0, points="periodic")
    family = iv.priors.GaussianFieldPrior(grid, MATERN, mean=0.3, dtype=F64)
    assert isinstance(family, iv.priors.Family)
    assert dict(family.unknown) == {"std": MATERN.std, "length": MATERN.length, "smoothness": MATERN.smoothness}
    member = family.at(std=0.7, length=0.4, smoothness=1.0)
    known = iv.priors.GaussianFieldPrior(grid, iv.priors.Matern(0.7, 0.4, smoothness=1.0), mean=0.3, dtype=F64)
    assert torch.equal(member.law.variances, known.law.variances)
    assert member.grid == grid
    assert family.on((30,)).at(std=0.7, length=0.4, smoothness=1.0).grid == grid.on((30,))
    assert family.fingerprint() == copy.deepcopy(family).fingerprint()
    whittle = iv.priors.Whittle(iv.LogUniform(1.0, 9.0), 2.0, amplitude=iv.LogNormal(1.0, 2.0))
    assert set(iv.priors.GaussianFieldPrior((5,), whittle).unknown) == {"kappa", "amplitude"}
    assert isinstance(iv.priors.GaussianFieldPrior(spectrum=whittle, shape=(5,)), iv.priors.Family)


def test_fields_that_are_known_copy_as_they_did():
    prior = iv.priors.GaussianFieldPrior((5,), iv.priors.Matern(1.0, 0.3))
    assert torch.equal(copy.deepcopy(prior).law.variances, prior.law.variances)


def test_refusals():
    with pytest.raises(InputError, match=r"`noise_spectrum` must be known"):
        iv.priors.GaussianFieldPrior((5,), iv.priors.Matern(1.0, 0.3), noise_spectrum=MATERN)
    with pytest.raises(InputError, match=r"Matern: `length` must be a distribution of positive numbers"):
        iv.priors.Matern(1.0, iv.Normal(0.3, 0.1))
    with pytest.raises(UnsupportedError, match="std is not known"):
        MATERN.variances(torch.ones(3), "neumann", (1.0,))
    with pytest.raises(UnsupportedError, match=r"priors.Family.on: GaussianPrior has no `on`"):
        iv.priors.Family(
            lambda s: iv.priors.GaussianPrior(torch.zeros(2), s * torch.eye(2)), s=iv.LogNormal(1.0, 2.0)
        ).on((3,))


def quadrature(problem, family, laws, points):
    """Means and stds of the scalars and the field by a tensor grid over their quantiles."""
    matrix, y, noise = problem
    levels = (torch.arange(points, dtype=F64) + 0.5) / points
    axes = [law.quantile(levels) for law in laws.values()]
    logs, thetas, means, variances = [], [], [], []
    for values in np.array(np.meshgrid(*[a.numpy() for a in axes], indexing="ij")).reshape(len(axes), -1).T:
        named = dict(zip(laws, values.tolist(), strict=True))
        std = named.pop("noise", noise)
        law = family.at(**named).law
        C = law.modes.synthesis(law.variances * law.modes.adjoint(torch.eye(matrix.shape[1], dtype=F64)))
        S = matrix @ C @ matrix.mT + std**2 * torch.eye(len(matrix), dtype=F64)
        gain = C @ matrix.mT @ torch.linalg.inv(S)
        logs.append(torch.distributions.MultivariateNormal(torch.zeros(len(y), dtype=F64), S).log_prob(y))
        thetas.append(values)
        means.append(gain @ y)
        variances.append((C - gain @ matrix @ C).diagonal())
    w = torch.softmax(torch.stack(logs), 0)
    thetas, means, variances = torch.from_numpy(np.array(thetas)), torch.stack(means), torch.stack(variances)
    scalar = w @ thetas
    mean = w @ means
    spread = (w @ (variances + means.square()) - mean.square()).sqrt()
    return scalar, (w @ thetas.square() - scalar.square()).sqrt(), mean, spread, torch.logsumexp(torch.stack(logs), 0)


@pytest.mark.parametrize(
    "unknown",
    [
        ("length",),
        ("smoothness",),
        pytest.param(("std", "length"), marks=pytest.mark.slow),
        pytest.param(("length", "noise"), marks=pytest.mark.slow),
    ],
)
def test_inferred_by_one_line_as_by_quadrature(unknown):
    n, m = 20, 12
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(m, n, dtype=F64, generator=generator) / n**0.5
    laws = {
        "std": iv.LogNormal(1.0, 1.5),
        "length": iv.LogUniform(0.1, 1.0),
        "smoothness": iv.LogUniform(0.5, 2.5),
        "noise": iv.LogNormal(0.1, 1.5),
    }
    known = {"std": 1.0, "length": 0.4, "smoothness": 1.5, "noise": 0.1}
    truth = iv.priors.GaussianFieldPrior((n,), iv.priors.Matern(1.0, 0.4), dtype=F64).sample(1, seed=1)[0]
    y = matrix @ truth + 0.1 * torch.randn(m, dtype=F64, generator=generator)
    given = known | {name: laws[name] for name in unknown}
    spectrum = iv.priors.Matern(given["std"], given["length"], smoothness=given["smoothness"])
    prior = iv.priors.GaussianFieldPrior((n,), spectrum, dtype=F64)
    noise = iv.noise.Gaussian(given["noise"])
    result = iv.solve(iv.operators.Matrix(matrix), y, prior, noise=noise, num_samples=256, seed=0)
    points = 200 if len(unknown) == 1 else 60
    scalar, spread, mean, std, _ = quadrature((matrix, y, 0.1), prior, {u: laws[u] for u in unknown}, points)
    for i, name in enumerate(unknown):
        found = result["noise.std" if name == "noise" else f"prior.{name}"]
        # The lattice is at a third of a posterior std or closer: 1 % of the std, as its own documentation says.
        assert float(found.mean) == pytest.approx(float(scalar[i]), abs=0.02 * float(spread[i]))
        assert float(found.std) == pytest.approx(float(spread[i]), rel=0.02)
    gap = (result.samples.mean(0) - mean).abs() / std
    assert float(gap.max()) < 5 / 256**0.5
    ratio = result.samples.std(0) / std
    assert float((ratio - 1).abs().max()) < 5 / (2 * 256) ** 0.5


@pytest.mark.slow
def test_a_transformed_field_with_an_unknown_length():
    """exp of the family: the log-permeability of a medium of unknown correlation length, non-linear data."""
    field = iv.priors.GaussianFieldPrior((6,), iv.priors.Matern(0.5, iv.LogUniform(0.1, 1.0)), dtype=F64)
    A = iv.operators.Matrix(torch.eye(6, dtype=F64))
    truth = field.at(length=0.5).exp().sample(1, seed=1)
    result = iv.solve(
        A,
        truth[0],
        field.exp(),
        noise=0.05,
        strategy=iv.strategies.NoiseMCMC(num_steps=20),
        num_samples=32,
        seed=0,
        hierarchy=iv.Hierarchy(spacing=1.0),
    )
    assert bool((result.samples > 0).all())
    assert 0.1 < float(result["prior.length"].mean) < 1.0
