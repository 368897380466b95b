"""Figures of a few numbers: what is drawn, with which values; and what is refused."""

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.plotting import plot_parameters, plot_result

PRIOR = iv.priors.independent(
    rate=iv.LogNormal(median=2.0, factor=1.5), delay=iv.Uniform(low=0.0, high=1.0), units={"rate": "1/s"}
)
A = iv.operators.from_simulator(lambda rate, delay: np.array([rate * delay]), PRIOR.layout, out_shape=(1,))
RESULT = iv.solve(A, np.array([1.0]), PRIOR, noise=0.3, strategy=iv.strategies.NoiseMCMC(chains=64), num_samples=64)


def test_pairs_hold_every_draw_and_the_truth():
    figure = plot_parameters(RESULT, truth={"rate": 2.0})
    grid = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title() for ax in grid] == ["rate", "", "delay"] and len(figure.axes) == 4
    (points,) = grid[1].collections
    expected = torch.stack([RESULT["rate"].samples, RESULT["delay"].samples], 1).double().numpy()
    np.testing.assert_allclose(points.get_offsets(), expected)
    assert grid[1].get_xlabel() == "rate [1/s]" and grid[1].get_ylabel() == "delay"
    dashed = [line.get_xdata()[0] for line in grid[1].lines if line.get_linestyle() == "--"]
    assert dashed == [2.0]


def test_forest_shows_intervals():
    axes = plot_parameters(RESULT, kind="forest").axes
    values = np.sort(RESULT["rate"].samples.double().numpy())
    places = (np.arange(64) + 0.5) / 64
    for lines, level in zip(axes[0].collections, (0.9, 0.5), strict=True):
        (segment,) = lines.get_segments()
        np.testing.assert_allclose(segment[:, 0], np.interp([(1 - level) / 2, (1 + level) / 2], places, values))
    assert [ax.get_yticklabels()[0].get_text() for ax in axes] == ["rate [1/s]", "delay"]
    assert axes[0].lines[0].get_xdata()[0] == pytest.approx(float(RESULT["rate"].mean), rel=1e-6)


def test_traces_show_draws_in_order():
    axes = plot_parameters(RESULT, kind="trace", truth={"delay": 0.5}).axes
    np.testing.assert_allclose(axes[1].lines[0].get_ydata(), RESULT["delay"].samples.double().numpy())
    assert axes[1].lines[2].get_ydata()[0] == 0.5


def test_named_numbers_are_what_plot_shows():
    assert [ax.get_title() for ax in RESULT.plot().axes if ax.axison] == ["rate", "", "delay"]
    assert len(plot_result(RESULT, truth=torch.tensor([2.0, 0.5])).axes) == 1  # a line beside the truth


def test_inferred_scalars_and_short_signals():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))
    mask = iv.operators.Mask(mask=[True, True, False])
    noise = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=2))
    inferred = iv.solve(mask, torch.zeros(2, 3), prior, noise=noise, num_samples=8)
    assert [ax.get_title() for ax in plot_parameters(inferred, item=1).axes] == ["noise.std"]
    short = iv.solve(mask, torch.zeros(3), prior, noise=0.1, num_samples=8)
    assert len(plot_parameters(short, kind="forest").axes) == 3


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"kind": "pie"}, iv.errors.InputError, "`kind` must be one of"),
        ({"item": 1}, iv.errors.InputError, "`item` must be below 1"),
        ({"truth": 3.0}, iv.errors.InputTypeError, "`truth` must be a mapping of names to numbers"),
        ({"truth": {"gain": 1.0}}, iv.errors.InputError, "`truth` must be of the names rate, delay, got gain"),
        ({"truth": {"rate": "x"}}, iv.errors.InputTypeError, "truth"),
    ],
)
def test_refusals(options, error, words):
    with pytest.raises(error, match=words):
        plot_parameters(RESULT, **options)


def test_what_has_too_many_numbers_is_refused():
    prior = iv.priors.GaussianPrior(mean=torch.zeros(9), covariance=torch.eye(9))
    nine = iv.solve(iv.operators.Mask(mask=[True] * 9), torch.zeros(9), prior, noise=0.1, num_samples=4)
    with pytest.raises(iv.errors.InputError, match="'forest' or 'trace' for more than 8 numbers"):
        plot_parameters(nine, kind="pairs")
    field = iv.priors.GaussianFieldPrior((41,), iv.priors.Matern(std=1.0, length=0.2))
    long = iv.solve(iv.operators.Mask(mask=[True] * 41), torch.zeros(41), field, noise=0.1, num_samples=4)
    with pytest.raises(iv.errors.InputError, match="one with 1 to 40 numbers"):
        plot_parameters(long)
    failed = RESULT.__class__(
        **{f: getattr(RESULT, f) for f in ("strategy", "why", "nfe", "vjps", "operator_calls", "seconds", "seed")},
        **{f: getattr(RESULT, f) for f in ("settings", "versions", "batched", "shape", "chi2", "layout")},
        samples=torch.full_like(RESULT.samples, float("nan")),
        failed=torch.ones_like(RESULT.failed),
        status=iv.Status.from_failures(torch.ones_like(RESULT.failed)),
    )
    with pytest.raises(iv.errors.InputError, match="an item with a sample that did not fail"):
        plot_parameters(failed)
