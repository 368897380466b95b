"""The demo, end to end in its quick size, and its parts on objects whose answer is known."""

from __future__ import annotations

import re

import pytest
import torch

import invsolve as iv
from invsolve import demo
from invsolve.demo.phantoms import CG_WEIGHTS, FINE, TV_WEIGHTS, phantom_scan, tune_baselines
from invsolve.demo.report import assumed, verdict
from invsolve.demo.scores import FIELD, LEARNED, in_head, parts, score, table
from invsolve.diagnostics.report import Check, CheckReport

METHODS = ["zero-filled", "CG-SENSE", "TV", FIELD, LEARNED]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    lines = []
    found = demo.run(
        out=tmp_path_factory.mktemp("demo") / "new" / "folder", size=demo.QUICK, samples=5, say=lines.append
    )
    return found, "\n".join(lines)


# --- end to end -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_it_writes_a_report_a_picture_and_a_result(done):
    found, said = done
    assert [path.name for path in found.files] == ["demo.html", "demo.md", "demo.png", "posterior.nc", "first.png"]
    assert sorted(found.files[0].parent.iterdir()) == sorted(found.files)  # and nothing else
    markdown = found.files[1].read_text()
    assert markdown == f"# Demo: an undersampled MRI slice\n\n{found.text}\n"
    assert said.startswith("The first of 5 samples, after ") and said.index("first.png") < said.index(found.text)
    assert all(str(path) in said for path in found.files) and "What next: open " in said
    from matplotlib.image import imread

    picture = imread(found.files[2])
    assert picture.shape[0] > 400 and picture.shape[1] > 1200 and picture.std() > 0.1
    loaded = iv.load_result(found.files[3])
    assert torch.equal(loaded.samples, found.results[LEARNED].samples)
    assert loaded.dims == ("row", "column") and loaded.samples.shape == (5, 128, 128)
    page = found.files[0].read_text()
    assert page.count("data:image/png;base64,") == 4 and "<table>" in page and "src='http" not in page
    for word in ("TV", "learned prior", "chi^2 per datum"):
        assert word in page
    # What the solver has to say of its own work is in the text, not only in the result.
    assert all(f"Warning, {name}: {w}." in markdown for name, r in found.results.items() for w in r.warnings)


