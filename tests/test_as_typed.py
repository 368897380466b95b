"""Calls as people type them first: obvious arguments by position, ``progress=True``, Ctrl-C, names of files."""

from __future__ import annotations

import inspect
import json
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve import strategies as ivs
from invsolve.errors import FileError, InputError, InputTypeError
from invsolve.priors.networks import UNetConfig
from invsolve.priors.training import Options, Selection, train
from invsolve.progress import NoProgress, Progress, TextProgress, TqdmProgress, as_progress

A, PRIOR = iv.operators.Matrix(torch.tensor([[1.0, 0.5]])), iv.priors.GaussianPrior(torch.zeros(2), torch.eye(2))
Y = torch.tensor([1.0])
STEPS = ivs.MMPS(num_steps=6)


# --- by position ---------------------------------------------------------------------------------------------------
def test_obvious_arguments_by_position():
    x, truth = torch.ones(1, 2), torch.tensor([[1.0, 2.0]])
    one, other = iv.solve(A, Y, PRIOR, 0.5), iv.solve(A, Y, PRIOR, noise=0.5)
    assert torch.equal(one.samples, other.samples)
    assert torch.equal(iv.sample(PRIOR, 16).samples, iv.sample(PRIOR, num_samples=16).samples)
    assert iv.Problem(A, Y, 0.5).noise.std == 0.5
    assert iv.Checkpoint("f") == iv.Checkpoint(path="f")
    assert iv.Budget(60) == iv.Budget(seconds=60) and iv.Budget(evaluations=9).seconds is None
    assert torch.equal(iv.metrics.psnr(x, truth, 2.0), iv.metrics.psnr(x, truth, data_range=2.0))
    samples = torch.arange(9.0).view(9, 1, 1)
    coverage = iv.metrics.coverage(samples, samples[4], 0.5)
    assert coverage.nominal == iv.metrics.coverage(samples, samples[4], level=0.5).nominal
    y = torch.ones(1, 1)
    assert torch.equal(iv.baselines.tikhonov(A, y, 0.5), iv.baselines.tikhonov(A, y, weight=0.5))
    assert torch.equal(iv.baselines.total_variation(A, y, 0.5), iv.baselines.total_variation(A, y, weight=0.5))
    assert torch.equal(iv.log_density(PRIOR, x, 0.5, num_steps=2), iv.log_density(PRIOR, x, sigma_min=0.5, num_steps=2))
    mask = iv.datasets.cartesian_mask((8, 8), 2)
    assert torch.equal(mask, iv.datasets.cartesian_mask((8, 8), acceleration=2))
    made = iv.priors.from_denoiser(lambda x, s: x, (2,), scale=1.0)
    assert made.shape == iv.priors.from_network(lambda x, t: x, iv.priors.EDM(), (2,)).shape == (2,)
    for call, names in ((iv.calibrate, ["A", "prior", "noise"]), (iv.priors.from_deepinv, ["denoiser", "shape"])):
        kinds = inspect.signature(call).parameters.values()
        assert [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD] == names


# --- progress ------------------------------------------------------------------------------------------------------
def test_progress_true(capsys, monkeypatch):
    iv.solve(A, Y, PRIOR, 0.5, strategy=STEPS, progress=True)
    iv.sample(PRIOR, 4, strategy=ivs.Unconditional(num_steps=4), progress=True)
    assert "100%" in capsys.readouterr().err  # the bar of tqdm
    iv.solve(A, Y, PRIOR, 0.5, strategy=STEPS, progress=False)
    assert not capsys.readouterr().err
    assert isinstance(as_progress("f", True), TqdmProgress) and isinstance(as_progress("f", None), NoProgress)
    monkeypatch.setattr("invsolve.progress.find_spec", lambda name: None)
    assert isinstance(as_progress("f", True), TextProgress)
    report = iv.calibrate(A, PRIOR, 0.5, runs=8, num_samples=4, progress=True)
    assert "100 %, 8 of 8 steps" in capsys.readouterr().err and report.runs == 8


@pytest.mark.parametrize("value", ["bar", 1, print], ids=str)
def test_what_is_no_meter(value):
    with pytest.raises(InputTypeError, match="`progress` must be True, False or an iv.progress meter"):
        as_progress("solve", value)
    with pytest.raises(InputTypeError, match="solve: `progress`"):
        iv.solve(A, Y, PRIOR, 0.5, progress=value)
    with pytest.raises(InputTypeError, match="calibrate: `progress`"):
        iv.calibrate(A, PRIOR, 0.5, progress=value)


