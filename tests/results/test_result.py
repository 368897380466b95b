"""Statistics of results against numpy, closed forms and exact coverage; text and HTML; every refusal."""

from __future__ import annotations

import dataclasses
import math
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from invsolve.core.packing import Layout, Part
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.results.order_statistics import Interval
from invsolve.results.result import Result
from invsolve.results.status import Status


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def make(samples: Tensor, *, batched: bool = True, failed: Tensor | None = None, **changes: Any) -> Result:
    lead = samples.shape[: 2 if batched else 1]
    failed = torch.zeros(lead, dtype=torch.bool) if failed is None else failed
    samples = samples.clone()
    samples[failed] = math.nan
    values: dict[str, Any] = dict(
        samples=samples,
        status=Status.from_failures(failed),
        failed=failed,
        batched=batched,
        shape=tuple(samples.shape[len(lead) :]),
        chi2=torch.ones(lead),
        strategy="Exact",
        why="the prior and the noise are Gaussian",
        nfe=50.0,
        vjps=0.0,
        operator_calls={"forward": 8},
        seconds=1.25,
        seed=0,
        settings={"steps": 50},
        versions={"torch": "2"},
    )
    return Result(**(values | changes))


# --- mean, std, weights, ess ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_mean_and_std_are_numpys(dtype, batched):
    x = draw(7, *((3,) if batched else ()), 4, 2, dtype=dtype) + 3
    result = make(x, batched=batched)
    wide = x.to(torch.complex128 if dtype.is_complex else torch.float64).numpy()
    tol = 20 * torch.finfo(dtype).eps  # some additions of numbers below 10
    np.testing.assert_allclose(result.mean, wide.mean(0), atol=10 * tol)
    # numpy's std of complex numbers is sqrt of the mean of |x - m|^2, as ours
    np.testing.assert_allclose(result.std, wide.std(0, ddof=1), rtol=10 * tol)
    assert result.mean.dtype == dtype and not result.std.is_complex() and result.mean.shape == x.shape[1:]


