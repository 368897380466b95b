"""Figures: which panels there are, what numbers they hold and on which scale; no state of pyplot is touched."""

from __future__ import annotations

import io
import math
import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor

from invsolve.errors import InputError, InputTypeError
from invsolve.plotting import central_image, comparison_figure, plot_result
from invsolve.results.result import Result
from invsolve.results.status import Status


def make(
    *lead: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, bad: int | None = None, **changes: Any
) -> Result:
    samples = torch.randn(*lead, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 5
    failed = torch.zeros(lead, dtype=torch.bool)
    if bad is not None:
        failed[bad] = True
        samples[bad] = math.nan
    values: dict[str, Any] = dict(
        samples=samples,
        status=Status.from_failures(failed),
        failed=failed,
        batched=len(lead) == 2,
        shape=shape,
        chi2=torch.ones(lead),
        strategy="MMPS",
        why="why",
        nfe=50.0,
        vjps=0.0,
        operator_calls={},
        seconds=1.0,
        seed=0,
        settings={},
        versions={},
    )
    return Result(**(values | changes))


def panels(figure: Figure) -> dict[str, Any]:
    """Image axes by title, after a real drawing."""
    figure.savefig(io.BytesIO(), dpi=50)
    return {ax.get_title(): ax for ax in figure.axes if ax.images}


def shown(ax: Any) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


# --- images ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batched", [True, False])
def test_images_hold_mean_std_samples_truth_and_error(batched):
    result = make(*((6, 3) if batched else (6,)), shape=(8, 10), bad=0)
    truth = torch.full((8, 10), 5.0)
    found = panels(result.plot(item=2 if batched else 0, truth=truth))
    of = (lambda x: x[2]) if batched else (lambda x: x)
    assert list(found) == ["truth", "mean", "std", "sample 1", "sample 2", "|mean - truth|"]  # row 0 failed
    np.testing.assert_array_equal(shown(found["mean"]), of(result.mean))
    np.testing.assert_array_equal(shown(found["std"]), of(result.std))
    np.testing.assert_array_equal(shown(found["sample 1"]), of(result.samples[1]))
    np.testing.assert_array_equal(shown(found["|mean - truth|"]), (of(result.mean) - truth).abs())
    limits = {name: ax.images[0].get_clim() for name, ax in found.items()}
    assert limits["truth"] == limits["mean"] == limits["sample 1"] == limits["sample 2"]
    for name in ("std", "|mean - truth|"):  # scales of their own
        low, high = limits[name]
        assert low == 0 and high == pytest.approx(float(np.quantile(shown(found[name]), 0.999)), rel=1e-6)


def test_a_truth_with_items_is_indexed():
    result, truth = make(5, 2, shape=(4, 4)), torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    assert shown(panels(result.plot(item=1, truth=truth))["truth"]).min() == 1


@pytest.mark.parametrize(
    ("part", "function"),
    [("magnitude", torch.abs), ("phase", torch.angle), ("real", torch.real), ("imag", torch.imag)],
)
def test_complex_images_by_part(part, function):
    result = make(5, shape=(6, 6), dtype=torch.complex64)
    truth = torch.full((6, 6), 5j, dtype=torch.complex64)
    found = panels(plot_result(result, truth=truth, part=part))
    np.testing.assert_allclose(shown(found["mean"]), function(result.mean), rtol=1e-6)
    np.testing.assert_array_equal(shown(found["std"]), result.std)
    gap = result.mean - truth
    turned = torch.angle(result.mean * truth.conj())
    error = {"magnitude": gap.abs(), "phase": turned.abs()}.get(part, function(gap).abs())
    name = "|mean - truth|" + (" in phase" if part == "phase" else "")
    np.testing.assert_allclose(shown(found[name]), error, rtol=1e-5)
    if part == "phase":
        assert found["mean"].images[0].get_clim() == (-np.pi, np.pi)


def test_volumes_show_their_middle_and_thin_axes_are_dropped():
    result = make(4, 1, shape=(1, 5, 6, 7))
    found = panels(result.plot())
    np.testing.assert_array_equal(shown(found["mean"]), result.mean[0, 0, 2])
    image, where = central_image(result.mean[0])
    assert torch.equal(image, result.mean[0, 0, 2]) and where == "slice 2 of 5"


@pytest.mark.parametrize("shape", [(200, 3), (3, 200), (2, 2)])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_odd_shapes_and_few_samples_are_drawn(shape, samples):
    found = panels(make(samples, shape=shape).plot(truth=torch.zeros(shape)))
    assert len(found) == 4 + min(samples, 2)


def test_images_into_given_axes():
    figure = Figure()
    axes = figure.subplots(2, 2)
    result = make(4, shape=(5, 5))
    assert result.plot(axes=axes, truth=torch.zeros(5, 5)) is figure
    assert [ax.get_title() for ax in axes.flat] == ["mean", "std", "sample 0", "sample 1"]
    assert make(4, shape=(5, 5)).plot(axes=axes[0, 0]) is figure


# --- lines and numbers -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("samples", "label"),
    [(19, "90 % interval"), (40, "90.2 % interval"), (9, "80 % interval"), (2, "33.3 % interval"), (1, None)],
)
def test_lines_have_a_band_of_the_level_it_carries(samples, label):
    result = make(samples, 2, shape=(1, 30), dims=("c", "depth"), units="mT")
    figure = result.plot(item=1, truth=torch.zeros(1, 30))
    figure.savefig(io.BytesIO())
    (ax,) = figure.axes
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [*([label] if label else []), "samples", "mean", "truth"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("depth", "mT")
    np.testing.assert_array_equal(ax.lines[-2].get_ydata(), result.mean[1, 0])
    if label:
        low, high = result.interval((samples - 1) / (samples + 1) if samples < 19 else 0.9)[:2]
        points = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert points.min() == pytest.approx(float(low[1].min()))
        assert points.max() == pytest.approx(float(high[1].max()))


def test_weighted_lines_use_quantiles_and_leave_the_band_out_when_one_sample_has_all_the_weight():
    result = make(40, shape=(30,), log_weights=torch.linspace(0, 1, 40))
    assert result.plot().axes[0].collections
    result = make(40, shape=(30,), log_weights=torch.linspace(0, 1000, 40))
    assert not result.plot().axes[0].collections


def test_a_failed_item_does_not_narrow_or_break_the_band_of_another():
    failed = torch.zeros(19, 2, dtype=torch.bool)
    failed[:, 1] = True
    whole = make(19, 2, shape=(30,))
    samples = whole.samples.clone()
    samples[failed] = math.nan
    result = make(19, 2, shape=(30,), samples=samples, failed=failed, status=Status.SOME_FAILED)
    (band,) = result.plot(item=0).axes[0].collections
    assert band.get_label() == "90 % interval"


@pytest.mark.parametrize("part", ["magnitude", "phase"])
def test_complex_lines(part):
    result = make(19, shape=(30,), dtype=torch.complex64)
    figure = result.plot(part=part, truth=torch.ones(30, dtype=torch.complex64))
    function = {"magnitude": torch.abs, "phase": torch.angle}[part]
    np.testing.assert_allclose(figure.axes[0].lines[-2].get_ydata(), function(result.samples).mean(0), rtol=1e-5)


def test_numbers_are_a_histogram_of_all_the_mass():
    result = make(30, 2, shape=(1,), bad=3, log_weights=torch.randn(30, 2, generator=torch.Generator().manual_seed(1)))
    figure = result.plot(item=1, truth=torch.tensor([5.0]))
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(1)
    assert result.map(lambda x: x.sum(1)).plot().axes  # no axis at all


# --- manners ---------------------------------------------------------------------------------------------------------
def test_no_global_state_is_touched():
    before = dict(matplotlib.rcParams)
    pyplot = "matplotlib.pyplot" in sys.modules
    make(4, shape=(5, 5)).plot()
    make(4, shape=(5,)).plot()
    comparison_figure({"a": torch.ones(4, 4)})
    assert dict(matplotlib.rcParams) == before and ("matplotlib.pyplot" in sys.modules) == pyplot


def test_constant_and_hot_pixel_images():
    found = panels(make(3, shape=(6, 6), samples=torch.ones(3, 6, 6)).plot(truth=torch.ones(6, 6)))
    low, high = found["mean"].images[0].get_clim()
    assert low < high
    hot = torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(0))
    hot[:, 0, 0] = 1e6
    assert panels(make(3, shape=(100, 100), samples=hot).plot())["mean"].images[0].get_clim()[1] < 2