# --- Ctrl-C --------------------------------------------------------------------------------------------------------
class Pressed(Progress):
    """Somebody presses Ctrl-C after so many reports."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.closed = False

    def init(self, total: int) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        self.left -= 1
        if self.left <= 0:
            raise KeyboardInterrupt

    def close(self) -> None:
        self.closed = True


def test_interrupted_without_a_checkpoint():
    meter = Pressed(3)
    with pytest.raises(
        KeyboardInterrupt, match="^solve: interrupted, and nothing was saved. With checkpoint='run.ckpt'"
    ):
        iv.solve(A, Y, PRIOR, 0.5, strategy=STEPS, progress=meter)
    assert meter.closed


def test_interrupted_before_the_first_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    for checkpoint, often in (
        (path, "30 s"),
        (iv.Checkpoint(path, every_steps=99), "99 steps or 30 s"),
        (iv.Checkpoint(path, every_steps=99, every_seconds=None), "99 steps"),
    ):
        with pytest.raises(KeyboardInterrupt, match=f"nothing was saved yet: '.*run.ckpt' is written every {often}."):
            iv.solve(A, Y, PRIOR, 0.5, strategy=STEPS, progress=Pressed(3), checkpoint=checkpoint)
    assert not path.exists()


def test_interrupted_with_a_checkpoint_the_same_call_goes_on(tmp_path):
    saved = iv.Checkpoint(tmp_path / "run.ckpt", every_steps=2)

    def run(meter: Progress | None) -> iv.Result:
        return iv.solve(A, Y, PRIOR, 0.5, strategy=STEPS, progress=meter, checkpoint=saved)

    for _ in range(2):  # the second is interrupted where it has written nothing itself
        with pytest.raises(KeyboardInterrupt, match="'.*run.ckpt' holds its state of .* ago: the same call goes on"):
            run(Pressed(5 if not (tmp_path / "run.ckpt").exists() else 1))
    whole = iv.solve(A, Y, PRIOR, 0.5, strategy=STEPS)
    assert torch.equal(run(None).samples, whole.samples)


def test_interrupted_elsewhere(tmp_path, monkeypatch):
    unknown = iv.noise.Gaussian(std=iv.LogNormal(median=0.5, factor=2))
    with pytest.raises(KeyboardInterrupt, match="solve: interrupted, and nothing was saved: unknown scalars"):
        iv.solve(A, Y, PRIOR, unknown, progress=Pressed(1))
    with pytest.raises(KeyboardInterrupt, match="calibrate: interrupted, and nothing was saved of 4 runs. With check"):
        iv.calibrate(A, PRIOR, 0.5, runs=8, num_samples=4, batch=4, progress=Pressed(1))
    path = tmp_path / "c.ckpt"
    with pytest.raises(KeyboardInterrupt, match="'.*c.ckpt' holds 4 of 8 runs: the same call goes on from there"):
        iv.calibrate(A, PRIOR, 0.5, runs=8, num_samples=4, batch=4, progress=Pressed(1), checkpoint=path)
    assert iv.calibrate(A, PRIOR, 0.5, runs=8, num_samples=4, batch=4, checkpoint=path).runs == 8

    def press(*args, **options):
        raise KeyboardInterrupt

    result = iv.solve(A, Y, PRIOR, 0.5)
    monkeypatch.setattr(type(result.solver), "check", press)
    with pytest.raises(KeyboardInterrupt, match="Result.check: interrupted; the result is as it was"):
        result.check()
    monkeypatch.setattr("invsolve.calibration.calibrate._run", press)
    with pytest.raises(
        KeyboardInterrupt, match="calibrate: .*nothing was saved yet: '.*d.ckpt' is written after 4 runs"
    ):
        iv.calibrate(A, PRIOR, 0.5, runs=8, num_samples=4, batch=4, checkpoint=tmp_path / "d.ckpt")
    monkeypatch.setattr("invsolve.solving.solve.data_warnings", press)
    with pytest.raises(KeyboardInterrupt, match="solve: interrupted before there was anything to save"):
        iv.solve(A, Y, PRIOR, 0.5)


def test_interrupted_training(tmp_path, monkeypatch):
    from invsolve.priors.training import trainer

    signals = torch.randn(64, 8, 8, generator=torch.Generator().manual_seed(0))
    options = Options(batch=2, save_every=0)
    network = UNetConfig(channels=8, multipliers=(1,), blocks=1)
    real, calls = trainer._Training._one, []

    def one(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    def run(**options_):
        calls.clear()
        train(signals, steps=5, network=network, selection=Selection(measured=16, held_out=16), **options_)

    monkeypatch.setattr(trainer._Training, "_one", one)
    with pytest.raises(KeyboardInterrupt, match="train: interrupted at step 2, and nothing was saved. With out="):
        run(options=options)
    with pytest.raises(KeyboardInterrupt, match="train: interrupted at step 2. '.*' holds what was last saved"):
        run(options=options, out=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt, match="nothing was saved yet: it is every 60 s"):
        run(options=Options(batch=2), out=tmp_path / "b")


def test_the_last_line_of_a_traceback():
    def pressed(x):
        raise KeyboardInterrupt

    box = iv.operators.from_callable(pressed, (2,), (1,), kind="black box")
    with pytest.raises(KeyboardInterrupt) as caught:
        iv.solve(box, Y, PRIOR, 0.5, strategy=ivs.NoiseMCMC(chains=16, num_steps=4))
    assert type(caught.value) is KeyboardInterrupt
    last = traceback.format_exception(caught.value)[-1]
    assert last.startswith("KeyboardInterrupt: solve: interrupted, and nothing was saved. With checkpoint=")


# --- names of files ------------------------------------------------------------------------------------------------
RESULT = iv.solve(A, Y, PRIOR, 0.5)


@pytest.mark.parametrize("name", ["a.npz", "a.NPY", "a.pt", "a.mat", "a.csv", "a.pkl", "a.safetensors", "a.json"])
def test_a_name_of_another_format_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="Result.save: `path` must be named .nc, for it writes NetCDF-4.*got '.*a"):
        RESULT.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_is_refused_is_said_how_to_write(tmp_path):
    with pytest.raises(InputError, match=r"For that: numpy.savez\(path, samples=result.samples"):
        RESULT.save("a.npz")
    np.savez(tmp_path / "a.npz", samples=RESULT.samples.cpu())
    assert np.array_equal(np.load(tmp_path / "a.npz")["samples"], RESULT.samples)


@pytest.mark.parametrize("name", ["a.nc", "a.h5", "a.hdf5", "a", "a.result", "a.2026"])
def test_names_that_promise_nothing_else_are_taken(name, tmp_path):
    RESULT.save(tmp_path / name)
    assert torch.equal(iv.load_result(tmp_path / name).samples, RESULT.samples)


def test_other_files_are_named_too(tmp_path):
    report = iv.calibrate(A, PRIOR, 0.5, runs=8, num_samples=4)
    with pytest.raises(InputError, match="Calibration.save: `path` must be named .json, for it writes JSON"):
        report.save(tmp_path / "c.nc")
    report.save(tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["runs"] == 8
    from invsolve.priors.learned.files import save_prior

    with pytest.raises(InputError, match="save_prior: `path` must be named .safetensors, for it writes safetensors"):
        save_prior(iv.priors.load(iv.priors.shipped()[0]), tmp_path / "p.pt")


# --- names without an extension -------------------------------------------------------------------------------------
def test_a_name_without_extension_gets_one_and_is_read_by_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert RESULT.save("r") == Path("r.nc") and RESULT.save("r") == Path("r.nc") and not Path("r").exists()
    for name in ("r", "r.nc", Path("r")):
        assert torch.equal(iv.load_result(name).samples, RESULT.samples)
    report = iv.calibrate(A, PRIOR, 0.5, runs=8, num_samples=4)
    assert report.save("c") == Path("c.json") and json.loads(Path("c.json").read_text())["runs"] == 8
    prior = iv.priors.load(iv.priors.shipped()[0])
    assert iv.priors.save_prior(prior, "own") == Path("own.safetensors") and iv.priors.load("own").shape == prior.shape
    with pytest.raises(FileError, match=r"load_result: 'x.nc' is no file: in that folder there are r.nc\."):
        iv.load_result("x.nc")


def test_what_is_there_already_is_what_is_meant(tmp_path):
    """A file of an older release, without an extension, is written anew and read; a folder is refused."""
    (tmp_path / "old").write_bytes(b"")
    assert RESULT.save(tmp_path / "old") == tmp_path / "old"
    assert torch.equal(iv.load_result(tmp_path / "old").samples, RESULT.samples)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="must be a file, got the folder"):
        RESULT.save(tmp_path / "folder")