def test_complex_variance_is_the_sum_of_its_components():
    x = draw(9, 2, 5, dtype=torch.complex128)
    s = make(x).std
    torch.testing.assert_close(s**2, x.real.var(0) + x.imag.var(0), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_failed_rows_are_left_out_item_by_item(dtype):
    x = draw(6, 3, 4, dtype=dtype)
    failed = torch.zeros(6, 3, dtype=torch.bool)
    failed[0, 0] = failed[2:5, 1] = True
    result = make(x, failed=failed)
    assert result.status is Status.SOME_FAILED
    assert result.ess.tolist() == [5, 3, 6]
    for b in range(3):
        good = x[~failed[:, b], b].numpy()
        np.testing.assert_allclose(result.mean[b], good.mean(0), atol=1e-14)
        np.testing.assert_allclose(result.std[b], good.std(0, ddof=1), rtol=1e-13)


def test_equal_weights_are_no_weights():
    x = draw(6, 3, 4)
    failed = torch.zeros(6, 3, dtype=torch.bool)
    failed[1, 2] = True
    plain, weighted = make(x, failed=failed), make(x, failed=failed, log_weights=torch.full((6, 3), -700.0))
    torch.testing.assert_close(weighted.mean, plain.mean, rtol=0, atol=1e-14)
    torch.testing.assert_close(weighted.std, plain.std, rtol=1e-13, atol=0)
    torch.testing.assert_close(weighted.ess, plain.ess, rtol=1e-14, atol=0)
    q = [0.2, 0.5, 0.77]
    torch.testing.assert_close(weighted.quantile(q), plain.quantile(q), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_weighted_statistics_are_their_formulas(dtype):
    x, logs = draw(8, 2, 3, dtype=dtype), 2 * draw(8, 2, seed=1)
    failed = torch.zeros(8, 2, dtype=torch.bool)
    failed[3, 1] = True
    logs[3, 1] = math.nan  # the weight of a failed row does not count
    result = make(x, failed=failed, log_weights=logs)
    for b in range(2):
        keep = ~failed[:, b].numpy()
        w = np.exp(logs[keep, b].numpy())
        w /= w.sum()
        values = x[keep, b].numpy()
        m = np.average(values, axis=0, weights=w)
        var = np.average(np.abs(values - m) ** 2, axis=0, weights=w) / (1 - (w**2).sum())
        np.testing.assert_allclose(result.mean[b], m, atol=1e-13)
        np.testing.assert_allclose(result.std[b], np.sqrt(var), rtol=1e-12)
        np.testing.assert_allclose(result.ess[b], 1 / (w**2).sum(), rtol=1e-12)
        np.testing.assert_allclose(result.weights[keep, b], w, rtol=1e-12)
    assert result.weights[3, 1] == 0


def test_reliability_correction_is_unbiased():
    """For samples of one law, independent of their weights, E[s^2] is its variance whatever the weights."""
    runs = 20_000
    x = draw(5, runs, 1)
    logs = torch.tensor([0.0, 0.0, -1.0, -2.0, 1.0]).double()[:, None].expand(5, runs)
    variance = make(x, log_weights=logs).std.square()
    assert abs(float(variance.mean()) - 1) < 5 * float(variance.std()) / runs**0.5


def test_huge_log_weights_do_not_overflow():
    result = make(draw(3, 1, 2), log_weights=torch.tensor([[1e4], [1e4], [-1e4]]))
    torch.testing.assert_close(result.weights[:, 0], torch.tensor([0.5, 0.5, 0.0]).double(), rtol=0, atol=0)


def test_items_without_samples_or_weight_are_nan_and_the_others_are_not():
    failed = torch.zeros(20, 3, dtype=torch.bool)
    failed[:, 1] = True
    x = draw(20, 3, 2)
    result = make(x, failed=failed)
    low, high, level = result.interval(0.9)
    for value in (result.mean, result.std, result.quantile(0.5), low, high):
        assert value[1].isnan().all() and value[[0, 2]].isfinite().all()
    assert level == pytest.approx(1 - 2 / 21) and result.ess.tolist() == [20, 0, 20]
    logs = torch.zeros(20, 3)
    logs[:, 2] = -math.inf
    weighted = make(x, failed=failed, log_weights=logs)
    for value in (weighted.mean, weighted.std, weighted.quantile(0.5)):
        assert value[1:].isnan().all() and value[0].isfinite().all()
    assert weighted.ess.tolist() == pytest.approx([20, 0, 0])


def test_statistics_of_no_good_sample_are_nan():
    result = make(draw(4, 2), batched=False, failed=torch.ones(4, dtype=torch.bool))
    assert result.status is Status.ALL_FAILED and float(result.ess) == 0
    low, high, level = result.interval(0.5)
    for value in (result.mean, result.std, result.quantile(0.5), low, high, torch.tensor(level)):
        assert value.isnan().all()


@pytest.mark.parametrize("weights", [None, torch.tensor([0.3, -1.0, -math.inf])])
def test_one_sample_has_no_std(weights):
    failed = torch.tensor([False, True, True])
    assert make(draw(3, 2), batched=False, failed=failed, log_weights=weights).std.isnan().all()
    assert make(draw(1, 2), batched=False).std.isnan().all()


# --- quantile and interval -------------------------------------------------------------------------------------------
def test_quantiles_are_type_6_of_hyndman_and_fan():
    x = draw(23, 2, 3)
    failed = torch.zeros(23, 2, dtype=torch.bool)
    failed[4:9, 1] = True
    levels = [1 / 19, 0.1, 0.333, 0.5, 0.9, 18 / 19]
    found = make(x, failed=failed).quantile(levels)
    assert found.shape == (6, 2, 3)
    for b in range(2):
        want = np.quantile(x[~failed[:, b], b].numpy(), levels, axis=0, method="weibull")  # numpy's name of type 6
        np.testing.assert_allclose(found[:, b], want, rtol=0, atol=1e-12)


def test_levels_on_order_statistics_give_exactly_those():
    x = draw(19, 1, 1).sort(0).values
    result = make(x)
    for k in range(1, 20):
        assert torch.equal(result.quantile(k / 20)[0, 0], x[k - 1, 0, 0]), k


def test_quantile_takes_a_number_a_list_or_a_tensor():
    result = make(draw(9, 2, 3))
    assert result.quantile(0.5).shape == (2, 3)
    both = result.quantile((0.2, 0.5))
    assert torch.equal(both[1], result.quantile(0.5))
    torch.testing.assert_close(result.quantile(torch.tensor([0.2, 0.5], dtype=torch.float64)), both, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("q", "n", "need"), [(0.05, 18, 19), (0.95, 18, 19), (0.9, 8, 9), (0.025, 20, 39), (0.999, 9, 999)]
)
def test_levels_that_the_sample_cannot_carry_are_refused_with_the_number_needed(q, n, need):
    with pytest.raises(
        InputError, match=rf"quantile: `q` must be between .* with {n} samples, got {q}.*at least {need} "
    ):
        make(draw(n, 2, 1)).quantile(q)
    make(draw(need, 2, 1)).quantile(q)  # and that many do


def test_quantile_refusals():
    result = make(draw(19, 2, 1))
    for q in (0.0, 1.0, -0.2):
        with pytest.raises(InputError, match="quantile: `q` must be between 0 and 1"):
            result.quantile(q)
    for q in ("0.5", [], torch.ones(1, 1), np.ones((1, 1)), None, {0.5: 1}):
        with pytest.raises(InputTypeError, match="quantile: `q` must be a number or a sequence of numbers"):
            result.quantile(q)
    with pytest.raises(InputTypeError, match="quantile: `q` must be a real number"):
        result.quantile([True])
    with pytest.raises(InputTypeError, match=r"`samples` must be real: .*complex64.*result.map\(torch.abs\).quantile"):
        make(draw(19, 2, 1, dtype=torch.complex64)).quantile(0.5)
    weighted = make(draw(40, 1, 1), log_weights=torch.arange(40.0)[:, None])  # ESS near 2
    with pytest.raises(
        InputError, match=r"between .* with 2.164 effective samples, got 0.1.*at least 9 effective samples"
    ):
        weighted.quantile(0.1)


def test_weighted_quantiles_are_those_of_the_target():
    """Draws of N(0, 1) weighted to N(1, 1): quantiles within 5 standard errors sqrt(q (1 - q) / n_e) / density."""
    x = draw(200_000, 1, 1)
    result = make(x, log_weights=x[:, :, 0])
    target = torch.distributions.Normal(1.0, 1.0)
    for q in (0.05, 0.3, 0.5, 0.95):
        want = target.icdf(torch.tensor(q))
        error = (q * (1 - q) / float(result.ess)) ** 0.5 / float(target.log_prob(want).exp())
        assert abs(float(result.quantile(q)) - float(want)) < 5 * error


def test_weighted_quantiles_mirror_and_skip_samples_of_no_weight():
    x, logs = draw(30, 2, 4), draw(30, 2, seed=3)
    logs[5] = -math.inf
    x[5] = 1e6
    up, down = make(x, log_weights=logs), make(-x, log_weights=logs)
    torch.testing.assert_close(up.quantile([0.2, 0.5, 0.8]), -down.quantile([0.8, 0.5, 0.2]), rtol=0, atol=1e-12)
    keep = torch.arange(30) != 5
    torch.testing.assert_close(up.quantile([0.2, 0.8]), make(x[keep], log_weights=logs[keep]).quantile([0.2, 0.8]))


@pytest.mark.parametrize(
    ("n", "level", "rank", "exact"),
    [
        (19, 0.9, 1, 0.9),
        (19, 0.5, 5, 0.5),
        (39, 0.9, 2, 0.9),
        (20, 0.9, 1, 19 / 21),
        (9, 0.8, 1, 0.8),
        (99, 0.98, 1, 0.98),
    ],
)
def test_interval_is_order_statistics_of_known_level(n, level, rank, exact):
    x = draw(n, 2, 3)
    low, high, found = make(x).interval(level)
    ordered = x.sort(0).values
    assert torch.equal(low, ordered[rank - 1]) and torch.equal(high, ordered[n - rank])
    assert found == pytest.approx(exact, abs=1e-14) and found >= level - 1e-12


def test_interval_covers_at_its_level():
    """A further exact draw falls between min and max of 19 with probability 0.9, for any law."""
    runs = 40_000
    x = draw(20, runs).exp()
    low, high, level = make(x[:19, :, None]).interval(0.9)
    covered = ((x[19, :, None] >= low) & (x[19, :, None] <= high)).double().mean()
    assert abs(float(covered) - 0.9) < 5 * (0.09 / runs) ** 0.5 and level == pytest.approx(0.9)


def test_interval_of_items_with_fewer_samples_says_the_smallest_level():
    failed = torch.zeros(40, 2, dtype=torch.bool)
    failed[:1, 1] = True
    x = draw(40, 2, 1)
    low, high, level = make(x, failed=failed).interval(0.9)
    assert level == pytest.approx(min(1 - 2 * 2 / 41, 1 - 2 * 2 / 40))
    assert torch.equal(low[1], x[1:, 1].sort(0).values[1]) and torch.equal(high[0], x[:, 0].sort(0).values[38])


def test_interval_refusals():
    with pytest.raises(
        InputError, match="interval: `level` must be at most 0.8947 with 18 samples, got 0.9.*at least 19 "
    ):
        make(draw(18, 2, 1)).interval(0.9)
    for level in (0.0, 1.0, 90):
        with pytest.raises(InputError, match="interval: `level` must be between 0 and 1"):
            make(draw(19, 2, 1)).interval(level)
    with pytest.raises(InputTypeError, match="interval: `samples` must be real"):
        make(draw(19, 2, 1, dtype=torch.complex64)).interval(0.9)
    with pytest.raises(InputError, match=r"must be of equal weight.*got weights. Use quantile\(\[0.05, 0.95\]\)"):
        make(draw(19, 2, 1), log_weights=torch.zeros(19, 2)).interval(0.9)


# --- map and parts ---------------------------------------------------------------------------------------------------
def test_map_is_the_posterior_of_a_derived_quantity():
    x = draw(12, 2, 3, 4, dtype=torch.complex64)
    failed = torch.zeros(12, 2, dtype=torch.bool)
    failed[3, 0] = True
    logs = draw(12, 2, seed=5)
    seen = []

    def energy(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows.abs().square().flatten(1).sum(1)

    result = make(x, failed=failed, log_weights=logs, units="mm").map(energy)
    assert len(seen) == 1 and tuple(seen[0].shape) == (23, 3, 4) and seen[0].isfinite().all()
    assert result.shape == () and tuple(result.samples.shape) == (12, 2) and result.units == ""
    want = make(x.abs().square().sum((2, 3)), failed=failed, log_weights=logs)
    torch.testing.assert_close(result.mean, want.mean)
    torch.testing.assert_close(result.std, want.std)
    assert torch.equal(result.failed, failed) and result.samples[3, 0].isnan() and result.chi2 is not None


def test_map_to_bool_gives_probabilities():
    x = draw(40, 2, 3)
    result = make(x).map(lambda rows: rows.amax(1) > 1)
    torch.testing.assert_close(result.mean, (x.amax(2) > 1).double().mean(0))


def test_map_with_a_non_finite_answer_counts_it_as_failed_and_warns():
    x = torch.tensor([[1.0], [-1.0], [4.0]])
    result = make(x, batched=False).map(torch.sqrt)
    assert result.failed.tolist() == [False, True, False] and result.status is Status.SOME_FAILED
    assert float(result.mean) == 1.5
    assert result.warnings == ("the derived quantity was NaN or infinite for 1 samples, which count as failed",)


def test_map_refusals():
    result = make(draw(4, 2, 3))
    with pytest.raises(
        InputTypeError, match=r"map: `function\(x\)` must be a tensor, an array or a number, got 'text'"
    ):
        result.map(lambda rows: "text")
    for wrong in (lambda rows: rows.sum(), lambda rows: rows.sum(0), lambda rows: float(rows.sum()), np.sum, np.max):
        with pytest.raises(
            InputError, match=r"map: `function\(x\)` must be of 8 rows, one for each of x, got .*axes only"
        ):
            result.map(wrong)
    with pytest.raises(InputError, match="map: `result` must be one with a sample that did not fail"):
        make(draw(4, 2, 3), failed=torch.ones(4, 2, dtype=torch.bool)).map(torch.abs)


LAYOUT = Layout(parts=(Part(name="image", shape=(2, 2), kind="complex", unit="T"), Part(name="shift", shape=(3,))))


@pytest.mark.parametrize("batched", [True, False])
def test_parts_of_a_packed_signal(batched):
    x = draw(5, *((2,) if batched else ()), 11)
    failed = torch.zeros(x.shape[:-1], dtype=torch.bool)
    failed[1] = True
    result = make(x, batched=batched, failed=failed, layout=LAYOUT)
    image, shift = result["image"], result["shift"]
    assert image.shape == (2, 2) and image.samples.is_complex() and image.units == "T" and shift.units == ""
    torch.testing.assert_close(shift.mean, result.mean[..., 8:])
    torch.testing.assert_close(torch.view_as_real(image.mean).flatten(-3), result.mean[..., :8])
    assert torch.equal(image.failed, failed)


def test_parts_refusals():
    with pytest.raises(InputError, match=r"`result\[...\]` must be used on a packed signal.*got 'image'"):
        make(draw(5, 11), batched=False)["image"]
    with pytest.raises(InputError, match=r"`result\[...\]` must be one of 'image', 'shift', got 'imag'"):
        make(draw(5, 11), batched=False, layout=LAYOUT)["imag"]


# --- what a result may not be ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"samples": torch.ones(4, 2, 3, dtype=torch.int64)},
            InputTypeError,
            "`samples` must be a floating or complex",
        ),
        ({"samples": [1.0]}, InputTypeError, "`samples` must be a floating or complex tensor, got list"),
        ({"shape": (4,)}, InputError, r"`samples` must be of shape \(num_samples, batch, 4\), got \(4, 2, 3\)"),
        ({"batched": False}, InputError, r"`samples` must be of shape \(num_samples, 3\)"),
        ({"samples": torch.ones(0, 2, 3), "failed": torch.ones(0, 2) > 0}, InputError, "`samples` must be of shape"),
        ({"failed": torch.zeros(4, 2)}, InputTypeError, "`failed` must be a bool tensor, got torch.float32"),
        ({"chi2": torch.ones(4)}, InputError, r"`chi2` must be of shape \(4, 2\), got \(4,\)"),
        ({"chi2": None}, InputTypeError, "`chi2` must be a real tensor, got NoneType"),
        ({"info": {"r": torch.ones(4, 1)}}, InputError, r"`info\['r'\]` must be of shape \(4, 2\)"),
        ({"log_weights": torch.ones(4, 2) * 1j}, InputTypeError, "`log_weights` must be a real tensor"),
        ({"log_weights": torch.full((4, 2), math.nan)}, InputError, "`log_weights` must be below infinity.*got nan"),
        ({"log_weights": torch.full((4, 2), math.inf)}, InputError, "`log_weights` must be below infinity.*got inf"),
        ({"status": Status.SOME_FAILED}, InputError, "`status` must be Status.SUCCESS, as `failed` and"),
        ({"samples": torch.full((4, 2, 3), math.inf)}, InputError, "`failed` must be True for every sample with NaN"),
        ({"dims": ("x", "y")}, InputError, "`dims` must be 1 different names"),
    ],
)
def test_inconsistent_results_are_refused(changes, error, message):
    with pytest.raises(error, match="Result: " + message):
        dataclasses.replace(make(draw(4, 2, 3)), **changes)


