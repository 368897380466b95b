"""Keyed draws: the law of the numbers, and what they may depend on."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from invsolve.core.random import _GOLDEN, _MIX1, _MIX2, Draws, item_key
from invsolve.errors import InputError, InputTypeError

CPU = torch.device("cpu")
SIZES = {"short rows": 16, "long rows": 300}  # the two ways of making numbers; the crossing is at 64
F64 = torch.float64


def draws(seed=0, items=(0,), samples=(0,)):
    return Draws.for_rows(seed, list(items), list(samples), CPU)


def zero_mean(products, n):
    """Whether the means of n products of independent standard normals are within 5 standard errors of 0."""
    return bool((products.abs() < 5 / math.sqrt(n)).all())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128], ids=str)
def test_numbers_are_standard_normal(size, dtype):
    rows = 40_000 // size
    x = draws(items=range(rows), samples=[0] * rows).normal((size,), dtype, step=0)
    assert x.shape == (rows, size)
    assert x.dtype == dtype
    real = torch.view_as_real(x).flatten() if dtype.is_complex else x.flatten()
    real, n = real.double(), real.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((real**power).mean()) - moment) < 5 * math.sqrt(variance / n)
    assert kstest(real.numpy(), "norm").pvalue > 1e-6
    if dtype.is_complex:  # unit variance per component, components independent
        assert zero_mean((x.real * x.imag).double().mean(), x.numel())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("what", ["seed", "item", "sample", "step", "index", "neighbours in a row"])
def test_streams_are_independent(size, what):
    """Correlations between neighbouring keys, at lags 0 and 1 within the row, are those of independent numbers."""
    rows = 40_000 // size
    n = rows * size

    def make(seed=0, item=0, sample=0, step=0, index=0):
        items, samples = [item + 7 * r for r in range(rows)], [sample] * rows
        return draws(seed, items, samples).normal((size,), F64, step=step, index=index)

    a = make()
    b = a.roll(1, 1) if what == "neighbours in a row" else make(**{what: 1})
    assert not torch.equal(a, b)
    pairs = [(a, b), (a[:, 1:], b[:, :-1]), (a[1:], b[:-1])]
    if what == "neighbours in a row":
        pairs = [(a, b), (a, a.roll(2, 1)), (a, a.roll(1, 0))]
    for u, v in pairs:
        assert zero_mean((u * v).mean(), n)
        assert zero_mean(((u**2 - 1) * (v**2 - 1)).mean() / 2, n)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_the_words_of_a_key_are_not_interchangeable(size):
    one = draws(1, [2], [3]).normal((size,), F64, step=4, index=5)
    seen = [one]
    swapped = ((2, 1, 3, 4, 5), (1, 3, 2, 4, 5), (1, 2, 4, 3, 5), (1, 2, 3, 5, 4), (0, 3, 3, 4, 5))
    for seed, item, sample, step, index in swapped:
        other = draws(seed, [item], [sample]).normal((size,), F64, step=step, index=index)
        assert not any(torch.equal(other, x) for x in seen)
        seen.append(other)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex128], ids=str)
def test_a_row_is_the_same_alone_in_any_batch_and_in_any_order(size, dtype):
    items, samples = [5, 5, 9, 0], [0, 1, 0, 7]
    x = draws(3, items, samples).normal((size,), dtype, step=2, index=1)
    for r in range(4):
        alone = draws(3, [items[r]], [samples[r]])
        assert torch.equal(alone.normal((size,), dtype, step=2, index=1)[0], x[r])
    taken = draws(3, items, samples).take(torch.tensor([2, 0, 2]))
    assert torch.equal(taken.normal((size,), dtype, step=2, index=1), x[[2, 0, 2]])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_numbers_do_not_depend_on_what_was_drawn_before(size):
    source = draws(0, [1], [2])
    first = source.normal((size,), F64, step=3)
    source.normal((size,), F64, step=4)
    assert torch.equal(source.normal((size,), F64, step=3), first)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_the_shape_only_arranges_the_numbers(size):
    flat = draws().normal((size,), F64, step=0)
    assert torch.equal(draws().normal((size // 4, 2, 2), F64, step=0), flat.view(1, -1, 2, 2))


def test_seeds_are_any_integers_of_64_bits():
    seeds = (0, 1, -1, -(2**63), 2**63 - 1, 2**32)
    rows = [draws(seed).normal((4,), F64, step=0) for seed in seeds]
    assert all(not torch.equal(a, b) for i, a in enumerate(rows) for b in rows[:i])
    assert all(bool(row.isfinite().all()) for row in rows)


def test_no_global_generator_is_read_or_written():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for size in SIZES.values():
        one = draws().normal((size,), F64, step=0)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()
        assert random.getstate() == before[2]
        torch.manual_seed(1)
        assert torch.equal(draws().normal((size,), F64, step=0), one)
        torch.manual_seed(0)


def test_empty_shapes():
    assert draws(items=[], samples=[]).normal((3,), F64, step=0).shape == (0, 3)
    assert draws(items=[], samples=[]).normal((300,), torch.complex64, step=0).shape == (0, 300)
    assert draws().normal((0,), torch.complex64, step=0).shape == (1, 0)
    assert draws().normal((), F64, step=0).shape == (1,)
    assert draws().normal((), torch.complex64, step=0).shape == (1,)


# --- the ends of the distribution ------------------------------------------------------------------------------------
def unmix(x):
    """The inverse of the finaliser of SplitMix64, by integers of Python."""
    word = 2**64 - 1
    x = x ^ (x >> 31) ^ (x >> 62)
    x = x * pow(_MIX2 & word, -1, 2**64) & word
    x = x ^ (x >> 27) ^ (x >> 54)
    x = x * pow(_MIX1 & word, -1, 2**64) & word
    return x ^ (x >> 30) ^ (x >> 60)


@pytest.mark.parametrize(("bits", "sign"), [(0, -1), (2**64 - 1, 1)], ids=["no bit set", "every bit set"])
def test_the_extreme_words_give_finite_numbers(bits, sign):
    """The key whose first number is made of the extreme word, found by inverting the hash: once it was infinite."""
    word, golden = 2**64 - 1, _GOLDEN & (2**64 - 1)
    key = (unmix(bits) - golden) & word
    for _ in range(3):  # index 0, step 0, and the row's own key
        key = (unmix(key) - golden) * pow(3, -1, 2**64) & word
    source = Draws(keys=np.array([key], dtype=np.uint64).astype(np.int64), device=CPU)
    x = float(source.normal((1,), F64, step=0)[0, 0])
    # The tail beyond half a step of 52 bits: Phi(-8.2095) = 2^-53.
    assert x == pytest.approx(sign * 8.2095, abs=1e-3)


# --- item ids --------------------------------------------------------------------------------------------------------
def test_item_ids():
    assert item_key(5) == item_key(np.int64(5)) == item_key(torch.tensor(5)) == 5
    assert item_key(-3) == -3
    keys = {item_key(name) for name in ("", "a", "b", "ab", "patient 1", "patient 2", "1")}
    assert len(keys) == 7
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert item_key("patient 1") == item_key("patient" + " 1") == 2509010637409862988  # in every process


@pytest.mark.parametrize("item", [True, torch.tensor(True), 1.0, None, b"a", (1,), np.array([1, 2])], ids=repr)
def test_other_item_ids_are_refused(item):
    with pytest.raises(InputTypeError, match="solve: `item_ids` must be integers or strings, got"):
        item_key(item)


def test_words_of_more_than_64_bits_are_refused():
    with pytest.raises(InputError, match=f"`item_ids` must be integers of 64 bits, got {2**63}"):
        item_key(2**63)
    with pytest.raises(InputError, match=f"`seed` must be an integer of 64 bits, got {-(2**63) - 1}"):
        draws(-(2**63) - 1)
