"""What examples claim to find, against references of other programs: their own chains, their own simulators."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import invsolve as iv

F64 = torch.float64
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def agrees(result: iv.Result, mean: torch.Tensor, std: torch.Tensor) -> None:
    """Mean within 0.1 posterior standard deviations, std within 5 %, in every entry, of the ensemble."""
    assert result.statistics["mean"] == result.statistics["std"] == "ensemble"
    off = ((result.mean.double() - mean) / std).abs().max()
    ratio = result.std.double() / std
    assert float(off) < 0.1, float(off)
    assert 0.95 < float(ratio.min()) and float(ratio.max()) < 1.05, ratio


def spectrum_by_hamiltonian_chains(example: ModuleType, chains=400, rounds=400) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the intensity: chains of log x around the mode, in its Gauss-Newton metric; no code of ours.

    The covariance is that of the field at the channels, and the response the matrix of the blur.
    """
    n = example.CHANNELS
    unit = torch.eye(n, dtype=F64)
    field = example.field.to(dtype=F64)
    C = field.transport(unit)[0] - field.mean  # rows: the columns of a root of the covariance
    R = example.A.to(dtype=F64)(unit).mT  # data, signal
    y = example.counts.double()

    def energy(z):
        expected = torch.exp(3.0 + z @ C) @ R.mT + example.BACKGROUND
        return (expected - y * expected.log()).sum(-1) + 0.5 * z.square().sum(-1)

    def gradient(z):
        x = torch.exp(3.0 + z @ C)
        expected = x @ R.mT + example.BACKGROUND
        return (((1 - y / expected) @ R) * x) @ C.mT + z

    def hessian(z):
        x = torch.exp(3.0 + z @ C)
        J = C * x @ R.mT  # of the expected counts, (z, data)
        return (J / (x @ R.mT + example.BACKGROUND)) @ J.mT + unit

    z = torch.zeros(n, dtype=F64)
    for _ in range(50):
        step = torch.linalg.solve(hessian(z), gradient(z))
        scale = 1.0
        while float(energy(z - scale * step)) > float(energy(z)) and scale > 1e-4:
            scale /= 2
        z = z - scale * step
    L = torch.linalg.inv(torch.linalg.cholesky(hessian(z))).mT  # z = mode + L w
    rng = torch.Generator().manual_seed(1)
    w = torch.zeros(chains, n, dtype=F64)  # from the mode: far out steps are too long to be accepted
    total, square, kept, accepted = 0.0, 0.0, 0, 0.0
    for i in range(rounds):
        p = torch.randn(w.shape, generator=rng, dtype=F64)
        e, leaps = 0.35, 1 + int(torch.randint(5, (1,), generator=rng))
        before = energy(z + w @ L.mT) + 0.5 * p.square().sum(-1)
        v, q = w, p - 0.5 * e * gradient(z + w @ L.mT) @ L
        for k in range(leaps):
            v = v + e * q
            q = q - (e if k + 1 < leaps else 0.5 * e) * gradient(z + v @ L.mT) @ L
        after = energy(z + v @ L.mT) + 0.5 * q.square().sum(-1)
        take = torch.rand(chains, generator=rng, dtype=F64).log() < before - after
        w = torch.where(take[:, None], v, w)
        accepted += float(take.double().mean()) / rounds
        if i >= rounds // 4:
            x = torch.exp(3.0 + (z + w @ L.mT) @ C)
            total, square, kept = total + x.mean(0), square + x.square().mean(0), kept + 1
    assert accepted > 0.6
    mean = total / kept
    return mean, (square / kept - mean.square()).sqrt()


@pytest.mark.slow
def test_spectrum():
    example = module("spectrum")
    result = iv.solve(example.A, example.counts, example.prior, noise=example.noise, budget=60, seed=1)
    assert bool(result.certificate.passed.all()) and result.num_samples in (199, 999)
    agrees(result, *spectrum_by_hamiltonian_chains(example))


