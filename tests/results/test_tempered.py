"""Samples of a power of the likelihood do not look like success anywhere; and what samples are worth, repeats apart."""

from __future__ import annotations

import html
import json
import math
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.results.certificate import beyond
from invsolve.results.repeats import counted_once
from invsolve.strategies.diagnostics import Diagnostics

D = torch.float64


def stopped(*shape: int) -> iv.Result:
    """y = x^3 - 2 x with little noise, after one move."""
    n = shape[-1]
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))
    A = iv.operators.from_callable(lambda x: x**3 - 2 * x + 1e-6 * x.roll(1, -1), (n,), (n,))
    y = torch.linspace(-1, 1, math.prod(shape), dtype=D).view(shape)
    return iv.solve(A, y, prior, noise=1e-4, num_samples=40, budget=iv.Budget(evaluations=600))


@pytest.fixture(scope="module")
def result() -> iv.Result:
    return stopped(4)


def test_no_face_of_it_looks_like_success(result, tmp_path) -> None:
    power = f"{float(result.info['beta'][0]):.2g}"
    words = f"tempered, power {power} of the likelihood"
    result.save(tmp_path / "r.nc")
    loaded = iv.load_result(tmp_path / "r.nc")
    for one in (result, loaded, result.map(torch.abs)):
        assert one.status is iv.Status.TEMPERED and one.tempered == words
        summary, page = one.summary(), html.unescape(one._repr_html_())
        for text in (repr(one), str(one), summary, page):
            assert words in text and "SUCCESS" not in text, text
        for text in (summary, page):
            assert "TEMPERED. The run ended before" in text and "the std is too large" in text
        assert "std is too large" in "; ".join(one.warnings) and f"the power {power} of" in "; ".join(one.warnings)
    pairs = iv.plotting.plot_parameters(result)
    for shape in ((4,), (2, 2), None):
        shaped = replace(result, samples=result.samples.view(-1, *(shape or (4,))), shape=shape or (4,), marginals=None)
        figure = shaped.plot(truth=torch.zeros(shape, dtype=D)) if shape else pairs
        shown = [ax.get_title() for ax in figure.axes] + [figure.get_suptitle()]
        assert any(words in text for text in shown), shown


def test_throw_is_about_rows_that_failed(result) -> None:
    """A budget that ends is no error: what is there is given back, with a status of its own."""
    assert not bool(result.failed.any()) and "try a larger budget" in result.status.value
    failed = torch.zeros_like(result.failed)
    failed[0] = True
    lost = replace(result, failed=failed, status=iv.Status.SOME_FAILED, marginals=None)
    assert "SOME_FAILED, failed=1 of" in repr(lost) and lost.tempered in repr(lost)  # the worse of the two, and both
    with pytest.raises(iv.errors.InputError, match="`status` must be Status.TEMPERED, as `failed` and"):
        replace(result, status=iv.Status.SUCCESS)


def test_of_a_batch_it_names_how_many_and_their_powers(result) -> None:
    power = torch.tensor([[0.01, 1.0, math.nan, 0.3]], dtype=D).expand(5, 4)  # NaN: an item of guidance
    four = replace(
        result,
        samples=torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=D),
        failed=torch.zeros(5, 4, dtype=torch.bool),
        chi2=torch.ones(5, 4, dtype=D),
        info={"beta": power},
        batched=True,
        marginals=None,
    )
    assert four.tempered == "tempered, power 0.01 to 0.3 of the likelihood in 2 of 4 items"
    assert four.unfinished.tolist() == [True, False, False, True] and four.ess.tolist() == [0, 5, 5, 0]
    rows = power.clone()
    rows[1, 1] = 0.5  # the rows of an item may be of several runs
    assert replace(four, info={"beta": rows}).unfinished.tolist() == [True, True, False, True]


def test_a_file_of_an_earlier_release_is_read_as_what_it_is(result, tmp_path) -> None:
    result.save(path := tmp_path / "r.nc")
    with h5py.File(path, "r+", libver="latest") as file:
        run = json.loads(file.attrs["run"]) | {"status": "SUCCESS"}
        del file.attrs["run"]
        file.attrs["run"] = np.bytes_(json.dumps(run))
    assert iv.load_result(path).status is iv.Status.TEMPERED


# --- effective samples ------------------------------------------------------------------------------------------------
def told(samples: torch.Tensor, weights: torch.Tensor, centre: float = 9.0, **info: float) -> torch.Tensor | None:
    rows = {name: torch.full((len(samples),), value, dtype=D) for name, value in info.items()}
    whole = Diagnostics.from_mapping(rows)
    ess = counted_once(whole, samples, weights, torch.tensor(centre)).ess
    return None if ess is None else ess.view_as(weights)[0]


