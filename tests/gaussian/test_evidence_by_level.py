"""Log p(y) for every noise level by one decomposition, against dense covariances and sums over Fourier modes."""

from __future__ import annotations

import math

import pytest
import torch

import invsolve as iv
from invsolve.gaussian.evidence_by_level import evidence_by_level

D = torch.float64
LEVELS = (0.02, 0.3, 5.0)


def random(*shape, seed=0, dtype=D):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def field(shape, basis, kind="real", std=1.3):
    spectrum = iv.priors.Matern(std=std, length=0.3, smoothness=0.5)
    return iv.priors.GaussianFieldPrior(shape=shape, spectrum=spectrum, basis=basis, mean=0.4, kind=kind, dtype=D)


def dense(prior, problem, level):
    """log N(y; A m, A C A^T + s^2 G) over the real numbers that were observed, from unit signals; and its terms."""
    A, kind = problem.operator, prior.kind
    n = math.prod(prior.shape)
    unit = torch.eye(n, dtype=D).view(n, *prior.shape)
    units = torch.cat([unit, 1j * unit]) if kind == "complex" else unit

    def flat(v):
        return torch.view_as_real(v).flatten(1) if v.is_complex() else v.flatten(1)

    modes = prior.law.modes
    covariance_of = modes.synthesis(prior.law.variances * modes.adjoint(units))  # C of every real unit
    matrix, image = flat(A(units)), flat(A(covariance_of))  # rows A e_i and A C e_i
    total = matrix.mT @ image
    noise = problem.noise
    total = total + level**2 * (
        noise.std**2 * torch.eye(len(total), dtype=D) if noise.covariance is None else noise.covariance
    )
    residual = flat(problem.data - A(prior.mean[None]))
    if A.observed is not None:
        seen = A.observed.expand(problem.data.shape[1:])[None].to(problem.data.dtype)
        keep = flat(seen * (1 + 1j) if seen.is_complex() else seen)[0] > 0
        total, residual = total[keep][:, keep], residual[:, keep]
    return torch.distributions.MultivariateNormal(torch.zeros(len(total), dtype=D), total).log_prob(residual)


CASES = {
    # name: operator, prior, sides of what is decomposed (None: a block that is diagonal)
    "shared modes": (lambda: iv.operators.GaussianBlur(1.2, (6, 7), dtype=D), field((6, 7), "periodic"), [None]),
    "a kernel that is not symmetric": (
        lambda: iv.operators.Blur(torch.tensor([0.1, 0.5, 0.4], dtype=D), (9,)),
        field((9,), "periodic"),
        [None],
    ),
    "mirrors": (
        lambda: iv.operators.GaussianBlur(1.2, (6, 6), dtype=D),
        field((6, 6), "neumann"),
        [None, 9, 9, 9],
    ),
    "a mirror along one axis": (
        lambda: iv.operators.Blur(torch.tensor([[0.2, 0.5, 0.2], [0.0, 0.1, 0.0]], dtype=D), (4, 6), boundary="zero"),
        field((4, 6), "dirichlet"),
        [12, 12],
    ),
    "no mirror": (
        lambda: iv.operators.GaussianBlur(1.2, (6, 6), boundary="zero", dtype=D),
        field((6, 6), "periodic"),
        [36],
    ),
    "fewer data": (None, field((6, 6), "neumann"), [5]),
    "missing data": (
        lambda: iv.operators.Mask(random(5, 5, seed=3) > 0, in_shape=(5, 5)),
        field((5, 5), "neumann"),
        [25],
    ),
    "complex": (
        None,
        field((6, 6), "neumann", kind="complex"),
        [72],
    ),
}


def operator(name):
    if name == "fewer data":
        matrix = random(5, 36)
        return iv.operators.from_callable(
            lambda x: x.flatten(1) @ matrix.mT,
            (6, 6),
            (5,),
            kind="linear",
            adjoint=lambda y: (y @ matrix).view(-1, 6, 6),
        )
    if name == "complex":
        return iv.operators.MRI(random(6, 6, seed=4) > -0.3, (6, 6)).to(dtype=D)
    return CASES[name][0]()


