"""Metrics against scikit-image, double sums and closed forms of Gaussian and atomic laws."""

import itertools
import math

import pytest
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from invsolve import metrics
from invsolve.errors import InputError, InputTypeError

SHAPES = {"1d": (40,), "2d": (30, 23), "3d": (14, 12, 16)}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(shape, batch=3, dtype=torch.float64):
    truth = torch.rand(batch, *shape, generator=gen(), dtype=dtype).cumsum(1)
    return truth + 0.3 * torch.randn(batch, *shape, generator=gen(1), dtype=dtype), truth


# --- images against scikit-image ---------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_image_metrics_are_those_of_scikit_image(shape):
    x, truth = pair(shape)
    span = 7.5
    options = dict(data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    ours = (metrics.psnr(x, truth, data_range=span), metrics.ssim(x, truth, data_range=span), metrics.nrmse(x, truth))
    assert all(value.shape == (3,) for value in ours)
    for item in range(3):
        a, b = x[item].numpy(), truth[item].numpy()
        assert float(ours[0][item]) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=span), abs=1e-10)
        assert float(ours[1][item]) == pytest.approx(structural_similarity(b, a, **options), abs=1e-10)
        assert float(ours[2][item]) == pytest.approx(normalized_root_mse(b, a), abs=1e-12)


def test_float32_images_agree_with_float64_ones():
    x, truth = pair((32, 32), dtype=torch.float32)
    # Sums are taken in float64 whatever the input: not even the roundings of float32 remain.
    assert torch.equal(metrics.ssim(x, truth, data_range=8), metrics.ssim(x.double(), truth.double(), data_range=8))
    assert torch.equal(metrics.psnr(x, truth, data_range=8), metrics.psnr(x.double(), truth.double(), data_range=8))


def test_equal_images():
    _, truth = pair((16, 16))
    assert torch.equal(metrics.psnr(truth, truth, data_range=1.0), torch.full((3,), math.inf, dtype=torch.float64))
    assert torch.allclose(metrics.ssim(truth, truth, data_range=1.0), torch.ones(3, dtype=torch.float64), atol=1e-12)
    assert torch.equal(metrics.nrmse(truth, truth), torch.zeros(3, dtype=torch.float64))


def test_complex_distances_are_those_of_the_two_components():
    x, truth = pair((20,), batch=4)
    a, b = torch.complex(x[:2], x[2:]), torch.complex(truth[:2], truth[2:])
    both, other = torch.cat([x[:2], x[2:]], 1), torch.cat([truth[:2], truth[2:]], 1)
    assert torch.allclose(metrics.nrmse(a, b), metrics.nrmse(both, other), rtol=1e-14)
    # The mean runs over 20 complex entries of two squares each, not over 40 squares: 3.01 dB.
    shift = 10 * math.log10(2)
    expected = metrics.psnr(both, other, data_range=2.0) - shift
    assert torch.allclose(metrics.psnr(a, b, data_range=2.0), expected, rtol=1e-13)


# --- scores --------------------------------------------------------------------------------------------------------
def double_sum(samples, truth, norm):
    n = len(samples)
    first = sum(norm(x - truth) for x in samples) / n
    second = sum(norm(x - y) for x, y in itertools.product(samples, samples))
    return first - second / (2 * n * (n - 1))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_scores_are_their_double_sums(n):
    samples = 5 + torch.randn(n, 3, 4, 2, generator=gen(), dtype=torch.float64)
    samples[0] = samples[1]  # ties
    truth = 5 + torch.randn(3, 4, 2, generator=gen(1), dtype=torch.float64)
    expected = double_sum(samples, truth, torch.abs).flatten(1).mean(1)
    assert torch.allclose(metrics.crps(samples, truth), expected, rtol=1e-12, atol=1e-14)
    norm = lambda e: e.flatten(1).norm(dim=1)  # noqa: E731
    assert torch.allclose(metrics.energy_score(samples, truth), double_sum(samples, truth, norm), rtol=1e-12)
    packed, target = torch.complex(samples[..., 0], samples[..., 1]), torch.complex(truth[..., 0], truth[..., 1])
    assert torch.allclose(metrics.energy_score(packed, target), metrics.energy_score(samples, truth), rtol=1e-13)


def test_crps_is_the_gaussian_closed_form_and_unbiased_for_two_samples():
    """Gneiting & Raftery 2007, eq. 5: sigma (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), with 5 standard errors."""
    mean, std = 1.5, 0.7
    truth = torch.tensor([1.0, 1.5, 4.0], dtype=torch.float64)
    z = (truth - mean) / std
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    exact = std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    for n, repeats in ((2, 20000), (50, 800)):
        samples = mean + std * torch.randn(n, 3 * repeats, 1, generator=gen(n), dtype=torch.float64)
        scores = metrics.crps(samples, truth.repeat(repeats)[:, None]).view(repeats, 3)
        assert ((scores.mean(0) - exact).abs() < 5 * scores.std(0) / repeats**0.5).all()