@pytest.mark.slow
def test_the_table_has_every_row_and_its_numbers_are_in_the_text(done):
    found, _ = done
    assert [row.method for row in found.rows] == METHODS
    lines = [line for line in found.text.splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(METHODS)
    for line, row in zip(lines[2:], found.rows, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        numbers = [f"{row.psnr:.2f}", f"{row.ssim:.3f}", f"{row.nrmse:.4f}", f"{row.crps:.5f}"]
        assert cells[:6] == [row.method, *numbers, "-" if row.covered is None else f"{row.covered:.3f}"]
    assert "in 67% interval" in lines[0]
    assert str(found.check) in found.text
    assert [row.covered is not None for row in found.rows] == [False, False, False, True, True]


@pytest.mark.slow
def test_the_posterior_is_the_exact_one_and_beats_zero_filling(done):
    """The margin is the posterior's own: it states the squared error of its mean, and zero filling is beyond that.

    Stated: the variance summed over the head, of samples; the mean is exact. The slice is no draw of the prior, whence a
    factor 1.5 either way.
    """
    found, _ = done
    exact = found.results[FIELD]
    assert exact.strategy == "Exact"
    truth, head = found.scan.truth, in_head(found.scan)
    squared = {name: float((image - truth)[head].abs().square().sum()) for name, image in found.images.items()}
    assert "mean" in exact.exact_statistics
    stated = float(exact.std[head].square().sum())
    assert stated / 1.5 < squared[FIELD] < 1.5 * stated
    assert max(stated, squared[FIELD]) < squared["zero-filled"]
    assert squared[LEARNED] < 0.7 * squared[FIELD]


@pytest.mark.slow
def test_the_samples_explain_the_data(done):
    """chi^2 of m data has standard error sqrt(2 / m); a prior with too much power lowers it by a few per cent."""
    found, _ = done
    data = int(found.results[FIELD].problem.num_data[0])
    chi2 = float(found.results[FIELD].chi2.mean())
    assert 1 - 0.05 < chi2 < 1 + 5 * (2 / data) ** 0.5
    assert found.check["rows"].passed and found.check["outliers"].passed
    assert 0.9 < float(found.results[LEARNED].chi2.mean()) < 1.1  # few steps, and a network


@pytest.mark.slow
def test_coverage_on_the_slice_is_near_nominal(done):
    """5 samples carry 2/3 exactly, for a right prior; ours comes from phantoms, so 0.1 on either side is allowed."""
    found, _ = done
    assert found.nominal == pytest.approx(2 / 3)
    assert all(abs(row.covered - 2 / 3) < 0.1 for row in found.rows[-2:])


@pytest.mark.slow
def test_coverage_is_nominal_where_the_prior_is_right():
    """The demo's model with objects drawn from the demo's prior: 0.9, to 5 standard errors over the objects."""
    scan, objects = phantom_scan(32, 4.0, 5), 12
    prior = iv.priors.GaussianFieldPrior(
        shape=(32, 32), spectrum=demo.head_spectrum(2), basis="periodic", kind="complex"
    )
    truth, A = prior.sample(objects, seed=3), scan.operator
    noise = torch.randn(objects, *A.out_shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(4))
    noise = noise * 2**0.5 * scan.noise_std * A.observed  # torch's complex normal has variance 1/2 per component
    result = iv.solve(A, A(truth) + noise, prior, noise=scan.noise_std, num_samples=19, seed=6, chunk=1)
    covered = iv.metrics.coverage(parts(result.samples.flatten(2)), parts(truth.flatten(1)), level=0.9).observed
    assert abs(float(covered.mean()) - 0.9) < 5 * float(covered.std()) / objects**0.5
    assert float(covered.std()) / objects**0.5 < 0.01  # the test can fail
    assert result.check().passed


@pytest.mark.slow
def test_threads_are_put_back(done):
    before = torch.get_num_threads()
    with demo.job._one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), demo.job._one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == before


# --- nothing is fitted to the slice ----------------------------------------------------------------------------------
def test_the_spectrum_is_the_power_of_the_phantoms():
    """The prior's variance on the fine grid is the mean square of a component of the phantoms; phases do not matter."""
    heads = iv.datasets.heads.slices(3, (FINE, FINE), seed=9).double()
    spectrum = demo.head_spectrum(3, seed=9)
    prior = iv.priors.GaussianFieldPrior(
        shape=(FINE, FINE), spectrum=spectrum, basis="periodic", kind="complex", dtype=torch.float64
    )
    # Parseval: the only difference is the interpolation between rings beyond |k| = 4, which hold a tenth of the power.
    variance = float(prior.law.variances.sum()) / FINE**2
    assert variance == pytest.approx(float(heads.square().mean()) / 2, rel=0.01)
    # The constant mode has its own ring: exact, up to what the smooth phase takes from it (less than all).
    constant = float(prior.law.variances[0, 0]) / FINE**2
    assert 0.5 < constant / (float(heads.mean((1, 2)).square().mean()) / 2) <= 1


def test_a_different_seed_is_a_different_phantom_a_different_grid_the_same_law():
    one, same, other = (demo.head_spectrum(2, seed=seed) for seed in (1, 1, 2))
    k2 = torch.tensor([0.0, 40.0, 4e3, 4e5], dtype=torch.float64)
    values = [s.variances(k2, "periodic", (1.0, 1.0)) for s in (one, same, other)]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert bool((values[0] > 0).all()) and bool((values[0].diff() < 0).all())


@pytest.mark.slow
def test_weights_are_tuned_on_phantoms_and_inside_the_range(done):
    """The weights in the report are those that tuning gives again; neighbours of the best weight are worse."""
    found, _ = done
    phantoms = [phantom_scan(128, 4.0, 1 + i) for i in range(demo.QUICK.tuning)]
    cg, tv = tune_baselines(phantoms)
    assert f"CG-SENSE {cg.weight:.3g}, TV {tv.weight:.3g} noise std." in found.text
    for tuned, tried in ((cg, CG_WEIGHTS), (tv, TV_WEIGHTS)):
        assert tuned.weights == tried and not tuned.at_edge
    edge = iv.baselines.TunedWeight(weight=1.0, weights=(1.0, 2.0), errors=(0.1, 0.2))
    assert "CG-SENSE 1 (at the edge of the range tried), TV" in "\n".join(
        assumed(found.scan, demo.QUICK, found.results, edge, tv)
    )


# --- scores and words ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_scores_of_a_perfect_image_and_of_a_constant_error(done):
    found, _ = done
    truth, head = found.scan.truth, in_head(found.scan)
    exact = found.results[FIELD]
    images = {"perfect": truth, "off": truth + 0.1j, FIELD: exact.mean}
    rows, nominal = score(found.scan, images, {FIELD: exact}, dict.fromkeys(images, 1.5), 2 / 3)
    perfect, off, mean = rows
    assert (perfect.nrmse, perfect.crps, perfect.ssim) == (0.0, 0.0, pytest.approx(1.0))
    assert off.nrmse == pytest.approx(0.1 * float(head.sum()) ** 0.5 / float(truth[head].abs().square().sum()) ** 0.5)
    assert off.crps == pytest.approx(0.05, rel=1e-4)  # the mean of 0 (real part) and 0.1 (imaginary part)
    # An ensemble that is not far too narrow has a lower CRPS than its mean alone.
    assert mean.crps < float((parts(exact.mean[head]) - parts(truth[head])).abs().mean())
    assert nominal == pytest.approx(2 / 3)


@pytest.mark.slow
def test_coverage_by_hand(done):
    """The table's coverage, counted with min and max."""
    found, _ = done
    head = in_head(found.scan)
    samples, truth = found.results[LEARNED].samples[:, head], found.scan.truth[head]
    counts = []
    for part in (torch.real, torch.imag):
        values, target = part(samples), part(truth)
        counts.append(((target >= values.amin(0)) & (target < values.amax(0))).double())
    assert found.rows[-1].covered == pytest.approx(float(torch.stack(counts).mean()))


def row(method, nrmse):
    covered = None if method not in (FIELD, LEARNED) else 0.9
    return demo.Row(method=method, psnr=30.0, ssim=0.9, nrmse=nrmse, crps=0.1, covered=covered, seconds=1.0)


def report(*failed):
    names = ("rows", "noise level", "prior", *(name for name in failed if name not in ("rows", "noise level", "prior")))
    return CheckReport(
        level=0.02,
        checks=tuple(Check(name=name, passed=name not in failed, value=0.0, p_value=None, text="") for name in names),
    )


def test_the_verdict_says_what_the_numbers_say():
    better = [row("TV", 0.2), row(FIELD, 0.1)]
    worse = [row("TV", 0.1), row(LEARNED, 0.2)]
    assert verdict(better, report()) == ["The slice does not contradict model and prior in what the tests look at."]
    assert verdict(worse, report())[0].startswith("As a single image, TV is nearer to the truth than the posterior")
    text = "\n".join(verdict(better, report("prior", "noise level", "something new")))
    assert "As a single image" not in text
    assert "- prior: at some scales" in text and "- noise level: a prior" in text and "- something new." in text
    assert "structure" not in text and "and the field prior:" in text
    assert "and the learned prior:" in "\n".join(verdict(worse, report("prior")))


def test_the_table_is_aligned():
    lines = table([row("a method with a long name", 0.1), row("b", 12.5)], 0.8)[:4]
    assert len({len(line) for line in lines}) == 1
    assert "in 80% interval" in lines[0] and re.fullmatch(r"\|( -+:? \|)+", lines[1])


# --- options ---------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_few_samples_carry_a_lower_level(tmp_path):
    """Min to max of 3 samples is (3 - 1) / (3 + 1); the draws are the first of those of a longer run."""
    tiny = demo.Size(grid=32, heads=1, tuning=1)
    few = demo.run(out=tmp_path, size=tiny, samples=3, acceleration=2.0, seed=4, say=lambda text: None)
    more = demo.run(out=tmp_path, size=tiny, samples=4, acceleration=2.0, seed=4, say=lambda text: None)
    assert few.nominal == pytest.approx(0.5)
    assert few.scan.acceleration == pytest.approx(2.0)
    assert list(few.results) == [FIELD]  # the learned prior is on another grid
    assert torch.equal(more.results[FIELD].samples[:3], few.results[FIELD].samples)
    other = demo.run(out=tmp_path, size=tiny, samples=3, acceleration=2.0, seed=5, say=lambda text: None)
    assert not torch.equal(other.scan.kspace, few.scan.kspace)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"size": 96}, iv.errors.InputTypeError, "demo: `size` must be invsolve.demo.FULL, QUICK or a Size, got int"),
        ({"samples": 1}, iv.errors.InputError, "demo: `samples` must be at least 2, got 1"),
        ({"acceleration": 0.5}, iv.errors.InputError, "`acceleration` must be between 1 and"),
        ({"size": demo.Size(grid=256, heads=1, tuning=1)}, iv.errors.InputError, "`grid` must be coarser"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(options, error, words, tmp_path):
    with pytest.raises(error, match=re.escape(words)):
        demo.run(**({"out": tmp_path / "new", "size": demo.QUICK} | options))
    assert list(tmp_path.iterdir()) == []