def test_refusals():
    result = make(4, 2, shape=(5, 5))
    with pytest.raises(InputError, match="plot: `item` must be below 2, the number of items, got 2"):
        result.plot(item=2)
    with pytest.raises(InputError, match="plot: `item` must be at least 0"):
        result.plot(item=-1)
    with pytest.raises(InputError, match="plot: `part` must be one of 'magnitude', 'phase', 'real', 'imag', got 'abs'"):
        result.plot(part="abs")
    with pytest.raises(InputError, match=r"plot: `truth` must be of shape \(5, 5\), got \(5,\)"):
        result.plot(truth=torch.ones(5))
    with pytest.raises(InputTypeError, match="plot: `truth` must be a torch.Tensor, a numpy array, .*, got dict"):
        result.plot(truth={})
    with pytest.raises(InputError, match="plot: `item` must be an item with a sample that did not fail, got 0"):
        make(1, shape=(5, 5), bad=0).plot()


# --- comparison ------------------------------------------------------------------------------------------------------
def images(dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], Tensor]:
    truth = torch.randn(8, 9, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return {"one": 1.1 * truth, "two": truth[None] + 0.5}, truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_comparison_shows_magnitudes_and_errors_on_shared_scales(dtype):
    columns, truth = images(dtype)
    figure = comparison_figure(columns, truth=truth)
    figure.savefig(io.BytesIO(), dpi=50)
    drawn = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in drawn[:3]] == ["truth", "one", "two"]
    assert drawn[3].get_title() == "|error|, NRMSE 0.1000"  # ||0.1 truth|| / ||truth||
    np.testing.assert_allclose(shown(drawn[4]), np.full((8, 9), 0.5), rtol=1e-5)
    want = columns["one"].abs() if dtype.is_complex else columns["one"]
    np.testing.assert_allclose(shown(drawn[1]), want)
    assert len({ax.images[0].get_clim() for ax in drawn[:3]}) == len({ax.images[0].get_clim() for ax in drawn[3:]}) == 1