@pytest.mark.parametrize("name", CASES)
def test_every_level_against_dense_covariances(name):
    _, prior, sides = CASES[name]
    A = operator(name)
    problem = iv.Problem(
        A, random(2, *A.out_shape, dtype=torch.complex128 if A.out_kind == "complex" else D), noise=0.7
    )
    found, factors = evidence_by_level(prior.law, problem)
    assert [None if q is None else len(q) for _, q in factors.blocks] == sides
    for level in LEVELS:
        log, se = found.at(level)
        want = dense(prior, problem, level)
        assert ((log - want).abs() <= se + 1e-12 * want.abs()).all(), (log - want, se)
        assert float(se.max()) < 1e-5


def test_noise_with_a_covariance():
    root = random(6, 6, seed=5)
    noise = iv.noise.Gaussian(covariance=root @ root.mT + torch.eye(6, dtype=D))
    prior = iv.priors.GaussianPrior(mean=random(6), covariance=torch.eye(6, dtype=D) + 0.5)
    problem = iv.Problem(iv.operators.Matrix(random(6, 6, seed=6)), random(1, 6, seed=7), noise=noise)
    found, _ = evidence_by_level(prior.law, problem)
    for level in LEVELS:
        assert torch.allclose(found.at(level).log, dense(prior, problem, level), atol=1e-9)


def test_single_precision_is_that_of_its_numbers():
    """Kernel, spectrum and data are rounded; what follows from them is not."""
    prior = field((6, 6), "neumann").to(dtype=torch.float32)
    A = iv.operators.GaussianBlur(1.2, (6, 6))
    problem = iv.Problem(A, random(1, 6, 6, dtype=torch.float32), noise=0.1)
    wide = prior.law.to(dtype=D)
    found, _ = evidence_by_level(prior.law, problem)
    again, _ = evidence_by_level(wide, problem.to(dtype=D))
    assert torch.equal(found.at(0.5).log, again.at(0.5).log) and found.values.dtype == D


def test_fields_of_any_size_where_modes_are_shared():
    """A sum over 65,536 Fourier modes, by torch's own transform."""
    n = 256
    prior = field((n, n), "periodic")
    A = iv.operators.GaussianBlur(2.0, (n, n), dtype=D)
    y = random(n, n)
    found, factors = evidence_by_level(prior.law, iv.Problem(A, y, noise=1.0))
    assert factors.largest == 0
    k = 2 * math.pi * torch.fft.fftfreq(n, d=1 / n, dtype=D)
    eigenvalues = k[:, None] ** 2 + k**2
    power = n * n * prior.spectrum.variances(eigenvalues, "periodic", (1.0, 1.0))
    line = torch.exp(-0.5 * (torch.arange(-8, 9, dtype=D) / 2.0) ** 2)
    line = torch.fft.fft(torch.zeros(n, dtype=D).index_add(0, torch.arange(-8, 9) % n, line / line.sum())).abs()
    residual = torch.fft.fft2(y - 0.4, norm="ortho").abs().square()
    for level in LEVELS:
        total = power * torch.outer(line, line) ** 2 + level**2
        want = -0.5 * (residual / total + total.log() + math.log(2 * math.pi)).sum()
        assert float((found.at(level).log - want).abs()) <= float(found.at(level).se) + 1e-11 * abs(float(want))


def test_a_gain_and_a_scale_of_the_prior_need_no_second_decomposition():
    prior, louder = field((6, 6), "periodic"), field((6, 6), "periodic", std=2.6)
    kernel = torch.tensor([[0.5, 0.3], [0.1, 0.1]], dtype=D)

    def problem(gain):
        return iv.Problem(iv.operators.Blur(gain * kernel, (6, 6), boundary="zero"), random(1, 6, 6), noise=0.5)

    first, factors = evidence_by_level(prior.law, problem(1.0))
    for law, gain in ((prior.law, 3.0), (louder.law, 1.0)):
        found, again = evidence_by_level(law, problem(gain), like=[factors])
        alone, own = evidence_by_level(law, problem(gain))
        assert again.blocks[0][1] is factors.blocks[0][1] and own.blocks[0][1] is not factors.blocks[0][1]
        assert torch.allclose(found.at(0.3).log, alone.at(0.3).log, atol=1e-9)
    _, other = evidence_by_level(field((6, 6), "neumann").law, problem(1.0), like=[factors])
    assert other.blocks[0][1] is not factors.blocks[0][1]