def lotka_volterra_by_importance(example: ModuleType, rough: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of the parameters by importance sampling in their logarithms, Runge-Kutta for all draws at once.

    The proposal is Student's t around ``rough`` draws ``(n, 4)``, with twice their covariance: right for any proposal
    that covers the posterior, which the effective number of draws tells.
    """
    draws, dof, steps = 20000, 5, 20  # steps of Runge-Kutta a year
    rng = np.random.default_rng(1)
    logs = np.log(rough.numpy())
    centre, root = logs.mean(0), np.linalg.cholesky(2 * np.cov(logs.T))
    z = rng.standard_normal((draws, 4)) / np.sqrt(rng.chisquare(dof, (draws, 1)) / dof)
    theta = centre + z @ root.T
    a, b, c, d = np.exp(theta).T
    n = np.stack([np.full(draws, 30.0), np.full(draws, 20.0)])

    def rates(n):
        return np.stack([n[0] * (a - b * n[1]), n[1] * (d * n[0] - c)])

    misfit, h = np.zeros(draws), 1.0 / steps
    for year in range(15):
        for _ in range(steps):
            k1 = rates(n)
            k2 = rates(n + h / 2 * k1)
            k3 = rates(n + h / 2 * k2)
            n = n + h / 6 * (k1 + 2 * k2 + 2 * k3 + rates(n + h * k3))
        misfit += (((example.y[:, year, None] - np.log(n)) / example.NOISE) ** 2).sum(0)
    width = math.log(1.35)
    prior = (((theta - np.log([0.6, 0.03, 0.8, 0.02])) / width) ** 2).sum(1)
    proposal = -(dof + 4) / 2 * np.log1p((z**2).sum(1) / dof)
    log = -0.5 * (misfit + prior) - proposal
    w = np.exp(log - log.max())
    w /= w.sum()
    assert 1 / (w**2).sum() > 5000
    x = np.exp(theta)
    mean = w @ x
    return torch.tensor(mean), torch.tensor(np.sqrt(w @ (x - mean) ** 2))


@pytest.mark.slow
def test_lotka_volterra():
    example = module("lotka_volterra")
    budget = iv.Budget(evaluations=12_000)  # a minute at 5 ms a call
    result = iv.solve(example.A, example.y, example.prior, noise=example.NOISE, budget=budget, seed=1)
    assert bool(result.certificate.passed.all())
    agrees(result, *lotka_volterra_by_importance(example, result.samples))
    for i, name in enumerate(example.TRUTH):
        assert torch.equal(result[name].samples, result.samples[:, i])


def test_heat():
    """Against the dense formula: the solver's matrix is that of identity columns, the covariance that of the field."""
    example = module("heat")
    unit = torch.eye(example.N, dtype=F64)
    H = example.readings(unit).mT
    root = example.prior.transport(unit)[0] - example.prior.mean
    C = root.mT @ root
    gain = C @ H.mT @ torch.linalg.inv(H @ C @ H.mT + example.NOISE**2 * torch.eye(len(H), dtype=F64))
    std = (C - gain @ H @ C).diagonal().sqrt()
    result = iv.solve(example.A, example.y, example.prior, noise=example.NOISE, budget=60)
    assert float(((result.mean - gain @ example.y) / std).abs().max()) < 1e-8
    assert float((result.std / std - 1).abs().max()) < 1e-8


@pytest.mark.slow
def test_darcy():
    """Against replica exchange (`benchmarks/darcy_reference.py`, known to 0.011 stds and 0.7 %).

    The budget is as many rows as took 45 s of one core, so that what is found does not depend on what else runs there.
    """
    example = module("darcy")
    budget = iv.Budget(evaluations=360_000)
    result = iv.solve(example.A, example.y, example.prior, noise=example.NOISE, budget=budget)
    table = torch.from_numpy(np.loadtxt(Path(__file__).parent / "references" / "darcy.csv", delimiter=","))
    mean, std, mean_error, std_error = (column.view(example.N, example.N) for column in table.mT)
    assert float(mean_error.max()) < 0.03 and float(std_error.max()) < 0.01
    off, ratio = (result.mean - mean) / std, result.std / std
    print(f"{float(off.abs().max()):.3f} std, {float(ratio.min()):.3f} to {float(ratio.max()):.3f}; {result}")
    agrees(result, mean, std)


def test_the_adjoint_of_darcy_is_that_of_its_solver():
    """The derivative of the pressures along a direction, by differences of the solver alone, without torch."""
    example = module("darcy")
    rng = np.random.default_rng(0)
    logs, along = 0.5 * rng.standard_normal((2, 3, example.N, example.N))
    weight = rng.standard_normal((3, len(example.WELLS)))
    step = 1e-5
    change = (example.pressure(logs + step * along) - example.pressure(logs - step * along)) / (2 * step)
    slope = (example.adjoint(logs, weight) * along).sum((1, 2))
    assert slope == pytest.approx((change * weight).sum(1), rel=1e-6)