def test_a_result_is_frozen_and_keyword_only():
    result = make(draw(4, 2, 3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.seed = 1
    with pytest.raises(TypeError):
        Result(result.samples)


def test_statistics_do_not_touch_the_samples():
    failed = torch.zeros(30, 2, dtype=torch.bool)
    failed[0, 0] = True
    result = make(draw(30, 2, 3), failed=failed, log_weights=draw(30, 2))
    before = result.samples.clone()
    result.mean, result.std, result.quantile(0.5), result.map(torch.abs)
    torch.testing.assert_close(result.samples, before, rtol=0, atol=0, equal_nan=True)


def test_dims_and_units_come_from_the_problem():
    problem = SimpleNamespace(dims=("y", "x"), units="mm")
    result = make(draw(4, 2, 3, 5), problem=problem)
    assert result.dims == ("y", "x") and result.units == "mm"
    assert make(draw(4, 2, 3, 5), problem=SimpleNamespace(grid=SimpleNamespace(dims=("a", "b")))).dims == ("a", "b")
    assert make(draw(4, 2, 3), problem=problem).dims is None  # names of another number of axes


# --- words -----------------------------------------------------------------------------------------------------------
def test_repr_is_one_short_line():
    text = repr(make(draw(16, 4, 64, 64, dtype=torch.complex64), strategy="two\nlines"))
    assert text == ("Result(not tested, samples=(16, 4, 64, 64) complex64, strategy=two lines, nfe=50, 1.25 s)")
    assert repr(make(draw(4, 2, 3), warnings=("it does not fit",))).endswith(" s, 1 in `warnings`)")
    failed = torch.zeros(4, 2, dtype=torch.bool)
    failed[0] = True
    assert "SOME_FAILED, failed=2 of 8" in repr(make(draw(4, 2, 3), failed=failed))


def test_summary_says_what_was_assumed_and_what_it_cost():
    problem, prior = SimpleNamespace(dims=None, units="mT"), "GaussianPrior(...)"
    text = make(draw(16, 4, 8, 8), problem=problem, prior=prior, warnings=("the adjoint is off",)).summary()
    for words in (
        "16 samples for each of 4 items of a real signal, 8 x 8 (float64)",
        "SUCCESS. Every sample is finite",
        "Exact: the prior and the noise are Gaussian",
        "GaussianPrior",
        "mT",
        "median 1, 1 (about 1 if",
        "50 denoiser evaluations and 0 differentiations a sample, 1.2 s; operator rows: forward 8",
        "steps=50",
        "effective samples: 16 per item",
        "warning: the adjoint is off",
        "torch 2",
    ):
        assert words in text, words
    bare = make(draw(3, 2), batched=False, chi2=torch.full((3,), math.nan), settings={}, versions={}).summary()
    assert "chi^2 per datum: not known" in bare and "settings: none" in bare and "not recorded" in bare


def test_html_is_escaped_and_self_contained():
    evil = "<script>alert('x')</script>\"&"
    result = make(
        draw(5, 2, 8, 8),
        strategy=evil,
        why=evil,
        settings={evil: evil},
        warnings=(evil,),
        units=evil,
        versions={evil: evil},
        operator_calls={evil: 1},
        prior=evil,
    )
    text = result._repr_html_()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert text.count("data:image/png;base64,") == 4  # mean and std of two items
    assert not re.search(r"(src|href)='(?!data:)", text)


@pytest.mark.parametrize(("shape", "items", "images"), [((8, 9), 6, 8), ((1, 8, 9), 1, 2), ((5, 8, 9), 1, 2)])
def test_html_shows_thumbnails_of_images(shape, items, images):
    import base64
    import io

    from matplotlib.image import imread

    text = make(draw(5, items, *shape, dtype=torch.complex64))._repr_html_()
    found = re.findall(r"base64,([^']+)'", text)
    assert len(found) == images
    for encoded in found:
        assert imread(io.BytesIO(base64.b64decode(encoded)), format="png").shape[:2] == (8, 9)
    assert ("and 2 more items" in text) == (items == 6)


@pytest.mark.parametrize(("shape", "items", "images"), [((8,), 2, 2), ((), 1, 1), ((1, 8), 6, 4)])
def test_html_shows_figures_of_lines_and_numbers(shape, items, images):
    failed = torch.zeros(5, items, dtype=torch.bool)
    failed[:, 0] = items > 1  # which has nothing to be drawn
    text = make(draw(5, items, *shape, dtype=torch.complex64), failed=failed)._repr_html_()
    assert text.count("data:image/png") == images - (1 < items < 4)
    assert ("alt='item 0'" in text) == (items == 1) and ("and 1 more items" in text) == (items == 6)
    assert "data:image" not in make(draw(5, items, *shape), failed=torch.ones_like(failed))._repr_html_()


def test_html_of_a_constant_or_failed_image():
    failed = torch.ones(3, dtype=torch.bool)
    for result in (make(torch.ones(3, 8, 8), batched=False), make(torch.ones(3, 8, 8), batched=False, failed=failed)):
        assert result._repr_html_().count("data:image/png") == 2


def test_interval_is_a_named_tuple():
    interval = make(draw(19, 2, 1)).interval(0.9)
    assert isinstance(interval, Interval) and interval.low.shape == (2, 1)


def test_check_asks_the_solver():
    class Checks:
        def check(self, result, *, solves, budget, progress):
            return "checked", result, solves, budget

    result = make(draw(3, 2, 1), solver=Checks(), problem="one", prior="one")
    assert result.check() == ("checked", result, None, None)
    assert result.map(torch.abs).check() == ("checked", result, None, None)  # what it was made from
    assert result.check(solves=True, budget=5) == ("checked", result, True, 5.0)
    for budget, error in ((0, InputError), (-1.0, InputError), ("long", InputTypeError)):
        with pytest.raises(error, match="Result.check: `budget` must be"):
            result.check(budget=budget)
    with pytest.raises(UnsupportedError, match="a loaded result does not hold problem and prior"):
        make(draw(3, 2, 1)).check()


@pytest.mark.parametrize("status", Status)
def test_status_advises(status):
    assert status.value.endswith(".") and (status is Status.SUCCESS or "try" in status.value)


@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_of_one_number_without_a_batch(weighted):
    options = {"log_weights": torch.linspace(0, 1, 40)} if weighted else {}
    failed = torch.arange(40) == 7
    result = make(draw(40), batched=False, failed=failed, **options)
    good = result.samples[~failed]
    assert result.mean.shape == result.std.shape == result.quantile(0.5).shape == ()
    assert float(good.min()) < float(result.quantile(0.5)) < float(good.max())
    assert weighted or result.interval(0.9).low.shape == ()
