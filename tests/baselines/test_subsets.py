"""OS-SART against block Kaczmarz on dense matrices, MLEM against its likelihood, fixed points and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from ct_phantoms import FAN, blob, turn
from operator_cases import Numbers

import invsolve as iv
from invsolve.baselines import mlem, os_sart, sirt
from invsolve.baselines.subsets import golden_order

ops = iv.operators
F64 = torch.float64


def dense(A: ops.LinearOperator) -> torch.Tensor:
    n = math.prod(A.in_shape)
    return A(torch.eye(n, dtype=F64).view(n, *A.in_shape)).flatten(1).mT


# --- OS-SART ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fan", [False, True])
@pytest.mark.parametrize("non_negative", [False, True])
def test_os_sart_is_block_kaczmarz(fan, non_negative):
    """With the weights of SIRT in every block, of a dense matrix, in the stated order of blocks."""
    grid, views, subsets = (5, 4), 7, 3
    A = ops.FanBeam(turn(views, 6.0), grid, **FAN) if fan else ops.ParallelBeam(turn(views, first=0.2), grid)
    y = Numbers(0).randn(2, *A.out_shape)
    matrix = dense(A).view(views, -1, 20)
    x = torch.zeros(2, 20, dtype=F64)
    for _ in range(4):
        for first in golden_order(subsets):
            block, data = matrix[first::subsets].flatten(0, 1), y[:, first::subsets].flatten(1)
            rows, columns = block.sum(1), block.sum(0)
            R, C = (torch.where(s > 1e-8 * s.max(), 1 / s, 0) for s in (rows, columns))
            x = x + 0.7 * C * (((data - x @ block.mT) * R) @ block)
            x = x.clamp_min(0) if non_negative else x
    found = os_sart(A, y, subsets=subsets, iterations=4, relaxation=0.7, non_negative=non_negative)
    assert torch.allclose(found.flatten(1), x, atol=1e-12)


def test_one_subset_is_sirt_and_many_are_faster():
    A = ops.ParallelBeam(turn(30), (24, 24), pixel_size=128 / 24)
    truth = blob(A, 7.0, -11.0, 14.0)[None]
    y = A(truth)
    assert torch.allclose(os_sart(A, y, subsets=1, iterations=6), sirt(A, y, iterations=6), atol=1e-12)
    fast, slow = (float((x - truth).norm()) for x in (os_sart(A, y, iterations=3), sirt(A, y, iterations=3)))
    assert fast < 0.3 * slow
    items = ops.ParallelBeam(torch.stack([turn(6), turn(6, first=0.1)]), (5, 5), bins=8)
    x = Numbers(0).signals(items, 2)
    together = os_sart(items, items(x), subsets=2)
    for i in range(2):
        one = items.take(torch.tensor([i]))
        assert torch.allclose(together[i : i + 1], os_sart(one, one(x[i : i + 1]), subsets=2), atol=1e-12)


def test_os_sart_stops_at_the_noise():
    """After the first pass whose residual is that of the noise; rows by themselves."""
    A = ops.ParallelBeam(turn(30), (24, 24), pixel_size=128 / 24)
    truth = blob(A, 7.0, -11.0, 14.0)[None]
    y = A(truth) + Numbers(0).randn(1, *A.out_shape)
    passes = [os_sart(A, y, iterations=n, subsets=5, relaxation=0.6) for n in range(1, 12)]
    left = [float((A(x) - y).square().mean().sqrt()) for x in passes]
    first = next(i for i, r in enumerate(left) if r <= 1.0)
    assert 0 < first < 10, left
    both = os_sart(A, torch.cat([y, 0 * y]), iterations=50, subsets=5, relaxation=0.6, noise_std=1.0)
    assert torch.allclose(both[:1], passes[first], atol=1e-10) and not both[1].any()


def test_order_of_subsets():
    for n in (1, 2, 3, 10, 16):
        order = golden_order(n)
        assert sorted(order) == list(range(n))
    order = golden_order(12)
    gaps = [min((a - b) % 12, (b - a) % 12) for a, b in zip(order, order[1:], strict=False)]
    assert min(gaps) >= 3  # far from the last one


# --- MLEM -------------------------------------------------------------------------------------------------------------
def log_likelihood(A: ops.LinearOperator, x: torch.Tensor, y: torch.Tensor, b: float) -> torch.Tensor:
    m = A(x) + b
    return (torch.xlogy(y, m) - m).flatten(1).sum(1)


def test_mlem_climbs_to_the_maximum():
    """The likelihood never falls; at the end the conditions of a maximum hold: A^T (y / m) = A^T 1, or less where x = 0."""
    A = ops.ParallelBeam(turn(9), (6, 5))
    truth = 3 * Numbers(0).rand(2, 6, 5)
    for b in (0.0, 0.5):
        y = torch.poisson(A(truth) + b, generator=torch.Generator().manual_seed(1))
        values = [
            log_likelihood(A, mlem(A, y, iterations=n, background=b, discrepancy=None), y, b)
            for n in (1, 2, 3, 5, 9, 40)
        ]
        assert all(bool((after >= before - 1e-9).all()) for before, after in zip(values, values[1:], strict=False))
        x = mlem(A, y, iterations=3000, background=b, discrepancy=None)
        slope = A.adjoint(torch.where(y > 0, y / (A(x) + b), 0)) - A.adjoint(torch.ones_like(y))
        assert float((x * slope).abs().max()) < 0.02 and float(slope.max()) < 0.02  # of sums of 5 to 9
        if not b:  # as many counts are expected as there are
            few = mlem(A, y, iterations=3, discrepancy=None)
            assert torch.allclose(A(few).flatten(1).sum(1), y.flatten(1).sum(1), rtol=1e-12)


def test_mlem_in_closed_form():
    """One pixel: all counts over all of the weights, at once; on top of a background, the mean without it over a."""
    a = torch.tensor([[0.5], [2.0], [1.5]], dtype=F64)
    y = torch.tensor([[3.0, 7.0, 2.0], [0.0, 1.0, 0.0]], dtype=F64)
    found = mlem(ops.Matrix(a), y, iterations=1, discrepancy=None)
    assert torch.allclose(found, y.sum(1, keepdim=True) / 4.0)
    flat = ops.Matrix(torch.full((3, 1), 2.0, dtype=F64))
    found = mlem(flat, y, iterations=4000, background=1.0, discrepancy=None)
    assert torch.allclose(found, ((y.mean(1, keepdim=True) - 1.0) / 2).clamp_min(0), atol=2e-3)  # 0 is reached slowly
    # A diagonal operator: y / a in one iteration; what no datum sees stays 0.
    gain = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=F64))
    found = mlem(ops.Matrix(gain), y * torch.tensor([1, 1, 0]), iterations=1, discrepancy=None)
    assert torch.allclose(found, torch.tensor([[3.0, 3.5, 0.0], [0.0, 0.5, 0.0]], dtype=F64), rtol=1e-14)


def test_mlem_stops_by_pearsons_statistic():
    """The first iterate whose mean of (y - m)^2 / m is at most one; it is nearer to the truth than that of very many."""
    A = ops.ParallelBeam(turn(30), (16, 16))
    truth = 4 * blob(A, 1.0, -2.0, 3.0)[None] + 0.1
    y = torch.poisson(A(truth), generator=torch.Generator().manual_seed(0))
    left = []
    for n in range(1, 40):
        x = mlem(A, y, iterations=n, discrepancy=None)
        m = A(x)
        left.append(float(torch.where(m > 0, (y - m).square() / m, 0).mean()))
        if left[-1] <= 1:
            break
    assert 1 < len(left) < 39
    found = mlem(A, y)
    assert torch.allclose(found, x, atol=1e-12)
    overdone = mlem(A, y, iterations=2000, discrepancy=None)
    assert float((found - truth).norm()) < 0.6 * float((overdone - truth).norm())
    both = mlem(A, torch.cat([y, 0 * y]))
    assert torch.allclose(both[:1], found, atol=1e-12) and not both[1].any()


def test_mlem_of_a_blur_by_fast_transforms_behind_a_mask():
    """The answer of its dense matrix: sums that are 0, to what transforms round, are 0, and nothing becomes negative."""
    for dtype, tol in ((torch.float32, 1e-3), (F64, 1e-9)):
        blur = ops.Blur(torch.ones(3, 3, dtype=dtype) / 9, (10, 9))
        half = torch.arange(10)[:, None].expand(10, 9) < 6
        A = ops.Mask(half) @ blur
        matrix = A(torch.eye(90, dtype=dtype).view(90, 10, 9)).flatten(1).mT
        matrix = torch.where(matrix < 0.01, 0, matrix)  # weights are 1/9
        truth = torch.zeros(1, 10, 9, dtype=dtype)
        truth[0, 2, 2], truth[0, 4, 5:8] = 900.0, 90.0
        y = torch.poisson((matrix @ truth.flatten()).view(1, 10, 9), generator=torch.Generator().manual_seed(0))
        found = mlem(A, y, iterations=60, discrepancy=None)
        exact = mlem(ops.Matrix(matrix), y.flatten(1), iterations=60, discrepancy=None)
        assert float((found.flatten(1) - exact).abs().max()) < tol * float(exact.max())
        assert float(found.min()) >= 0 and not found[0, 7:9].any()


def test_mlem_counts_only_what_was_observed():
    """As without the missing data: by its statistic, its background, and whatever stands there."""
    A = ops.ParallelBeam(turn(12), (8, 8))
    there = torch.arange(12)[:, None].expand(A.out_shape) % 3 == 0
    few = A.take_views(torch.arange(0, 12, 3))
    y = torch.poisson(A(40 * blob(A, 1.0, -1.0, 2.0)[None]) + 0.5, generator=torch.Generator().manual_seed(0))
    found = mlem(ops.Mask(there) @ A, torch.where(there, y, -7.0), background=0.5)
    assert torch.allclose(found, mlem(few, y[:, ::3], background=0.5), rtol=1e-9)
    assert torch.equal(mlem(ops.Mask(there) @ A, torch.where(there, y, torch.nan), background=0.5), found)


A2, Y2 = ops.ParallelBeam(turn(6), (4, 4)), torch.ones(1, 6, 6)
REFUSED = {
    "no scan": (lambda: os_sart(ops.Matrix(torch.eye(2)), torch.ones(1, 2)), "ParallelBeam or FanBeam.*For others: sirt"),
    "subsets": (lambda: os_sart(A2, Y2, subsets=7), "`subsets` must be at most 6, the number of views, got 7"),
    "no subsets": (lambda: os_sart(A2, Y2, subsets=0), "`subsets` must be at least 1"),
    "passes": (lambda: os_sart(A2, Y2, subsets=2, iterations=0), "`iterations` must be at least 1"),
    "relaxation": (lambda: os_sart(A2, Y2, subsets=2, relaxation=2.0), "`relaxation` must be larger than 0 and less than 2"),
    "noise": (lambda: os_sart(A2, Y2, subsets=2, noise_std=0.0), "`noise_std` must be positive"),
    "complex": (
        lambda: os_sart(ops.ParallelBeam(turn(2), (2, 2), kind="complex"), torch.ones(1, 2, 3), subsets=2), "`A` must be real"
    ),
    "negative counts": (lambda: mlem(A2, -Y2), "`counts` must be at least 0, got -1.0. Corrected counts"),
    "impossible counts": (lambda: mlem(ops.Matrix(torch.tensor([[1.0], [0.0]])), torch.ones(1, 2)), "Is there a background?"),
    "counts that are none": (lambda: mlem(A2, Y2 * torch.nan), "mlem: `counts` must be finite"),
    "negative entries": (lambda: mlem(ops.Matrix(-torch.eye(2)), torch.ones(1, 2)), "mlem: .*negative sums of columns"),
    "complex operator": (
        lambda: mlem(ops.Matrix(torch.eye(2, dtype=torch.complex64)), torch.ones(1, 2)), "`A` must be real"
    ),
    "background": (lambda: mlem(A2, Y2, background=-0.1), "`background` must be at least 0"),
    "shape of it": (lambda: mlem(A2, Y2, background=torch.ones(5)), "`background` must be broadcastable to"),
    "no background": (lambda: mlem(A2, Y2, background="none"), "`background` must be"),
    "discrepancy": (lambda: mlem(A2, Y2, discrepancy=0.0), "`discrepancy` must be positive"),
    "iterations": (lambda: mlem(A2, Y2, iterations=0), "`iterations` must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        make()