def test_scores_of_a_large_offset_do_not_cancel():
    samples = torch.randn(9, 2, 3, generator=gen(), dtype=torch.float64)
    truth = torch.zeros(2, 3, dtype=torch.float64)
    # 1e6 is exact to 1e-10 in float64; the spread is of order 1.
    assert torch.allclose(metrics.crps(samples + 1e6, truth + 1e6), metrics.crps(samples, truth), atol=1e-9)


# --- ranks -----------------------------------------------------------------------------------------------------------
def test_rank_counts_the_samples_below():
    samples = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1).expand(3, 1, 4)
    truth = torch.tensor([[0.5, 1.5, 2.5, 9.0]])
    assert metrics.rank(samples, truth).tolist() == [[0, 1, 2, 3]]


def test_ranks_of_a_law_with_atoms_are_uniform():
    """A spike and slab law: half of the draws are 0. Each of n + 1 ranks has probability 1 / (n + 1)."""
    n, entries = 4, 20000
    z = torch.randn(n + 1, 1, entries, generator=gen(), dtype=torch.float64)
    z = z * (torch.rand(z.shape, generator=gen(1)) < 0.5)
    counts = torch.bincount(metrics.rank(z[1:], z[0]).flatten(), minlength=n + 1)
    p = 1 / (n + 1)
    assert counts.sum() == entries
    assert ((counts / entries - p).abs() < 5 * math.sqrt(p * (1 - p) / entries)).all()


def test_ties_are_split_by_seed_and_item_alone():
    samples, truth = torch.zeros(6, 3, 100), torch.zeros(3, 100)
    ranks = metrics.rank(samples, truth)
    assert torch.equal(ranks, metrics.rank(samples, truth))
    assert torch.equal(ranks[:1], metrics.rank(samples[:, :1], truth[:1]))
    assert not torch.equal(ranks, metrics.rank(samples, truth, seed=1))
    assert not torch.equal(ranks[0], ranks[1])
    assert (ranks.min(), ranks.max()) == (0, 6)


@pytest.mark.parametrize("n, level, expected", [
    (19, 0.9, (1, 19, 18 / 20)), (16, 0.85, (1, 16, 15 / 17)), (39, 0.9, (2, 38, 36 / 40)), (20, 0.9, (1, 20, 19 / 21)),
    (256, 0.9, (12, 245, 233 / 257)), (2, 0.01, (1, 2, 1 / 3)), (3, 0.01, (1, 3, 0.5)), (4, 0.01, (2, 3, 0.2)),
])  # fmt: skip
def test_interval_ranks(n, level, expected):
    assert metrics.interval_ranks(n, level) == pytest.approx(expected)
    assert expected[2] >= level - 1e-12


@pytest.mark.parametrize("n, level", [(19, 0.9), (50, 0.8)])
@pytest.mark.parametrize("atoms", [False, True])
def test_coverage_of_exact_samples_is_nominal(n, level, atoms):
    items, entries = 40, 500
    z = torch.randn(n + 1, items, entries, generator=gen(3), dtype=torch.float64)
    if atoms:
        z = z.round()
    result = metrics.coverage(z[1:], z[0], level=level)
    error = math.sqrt(result.nominal * (1 - result.nominal) / (items * entries))
    assert result.observed.shape == (items,)
    assert abs(float(result.observed.mean()) - result.nominal) < 5 * error
    narrow = metrics.coverage(0.5 * z[1:], z[0], level=level)
    assert float(narrow.observed.mean()) < result.nominal - 50 * error  # the test can fail


def test_coverage_is_the_truth_between_two_order_statistics():
    samples = torch.randn(39, 2, 300, generator=gen(), dtype=torch.float64)
    truth = torch.randn(2, 300, generator=gen(1), dtype=torch.float64)
    ordered = samples.sort(dim=0).values
    inside = (ordered[1] < truth) & (truth < ordered[37])
    assert torch.equal(metrics.coverage(samples, truth, level=0.9).observed, inside.double().mean(1))


def test_interval_mass():
    mean, std = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([[0.5, 3.0]]).double()
    # Samples at the quantiles k / (n + 1): the interval has its nominal mass without any noise.
    levels = torch.arange(1, 40, dtype=torch.float64)[:, None, None] / 40
    samples = mean + std * torch.special.ndtri(levels)
    result = metrics.interval_mass(samples.flip(0), level=0.9, mean=mean, std=std)
    assert result.nominal == 0.9 and float(result.observed) == pytest.approx(0.9, abs=1e-12)
    # Twice too wide: Phi(2 z) with Phi(z) = 0.95 has mass 2 Phi(3.2897) - 1.
    wide = metrics.interval_mass(mean + 2 * (samples - mean), level=0.9, mean=mean, std=std)
    assert float(wide.observed) == pytest.approx(0.998997, abs=1e-5)
    # Exact random samples: the mass is Beta(36, 4), of variance 36 * 4 / (40^2 * 41).
    draws = mean + std * torch.randn(39, 4000, 2, generator=gen(), dtype=torch.float64)
    shape = (4000, 2)
    masses = metrics.interval_mass(draws, level=0.9, mean=mean.expand(shape), std=std.expand(shape)).observed
    assert abs(float(masses.mean()) - 0.9) < 5 * math.sqrt(36 * 4 / (40**2 * 41) / 8000)