def test_samples_that_are_there_twice_count_once() -> None:
    """(sum w)^2 / sum (w of a state)^2: of 3, 2, 1 copies 36 / 14; of weights the same; nothing is said of no copies."""
    x = torch.tensor([1.0, 2.0, 1.0, 1.0, 2.0, 3.0], dtype=D)[:, None]
    even = torch.full((6, 1), 1 / 6, dtype=D)
    assert told(x, even).item() == pytest.approx(36 / 14)
    assert told(x, even, ess=2.0).item() == 2 and told(x, even, ess=math.nan).item() == pytest.approx(36 / 14)
    weights = torch.tensor([0.5, 0.1, 0.0, 0.1, 0.2, 0.1], dtype=D)[:, None]
    assert told(x, weights).item() == pytest.approx(1 / (0.6**2 + 0.3**2 + 0.1**2))
    assert told(torch.arange(6.0)[:, None], even) is None
    assert told(torch.arange(6.0)[:, None], even, ess=5.0).item() == 5
    assert math.isnan(told(x, even, ess=math.nan, beta=0.5).item())  # of no posterior


def test_items_are_told_apart_and_zeros_are_no_copies() -> None:
    """Rows are sample k of item b; a sparse signal without any coefficient is a draw like any other."""
    x = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 0.0], [4.0, 0.0]], dtype=D).reshape(8, 1)
    found = told(x, torch.full((4, 2), 0.25, dtype=D), centre=0.0)
    assert found.tolist() == pytest.approx([4, 1 / (0.5**2 + 2 * 0.25**2)])


def test_chains_that_were_stopped_give_no_more_than_there_are(monkeypatch) -> None:
    """24 chains at the full likelihood, of which 400 samples were asked: each is there 16 or 17 times."""
    n = 3
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))
    A = iv.operators.from_callable(lambda x: x + 0.01 * x.roll(1, -1) ** 2, (n,), (n,))
    few = iv.strategies.NoiseMCMC(chains=24, islands=4, rounds=200, num_steps=30)
    found = iv.solve(A, torch.zeros(n, dtype=D), prior, noise=3.0, strategy=few, num_samples=400)
    assert float(found.info["beta"][0]) == 1 and found.status is iv.Status.SUCCESS
    states = found.samples.unique(dim=0, return_counts=True)[1].double()
    assert len(states) <= 24 and float(found.ess) == pytest.approx(400**2 / float(states.square().sum()))
    assert f"effective samples: {float(found.ess):.3g}" in found.summary()


def test_resampled_particles_are_worth_their_weights() -> None:
    """Weighted particles as 200 equal ones: no more than (sum w)^2 / sum w^2, nor than those that are left."""
    n = 2
    prior = iv.priors.GaussianMixturePrior(
        torch.tensor([0.5, 0.5], dtype=D), torch.tensor([[-1.0] * n, [1.0] * n], dtype=D), 0.3 * torch.eye(n, dtype=D)
    )
    A = iv.operators.from_callable(lambda x: x**3, (n,), (n,))
    found = iv.solve(A, torch.ones(n, dtype=D), prior, noise=0.3, strategy=iv.strategies.SMC(moves=0), num_samples=200)
    counts = found.samples.unique(dim=0, return_counts=True)[1].double()
    assert len(counts) < 200 and float(found.ess) <= 200**2 / float(counts.square().sum()) + 1e-9


# --- words ------------------------------------------------------------------------------------------------------------
def test_what_is_beyond_a_limit_does_not_look_like_it() -> None:
    assert (beyond(1.04, 1.0), beyond(0.5, 0.15), beyond(0.1502, 0.15)) == ("1.04", "0.5", "0.1502")


def test_bounds_are_two_standard_errors_everywhere() -> None:
    n = 2
    prior = iv.priors.GaussianPrior(mean=torch.zeros(n, dtype=D), covariance=torch.eye(n, dtype=D))
    A = iv.operators.from_callable(lambda x: x + 0.1 * x.roll(1, -1) ** 2, (n,), (n,))
    found = iv.solve(A, torch.zeros(n, dtype=D), prior, noise=0.5, num_samples=19)
    assert found.certificate.reached
    mean, std = (2 * float(found.info[name].max()) for name in ("mean_error", "std_error"))
    assert f"within {mean:.2g} posterior std and {100 * std:.2g} % (two standard errors)" in found.summary()
    assert f"mean within {mean:.2f} posterior std and std within {std:.0%}" in found.certified
    assert float(found.certificate.mean_error) == pytest.approx(mean)
    drawn = replace(found, marginals=None, info={})
    assert (
        f"leaves {2 / 19**0.5:.2g} posterior std in the mean and {2 / 38**0.5:.0%} in the std (two" in drawn.summary()
    )


def test_a_batch_with_one_hopeless_item_keeps_the_bounds_of_the_others() -> None:
    found = stopped(2, 4).certificate
    errors = torch.tensor([0.04, math.nan], dtype=D)
    half = replace(found, passed=torch.tensor([True, False]), mean_error=errors, std_error=2 * errors, missing="why")
    assert half.sentence.startswith("not certified in 1 of 2 items: why")
    assert half.sentence.endswith(". The other items: mean within 0.04 posterior std and std within 8%")
    assert ", of the worst item: " in str(half)