def test_what_cannot_be_decomposed():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3, dtype=D), covariance=torch.eye(3, dtype=D))
    masks = iv.operators.Mask(torch.tensor([[True, False, True], [True, True, True]]), in_shape=(3,))
    assert evidence_by_level(prior.law, iv.Problem(masks, random(2, 3), noise=1.0)) is None  # another for every item
    bent = iv.operators.from_callable(lambda x: x**2, (3,), (3,))
    assert evidence_by_level(prior.law, iv.Problem(bent, random(1, 3), noise=1.0)) is None
    large = field((80, 80), "periodic")
    zero = iv.operators.GaussianBlur(1.0, (80, 80), boundary="zero", dtype=D)
    assert evidence_by_level(large.law, iv.Problem(zero, random(1, 80, 80), noise=1.0)) is None


@pytest.mark.parametrize(("big", "median", "factor"), [(300.0, 0.1, 1.3), (1000.0, 1.0, 1.2)])
def test_a_strong_mode_hides_no_other(big, median, factor):
    """An offset that is not known beside a field of unknown std: members agree to 1e-6 of their norm, and differ.

    The offset once made them multiples of each other: "certified", and 36 posterior stds off.
    """
    n, noise = 24, median
    law = iv.LogNormal(median=median, factor=factor)

    def member(t):
        covariance = big**2 * torch.ones(n, n, dtype=D) + t**2 * torch.eye(n, dtype=D)
        return iv.priors.GaussianPrior(torch.zeros(n, dtype=D), covariance)

    y = 0.3 * big + 1.4 * noise * torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=D)
    A = iv.operators.Matrix(torch.eye(n, dtype=D))
    result = iv.solve(A, y, iv.priors.Family(member, t=law), noise=noise, num_samples=200)
    z = torch.linspace(-5, 5, 401, dtype=D)
    t = law.transport(z)
    total = [big**2 * torch.ones(n, n, dtype=D) + (v**2 + noise**2) * torch.eye(n, dtype=D) for v in t.tolist()]
    log = [torch.distributions.MultivariateNormal(torch.zeros(n, dtype=D), c).log_prob(y) for c in total]
    weight = torch.softmax(torch.stack(log) - z**2 / 2, 0)
    mean = (weight * t).sum()
    std = (weight * (t - mean) ** 2).sum().sqrt()
    assert abs(float(result["prior.t"].mean - mean)) < 5 * float(std) * 200**-0.5
    assert abs(float(result["prior.t"].std / std) - 1) < 5 * 400**-0.5


@pytest.mark.parametrize("strong", [1.0, 1e3, 1e5])
def test_a_strong_entry_makes_nothing_diagonal(strong):
    """Entries of stds (strong, 1, 1, ...) behind an operator that mixes the others: the dense evidence."""
    n, noise = 12, 0.1
    std = torch.ones(n, dtype=D)
    std[0] = strong
    M = 0.8 ** (torch.arange(n)[:, None] - torch.arange(n)).abs().to(D)
    M[0, 1:] = M[1:, 0] = 0.0
    prior = iv.priors.GaussianPrior(torch.zeros(n, dtype=D), torch.diag(std**2))
    y = M @ (std * torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=D))
    problem = iv.Problem(iv.operators.Matrix(M), y[None], 1.0)
    found = evidence_by_level(prior.law, problem)[0].at(noise)
    covariance = M @ torch.diag(std**2) @ M.mT + noise**2 * torch.eye(n, dtype=D)
    dense = torch.distributions.MultivariateNormal(torch.zeros(n, dtype=D), covariance).log_prob(y)
    assert abs(float(found.log[0] - dense)) <= 1e-9 * abs(float(dense)) + float(found.se[0]) < 0.05