def test_items_do_not_see_each_other_and_inputs_stay():
    samples, truth = torch.randn(19, 2, 12, 12, generator=gen()), torch.randn(2, 12, 12, generator=gen(1))
    before = samples.clone()
    calls = {
        "psnr": lambda s, t: metrics.psnr(s[0], t, data_range=2.0),
        "ssim": lambda s, t: metrics.ssim(s[0], t, data_range=2.0),
        "nrmse": lambda s, t: metrics.nrmse(s[0], t),
        "crps": metrics.crps,
        "energy": metrics.energy_score,
        "coverage": lambda s, t: metrics.coverage(s, t, level=0.9).observed,
    }
    for name, call in calls.items():
        both, alone = call(samples, truth), call(samples[:, 1:], truth[1:])
        assert both.shape == (2,) and both.dtype == torch.float64, name
        assert torch.allclose(both[1:], alone, rtol=1e-13), name
    assert torch.equal(samples, before)


# --- refusals ------------------------------------------------------------------------------------------------
X = torch.ones(2, 12, 12)
S = torch.randn(19, 2, 5, generator=gen())
T = torch.zeros(2, 5)
NAN = torch.full((2, 12, 12), math.nan)
REFUSED = {
    "words": (lambda: metrics.psnr(["a"], X, data_range=1.0), InputTypeError, r"psnr: `x` must be numbers, in rows"),
    "nothing": (lambda: metrics.nrmse(X, None), InputTypeError, r"nrmse: `truth` must be numbers: .*got NoneType"),
    "empty": (lambda: metrics.nrmse(X[:0], X[:0]), InputError, r"nrmse: `x` must be of at least one entry"),
    "nan": (lambda: metrics.nrmse(NAN, X), InputError, r"nrmse: `x` must be finite, got 288 NaN"),
    "shapes": (lambda: metrics.nrmse(X, X[:1]), InputError, r"nrmse: `x`.*\(2, 12, 12\) and \(1, 12, 12\)\.$"),
    "no batch": (lambda: metrics.nrmse(X[0, 0], X[0, 0]), InputError, r"nrmse: `x`.*Add a batch axis: x\[None\]"),
    "zero truth": (lambda: metrics.nrmse(X, 0 * X), InputError, r"nrmse: `truth` must be not zero.*item 0.*psnr"),
    "range": (lambda: metrics.psnr(X, X, data_range=-1.0), InputError, r"`data_range` must be positive, got -1.0"),
    "ssim range": (lambda: metrics.ssim(X, X, data_range=0), InputError, r"ssim: `data_range` must be positive"),
    "ssim complex": (lambda: metrics.ssim(X + 0j, X + 0j, data_range=1), InputTypeError, r"ssim: `x` must be real"),
    "ssim small": (lambda: metrics.ssim(X[:, :8], X[:, :8], data_range=1), InputError, r"ssim: `x`.*at least 11"),
    "ssim axes": (lambda: metrics.ssim(X[:, None, None], X[:, None, None], data_range=1), InputError, r"1 to 3 axes"),
    "crps complex": (lambda: metrics.crps(S + 0j, T + 0j), InputTypeError, r"crps: `samples` must be real.*complex64"),
    "rank complex": (lambda: metrics.rank(S, T + 0j), InputTypeError, r"rank: `truth` must be real"),
    "one sample": (lambda: metrics.crps(S[:1], T), InputError, r"crps: `samples` must be of at least 2 samples, got 1"),
    "ensemble": (lambda: metrics.energy_score(S, T[:1]), InputError, r"\(n, 1, 5\), got \(19, 2, 5\)"),
    "no items": (lambda: metrics.crps(S[:, 0, 0], T[0, 0]), InputError, r"crps: `samples` must be of shape"),
    "rank seed": (lambda: metrics.rank(0 * S, T, seed=0.5), InputTypeError, r"rank: `seed` must be an integer"),
    "n": (lambda: metrics.interval_ranks(1, 0.9), InputError, r"interval_ranks: `n` must be at least 2"),
    "level": (lambda: metrics.coverage(S, T, level=1.0), InputError, r"`level` must be between 0 and 1, both excluded"),
    "few": (lambda: metrics.coverage(S[:16], T, level=0.9), InputError, r"0\.8824 for 16 samples.*at least 19"),
    "many": (lambda: metrics.interval_ranks(100, 0.999), InputError, r"Draw at least 1999 samples"),
    "mass level": (lambda: metrics.interval_mass(S, level=0.95, mean=T, std=T + 1), InputError, r"at least 39 samples"),
    "mass mean": (lambda: metrics.interval_mass(S, level=0.9, mean=T[0], std=T), InputError, r"\*mean\.shape"),
    "mass std": (lambda: metrics.interval_mass(S, level=0.9, mean=T, std=T[0] + 1), InputError, r"`std`.*shape \(2, "),
    "mass zero": (lambda: metrics.interval_mass(S, level=0.9, mean=T, std=T), InputError, r"`std`.*positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, kind, words = REFUSED[case]
    with pytest.raises(kind, match=words):
        call()
