"""Entries that are alike are resolved once: the same answers as each alone, and none that differs is taken for another."""

import math

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.core.stopping import OutOfTime, ask, ended_by
from invsolve.separable import posterior as separable
from invsolve.separable.kinds import Kinds, hashes

D = torch.float64
N = 48
LAPLACE = iv.priors.SparsePrior(shape=(N,), coefficients=iv.priors.Laplace(scale=1.0), dtype=D)
ALL = iv.operators.Mask(mask=torch.ones(N, dtype=torch.bool))
COUNTS = torch.tensor([0.0, 1.0, 0.0, 5.0] * (N // 4), dtype=D)
POISSON = iv.noise.Poisson(2.0, background=0.3)


def counted(monkeypatch):
    """The numbers of densities that were resolved."""
    found, resolve = [], separable.resolve
    monkeypatch.setattr(separable, "resolve", lambda f, count, device: found.append(count) or resolve(f, count, device))
    return found


def test_kinds_stand_in_for_their_members():
    kinds = Kinds.of(torch.tensor([7, 3, 7, 7, 3]))
    assert kinds.count == 2 and kinds.kind.tolist() == [1, 0, 1, 1, 0] and kinds.example.tolist() == [1, 0]
    assert kinds.places(torch.tensor([1, 1, 0, 1, 1, 0, 0])).tolist() == [0, 2, 1, 3, 0, 4, 1]
    assert Kinds.apart(3, torch.device("cpu")).count == 3


def test_hashes_tell_data_values_and_what_is_hardly_possible_apart():
    def value(z):
        return torch.where(torch.tensor([True, True, True, False, False]), -z.square(), -torch.inf)

    data, points = torch.tensor([1, 1, 2, 1, 1]), torch.linspace(-1, 1, 40, dtype=D)
    keys = hashes(value, lambda z: z, data, points).tolist()
    assert keys[0] == keys[1] and len(set(keys)) == 4  # the last two are possible nowhere that was looked at
    assert hashes(value, lambda z: z, torch.arange(5), points).tolist() == list(range(5))  # all differ


@pytest.mark.parametrize("reproducible", [False, True])
def test_alike_entries_are_resolved_once(monkeypatch, reproducible):
    """As many densities as counts, whether or not an item is bound eight times over; the posterior is the same."""
    options = {"noise": POISSON, "num_samples": 8, "reproducible": reproducible}
    found = counted(monkeypatch)
    y = COUNTS.expand(2, -1) + torch.tensor([[0.0], [1.0]], dtype=D)
    merged = iv.solve(ALL, y, LAPLACE, **options)
    assert set(found) == {6}  # three an item, and items are apart
    monkeypatch.setattr(separable, "hashes", lambda log, signal, data, points: torch.arange(len(data)))
    alone = iv.solve(ALL, y, LAPLACE, **options)
    assert max(found) == N * (8 if reproducible else 2)
    # To the rounding of vectorised functions, which depends on where a number stands.
    for a, b in ((merged.samples, alone.samples), (merged.mean, alone.mean), (merged.std, alone.std)):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)
    assert torch.allclose(merged.quantile(0.9), alone.quantile(0.9), rtol=1e-10)
    assert torch.allclose(merged.log_evidence, alone.log_evidence, rtol=1e-12)


def test_an_item_does_not_depend_on_others(monkeypatch):
    """Bitwise, also where the others have the same counts."""
    y = torch.stack([COUNTS, COUNTS.flip(0), COUNTS + 1])
    options = {"noise": POISSON, "num_samples": 3, "reproducible": True}
    together = iv.solve(ALL, y, LAPLACE, **options)
    for b in range(3):
        alone = iv.solve(ALL, y[b], LAPLACE, item_ids=[b], **options)
        assert torch.equal(alone.samples, together.samples[:, b])


def test_entries_that_differ_where_the_posterior_is_are_resolved_alone(monkeypatch):
    """A detector whose second half bends between the points that were looked at: found out, and done again."""
    late = torch.arange(N) >= N // 2

    def detector(x):
        bump = 0.02 * torch.exp(-0.5 * ((x - 2.297) / 0.004) ** 2)
        return x + torch.where(late, bump, 0.0)

    prior = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=torch.eye(N, dtype=D))
    A = iv.operators.from_callable(detector, (N,), (N,))
    y = torch.full((N,), 2.3, dtype=D)
    found = counted(monkeypatch)
    result = iv.solve(A, y, prior, noise=0.01, num_samples=64)
    assert found == [1, N]
    plain = iv.solve(ALL, y, prior, noise=0.01, num_samples=64)
    assert torch.allclose(result.mean[~late], plain.mean[~late], rtol=1e-9)
    x = np.linspace(2.2, 2.4, 200_001)
    weight = np.exp(-0.5 * x**2 - 0.5 * ((2.3 - x - 0.02 * np.exp(-0.5 * ((x - 2.297) / 0.004) ** 2)) / 0.01) ** 2)
    mean = (weight * x).sum() / weight.sum()
    std = math.sqrt((weight * (x - mean) ** 2).sum() / weight.sum())
    assert np.abs(result.mean[late].numpy() - mean).max() < 1e-7
    assert np.abs(result.std[late].numpy() - std).max() < 1e-7


def test_quadrature_ends_within_a_budget_and_says_so(monkeypatch):
    """It was expected to take nothing, and is ended after most of the budget: chains have the rest."""
    from invsolve.solving import solve as solving

    monkeypatch.setattr(solving, "affords_quadrature", lambda *arguments: True)
    A = iv.operators.from_callable(lambda x: x + 0.1 * x**3, (N,), (N,))
    prior = iv.priors.GaussianPrior(mean=torch.zeros(N, dtype=D), covariance=torch.eye(N, dtype=D))
    y = torch.linspace(-2, 2, N, dtype=D)
    options = {"noise": iv.noise.Laplace(0.1), "num_samples": 4}
    result = iv.solve(A, y, prior, budget=iv.Budget(evaluations=500), **options)
    assert result.strategy == "NoiseMCMC" and "quadrature would not end within the budget" in result.why
    assert not result.certificate.reached
    assert iv.solve(A, y, prior, budget=iv.Budget(evaluations=10**5), **options).certificate.exact


def test_work_asks_whether_it_is_over():
    ask()
    over = [False]
    with ended_by(lambda: over[0]):
        ask()
        over[0] = True
        with pytest.raises(OutOfTime):
            ask()
    ask()
