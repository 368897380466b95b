"""PosteriorBench's metrics against brute force, scipy and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from scipy.stats import wasserstein_distance

from invsolve import posterior_metrics as pm
from invsolve.errors import InputError, InputTypeError

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, Y = normal(7, 2, 8, 6), 0.5 + 1.3 * normal(9, 2, 8, 6, seed=1)
W, V = normal(7, 2, seed=2).exp(), normal(9, seed=3).exp()
WEIGHTS = {"weights": W, "reference_weights": V}
CALLS = {
    "mean": pm.relative_mean_error,
    "std": pm.relative_std_error,
    "mmd": pm.mmd,
    "sliced": lambda x, y, **k: pm.sliced_wasserstein(x, y, mean=0.1, std=2.0, directions=16, **k),
    "spectral": pm.spectral_error,
}
EVERY = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def numpy_item(item, weighted):
    w = (W[:, item] if weighted else torch.ones(7)).double().numpy()
    v = (V if weighted else torch.ones(9)).double().numpy()
    return X[:, item].numpy(), Y[:, item].numpy(), w / w.sum(), v / v.sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_moments_by_numpy(weighted):
    options = WEIGHTS if weighted else {}
    means, stds = pm.relative_mean_error(X, Y, **options), pm.relative_std_error(X, Y, **options)
    for item in range(2):
        x, y, w, v = numpy_item(item, weighted)
        m, m_ref = np.average(x, 0, w), np.average(y, 0, v)
        s, s_ref = np.sqrt(np.average((x - m) ** 2, 0, w)), np.sqrt(np.average((y - m_ref) ** 2, 0, v))
        assert float(means[item]) == pytest.approx(np.linalg.norm(m - m_ref) / np.linalg.norm(m_ref), rel=1e-12)
        assert float(stds[item]) == pytest.approx(np.linalg.norm(s - s_ref) / np.linalg.norm(s_ref), rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_mmd_by_its_double_sums(weighted):
    found = pm.mmd(X, Y, **(WEIGHTS if weighted else {}))
    for item in range(2):
        x, y, w, v = numpy_item(item, weighted)
        med = np.median([((a - b) ** 2).sum() for a in x for b in y])

        def k(a, b, med=med):
            return np.mean([np.exp(-((a - b) ** 2).sum() / (s * med)) for s in (0.2, 0.5, 1, 2, 5)])

        def total(p, a, q, b):
            return sum(p[i] * q[j] * k(a[i], b[j]) for i in range(len(a)) for j in range(len(b)))

        exact = math.sqrt(total(w, x, w, x) + total(v, y, v, y) - 2 * total(w, x, v, y))
        assert float(found[item]) == pytest.approx(exact, rel=1e-10)


def test_the_floor_of_mmd_is_what_two_sets_of_one_law_give():
    """N = 100 in 4,096 dimensions: 0.11, with squared distances within 2 % of each other."""
    x, y = normal(100, 1, 4096), normal(100, 1, 4096, seed=1)
    floor = pm.mmd_floor(100, 100)
    assert floor == pytest.approx(0.11, abs=0.002)
    assert float(pm.mmd(x, y)) == pytest.approx(floor, rel=0.02)
    assert pm.mmd_floor(50, 200) == pytest.approx(floor * math.sqrt(1.25), rel=1e-12)
    assert float(pm.mmd(x, y + 0.5)) > 2 * floor  # half a std in every entry is seen


@pytest.mark.parametrize("weighted", [False, True])
def test_sliced_wasserstein_by_scipy(weighted):
    mean, std = normal(8, 6, seed=5), normal(8, 6, seed=6).exp()
    found = pm.sliced_wasserstein(X, Y, mean=mean, std=std, directions=12, seed=4, **(WEIGHTS if weighted else {}))
    directions = pm.sliced_directions((8, 6), 12, seed=4).numpy().reshape(12, -1)
    for item in range(2):
        x, y, w, v = numpy_item(item, weighted)
        x, y = (((a - mean.numpy()) / std.numpy()).reshape(len(a), -1) for a in (x, y))
        exact = np.mean([wasserstein_distance(x @ g, y @ g, w, v) for g in directions])
        assert float(found[item]) == pytest.approx(exact, rel=1e-11)


def test_directions_are_a_smooth_field_of_unit_norm_keyed_by_the_seed():
    g = pm.sliced_directions((16, 12), 4000)
    torch.testing.assert_close(g.flatten(1).norm(dim=1), torch.ones(4000, dtype=F64))
    assert g.flatten(1).mean(1).abs().max() < 1e-14  # no constant mode
    assert torch.equal(pm.sliced_directions((16, 12), 3), g[:3])
    assert not torch.equal(pm.sliced_directions((16, 12), 3, seed=1), g[:3])
    # The normalisation divides both modes: ratios of *median* sizes keep those of the field to Monte Carlo error.
    u = np.abs(dctn(g.numpy(), axes=(1, 2), norm="ortho"))
    sizes = np.median(u, axis=0)
    first, other = sizes[3, 0], sizes[4, 2]
    exact = (math.pi**2 * 20 + 9) / (math.pi**2 * 9 + 9)  # eigenvalues (pi^2 k^2 + 9)^-2, their roots
    # The median of |N| has a relative standard error of 1.17 / sqrt(n), twice in the ratio; the shared norm adds little.
    assert first / other == pytest.approx(exact, rel=5 * 1.17 * math.sqrt(2 / 4000))
    assert pm.sliced_directions((9,), 2).shape == (2, 9) and pm.sliced_directions((4, 5, 6), 2).shape == (2, 4, 5, 6)


def test_sliced_wasserstein_of_a_shift_is_its_projection_and_blind_to_a_constant():
    shift = normal(8, 6, seed=8)
    g = pm.sliced_directions((8, 6), 128).flatten(1)
    found = pm.sliced_wasserstein(X, X + shift, mean=0.0, std=2.0)
    torch.testing.assert_close(found, (g @ shift.flatten()).abs().mean().expand(2) / 2, rtol=1e-11, atol=0)
    assert pm.sliced_wasserstein(X, X + 3.0, mean=0.0, std=1.0).max() < 1e-13


@pytest.mark.parametrize("weighted", [False, True])
def test_spectral_error_by_loops(weighted):
    found = pm.spectral_error(X, Y, **(WEIGHTS if weighted else {}))
    fy, fx = np.fft.fftfreq(8), np.fft.fftfreq(6)
    for item in range(2):
        x, y, w, v = numpy_item(item, weighted)

        def spectrum(samples, weights):
            sums, counts = np.zeros(3), np.zeros(3)  # bins [j, j + 1)/6 below 1/2
            power = sum(p * np.abs(np.fft.fft2(s)) ** 2 for p, s in zip(weights, samples, strict=True))
            for i in range(8):
                for j in range(6):
                    radius = math.hypot(fy[i], fx[j])
                    if radius < 0.5 - 1e-12:
                        k = int(radius * 6 + 1e-9)
                        sums[k] += power[i, j]
                        counts[k] += 1
            return sums / counts

        s, s_ref = spectrum(x, w), spectrum(y, v)
        assert float(found[item]) == pytest.approx(np.exp(np.mean(np.log(np.abs(s - s_ref) / s_ref))), rel=1e-10)


def test_a_wave_has_its_power_in_the_bin_of_its_frequency():
    i = torch.arange(64, dtype=F64)
    wave = torch.cos(2 * math.pi * 3 * i / 64)[None, None].expand(1, 1, 64)
    spectrum = pm.radial_spectrum(wave)[0, 0]
    assert spectrum.shape == (32,) and int(spectrum.argmax()) == 3
    assert float(spectrum[3]) == pytest.approx(32**2, rel=1e-12) and float(spectrum.sum() - spectrum[3]) < 1e-20
    assert pm.radial_spectrum(normal(1, 1, 4, 6, 5)).shape == (1, 1, 2)


def test_twice_the_amplitude_is_three_times_too_much_power():
    assert torch.allclose(pm.spectral_error(2 * Y, Y), torch.full((2,), 3.0, dtype=F64), rtol=1e-12)
    assert torch.allclose(pm.relative_std_error(2 * Y, Y), torch.ones(2, dtype=F64), rtol=1e-12)


@EVERY
def test_equal_sets_have_distance_zero(call):
    assert call(X, X.flip(0)).abs().max() < 1e-7  # a root of roundings for mmd


@EVERY
def test_weights_may_be_split_between_copies_and_samples_without_weight_do_not_count(call):
    share = torch.tensor(0.3, dtype=F64)
    split = torch.cat((share * W, (1 - share) * W))  # all copied alike: the median of the pairs stays too
    torch.testing.assert_close(call(torch.cat((X, X)), Y, weights=split), call(X, Y, weights=W), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(call(X, Y, weights=250 * W), call(X, Y, weights=W), rtol=1e-12, atol=0)
    if call is not pm.mmd:  # its median is of all pairs
        some = torch.tensor([1.0, 1.0, 0, 0, 1.0, 0, 0], dtype=F64)
        torch.testing.assert_close(call(X, Y, weights=some), call(X[[0, 1, 4]], Y), rtol=1e-10, atol=1e-12)


@EVERY
def test_items_stand_alone_and_inputs_stay(call):
    before, weights = X.clone(), W.clone()
    both = call(X, Y, **WEIGHTS)
    alone = call(X[:, 1:], Y[:, 1:], weights=W[:, 1:], reference_weights=V)
    assert both.shape == (2,) and both.dtype == F64
    torch.testing.assert_close(both[1:], alone, rtol=1e-11, atol=0)
    assert torch.equal(X, before) and torch.equal(W, weights)
    torch.testing.assert_close(call(X.float(), Y.float()), call(X.float().double(), Y.float().double()))


@EVERY
def test_units_do_not_matter(call):
    if call is CALLS["sliced"]:
        far = pm.sliced_wasserstein(1e3 * X, 1e3 * Y, mean=100.0, std=2e3, directions=16)
    else:
        far = call(1e3 * X, 1e3 * Y)
    torch.testing.assert_close(far, call(X, Y), rtol=1e-9, atol=0)


def test_complex_sets_are_their_two_components():
    x, y = torch.complex(X[..., :3], X[..., 3:]), torch.complex(Y[..., :3], Y[..., 3:])
    for call in (pm.relative_mean_error, pm.mmd):
        torch.testing.assert_close(call(x, y), call(X, Y), rtol=1e-10, atol=0)
    s, s_ref = (v.abs().square().mean(0).sqrt() for v in (x - x.mean(0), y - y.mean(0)))
    exact = (s - s_ref).flatten(1).norm(dim=1) / s_ref.flatten(1).norm(dim=1)
    torch.testing.assert_close(pm.relative_std_error(x, y), exact, rtol=1e-10, atol=0)


BAD = {
    "word": (lambda: pm.mmd("X", Y), InputTypeError, "mmd: `samples` must be numbers: a tensor, .*, got 'X'"),
    "nan": (lambda: pm.mmd(X * math.nan, Y), InputError, "mmd: `samples` must be finite"),
    "shape": (lambda: pm.mmd(X, Y[..., :3]), InputError, r"mmd: `reference` must be of shape \(m, batch, \*shape\)"),
    "axes": (lambda: pm.mmd(X[:, 0, 0], Y[:, 0, 0]), InputError, "`reference` must be of shape"),
    "kind": (lambda: pm.mmd(X, Y + 0j), InputTypeError, "`reference` must be complex as the samples, or both real"),
    "weights": (lambda: pm.mmd(X, Y, weights=V), InputError, r"`weights` must be of shape \(7,\) or \(7, 2\), got \(9,\)"),
    "negative": (lambda: pm.mmd(X, Y, reference_weights=-V), InputError, "`reference_weights` must be non-negative"),
    "no weight": (lambda: pm.mmd(X, Y, weights=0 * W), InputError, "`weights` must be positive for some sample"),
    "weight nan": (lambda: pm.mmd(X, Y, weights=W * math.nan), InputError, "`weights` must be finite"),
    "zero mean": (lambda: pm.relative_mean_error(X, 0 * Y), InputError, "of a mean that is not zero, got zero in item 0"),
    "zero std": (lambda: pm.relative_std_error(X, Y[:1]), InputError, "of a standard deviation that is not zero"),
    "median": (lambda: pm.mmd(0 * X, 0 * Y), InputError, "a median distance of 0 in item 0"),
    "floor": (lambda: pm.mmd_floor(0, 3), InputError, "mmd_floor: `n` must be at least 1"),
    "floor m": (lambda: pm.mmd_floor(3, 0), InputError, "mmd_floor: `m` must be at least 1"),
    "sliced complex": (lambda: pm.sliced_wasserstein(X + 0j, Y + 0j, mean=0.0, std=1.0), InputTypeError, "must be real"),
    "sliced std": (lambda: pm.sliced_wasserstein(X, Y, mean=0.0, std=0.0), InputError, "`std` must be positive, got 0.0"),
    "sliced mean": (lambda: pm.sliced_wasserstein(X, Y, mean=X[0, 0, 0], std=1.0), InputError, r"`mean` must be a number, or of shape \(8, 6\)"),
    "sliced text": (lambda: pm.sliced_wasserstein(X, Y, mean="0", std=1.0), InputTypeError, "`mean` must be a real number"),
    "directions": (lambda: pm.sliced_directions((4, 4), 0), InputError, "`directions` must be at least 1"),
    "one entry": (lambda: pm.sliced_directions((1,)), InputError, "of 1 to 3 axes and at least 2 entries"),
    "seed": (lambda: pm.sliced_directions((4,), seed=0.5), InputTypeError, "`seed` must be an integer"),
    "spectrum complex": (lambda: pm.spectral_error(X + 0j, Y + 0j), InputTypeError, "must be real"),
    "spectrum axes": (lambda: pm.radial_spectrum(X[:, 0, 0]), InputError, r"`x` must be of 1 to 3 axes after \(n, batch\)"),
    "spectrum zero": (lambda: pm.spectral_error(X, 0 * Y), InputError, "got none in bin 0 of item 0"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), BAD.values(), ids=BAD.keys())
def test_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_the_error_rate_of_a_field_of_two_values():
    truth = torch.tensor([[3.0, 12.0, 12.0, 3.0], [12.0, 12.0, 12.0, 12.0]])
    x = torch.tensor([[4.0, 7.5, 7.4, 3.0], [12.0, 0.0, 20.0, -1.0]])
    assert pm.error_rate(x, truth, 7.5).tolist() == [0.25, 0.5]
    with pytest.raises(InputError, match="error_rate: `x`"):
        pm.error_rate(x[0], truth[0], 7.5)
    with pytest.raises(InputTypeError, match="error_rate: `x` must be real"):
        pm.error_rate(x + 0j, truth, 7.5)
    with pytest.raises(InputTypeError, match="error_rate: `threshold`"):
        pm.error_rate(x, truth, None)


def test_metrics_of_a_gaussian_whose_answers_are_known():
    """Samples of N(c, s^2 I) against N(0, I) + m: the closed forms, to the standard errors of the samples."""
    n, d = 4000, 64
    z = torch.randn(2, n, 1, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    m = torch.full((1, d), 2.0, dtype=torch.float64)
    x, y = m + 0.5 + 1.5 * z[0], m + z[1]
    assert float(pm.relative_mean_error(x, y)) == pytest.approx(0.5 / 2, abs=5 * 1.5 / (2 * n**0.5))
    assert float(pm.relative_std_error(x, y)) == pytest.approx(0.5, abs=5 * 1.5 / (2 * n) ** 0.5)
    g = pm.sliced_directions((d,)).sum(1)
    # W1 of N(a, s^2) and N(0, 1) by quantiles: E|a + (s - 1) z|, a = 0.5 sum(g) (0 for these directions).
    a = 0.5 * g
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    exact = (a[:, None] + 0.5 * torch.special.ndtri(u)).abs().mean()
    found = pm.sliced_wasserstein(x, y, mean=0.0, std=1.0)
    assert float(found) == pytest.approx(float(exact), abs=5 * 1.5 / n**0.5)
    # |FFT|^2 of white noise of std s and a mean: s^2 d, and in bin 0 with the mean's d^2 |mean|^2.
    s, r = (1.5**2, 2.5), (1.0, 2.0)
    first = abs((s[0] + d * s[1] ** 2) / (r[0] + d * r[1] ** 2) - 1)
    bins = pm.radial_spectrum(x).shape[-1]
    expected = math.exp((math.log(first) + (bins - 1) * math.log(1.25)) / bins)
    assert float(pm.spectral_error(x, y)) == pytest.approx(expected, rel=0.02)