def test_comparison_without_truth_or_with_a_failed_or_zero_image():
    columns, truth = images()
    assert [ax.get_title() for ax in panels(comparison_figure(columns)).values()] == ["one", "two"]
    bad = comparison_figure({"bad": torch.full_like(truth, math.nan)}, truth=truth)
    assert "bad" in panels(bad)
    assert "|error|" in panels(comparison_figure({"any": truth}, truth=torch.zeros_like(truth)))


def test_a_truth_may_be_an_array_a_list_or_a_file(tmp_path):
    result, truth = make(4, shape=(5, 5)), np.arange(25).reshape(5, 5)
    np.save(tmp_path / "truth.npy", truth)

    def shown(value):
        return next(axes for axes in result.plot(truth=value).axes if axes.get_title() == "truth").images[0].get_array()

    for form in (truth, truth.tolist(), torch.tensor(truth), tmp_path / "truth.npy"):
        assert np.array_equal(shown(form), truth)
    comparison_figure({"a": truth, "b": truth.tolist()}, truth=truth + 1)


def test_comparison_refusals():
    with pytest.raises(
        InputTypeError, match="comparison_figure: `images` must be a non-empty mapping of name to image"
    ):
        comparison_figure({})
    with pytest.raises(InputError, match=r"`images\['a'\]` must be an image of two axes, got \(3,\)"):
        comparison_figure({"a": torch.ones(3)})
    with pytest.raises(InputTypeError, match=r"`images\['a'\]` must be a torch.Tensor, a numpy array, .*, got dict"):
        comparison_figure({"a": {}})
    with pytest.raises(InputError, match=r"`images\['a'\]` must be of the shape of truth, \(4, 4\), got \(3, 3\)"):
        comparison_figure({"a": torch.ones(3, 3)}, truth=torch.ones(4, 4))


def test_errors_can_be_averaged_inside_an_object():
    """NRMSE of a part of the image, as in a table beside it."""
    truth = torch.zeros(8, 8)
    truth[2:6, 2:6] = 2.0
    image, inside = truth + 0.5, truth > 0
    drawn = comparison_figure({"image": image}, truth=truth, within=inside).axes
    assert "NRMSE 0.2500" in [ax.get_title() for ax in drawn][3]
    for mask, error, words in (
        (inside.float(), InputTypeError, "bool"),
        (inside[:4], InputTypeError, "bool"),
    ):
        with pytest.raises(error, match=f"comparison_figure: `within` must be a {words}"):
            comparison_figure({"image": image}, truth=truth, within=mask)
    with pytest.raises(InputError, match="`within` must be left out without a truth"):
        comparison_figure({"image": image}, within=inside)
