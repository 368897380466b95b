"""Results go back as images with the voxels and the place of the scan that they were made of."""

from __future__ import annotations

import sys
from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest
import scan_files as files
import torch

import invsolve as iv
from invsolve.errors import InputError, UnsupportedError, WriteError

AFFINE = np.array([[-2.0, 0.1, 0, 10], [0, 0, 3, 20], [0.1, 1.5, 0, -5], [0, 0, 0, 1]])
FIELD = iv.priors.GaussianFieldPrior((6, 8), iv.priors.Matern(std=1.0, length=0.2))
RNG = np.random.default_rng(0)


def solved(problem, prior=FIELD):
    return iv.solve(problem, prior, num_samples=5, seed=0)


@pytest.fixture
def volume(tmp_path):
    image = nibabel.Nifti1Image(RNG.normal(size=(6, 8, 5)).astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "in.nii.gz")
    return iv.open(tmp_path / "in.nii.gz")


@pytest.fixture
def series(tmp_path):
    files.write_series(tmp_path / "in", RNG.integers(-1000, 1000, (4, 6, 8)))
    return iv.open(tmp_path / "in")


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz", "OUT.NII"])
def test_nifti_of_nifti(name, volume, tmp_path):
    result = solved(volume.problem(noise=0.3))
    result.save(tmp_path / name)
    found = nibabel.load(tmp_path / name)
    assert np.allclose(found.affine, AFFINE, atol=1e-5) and found.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(found.get_fdata(), result.mean.numpy().transpose(1, 2, 0))
    assert b"posterior mean" in found.header["descrip"].tobytes()
    result.save(tmp_path / name, statistic="std")
    assert np.array_equal(nibabel.load(tmp_path / name).get_fdata(), result.std.numpy().transpose(1, 2, 0))
    result.save(tmp_path / name, statistic="samples")
    every = nibabel.load(tmp_path / name).get_fdata()
    assert np.array_equal(every, result.samples.numpy().transpose(2, 3, 1, 0))


def test_some_slices(volume, tmp_path):
    """Every other one, backwards: voxels are where they were."""
    result = solved(volume.problem(slice(None, None, -2), noise=0.3))
    result.save(tmp_path / "out.nii")
    found = nibabel.load(tmp_path / "out.nii")
    assert found.shape == (6, 8, 3)
    for k, slice_ in enumerate((4, 2, 0)):
        assert np.allclose(found.affine @ [3, 5, k, 1], AFFINE @ [3, 5, slice_, 1], atol=1e-4)
    one = solved(volume.problem(3, noise=0.3))
    one.map(lambda x: 2 * x).save(tmp_path / "one.nii")  # of what was derived pixel by pixel, too
    again = nibabel.load(tmp_path / "one.nii")
    assert again.shape == (6, 8, 1) and np.allclose(again.affine @ [1, 2, 0, 1], AFFINE @ [1, 2, 3, 1], atol=1e-4)
    uneven = solved(volume.problem([0, 1, 4], noise=0.3))
    with pytest.raises(InputError, match=r"`slices` must be equally far apart, got \(0, 1, 4\)"):
        uneven.save(tmp_path / "uneven.nii")


def test_dicom_of_dicom(series, tmp_path):
    result = solved(
        series.problem([1, 3], noise=5.0), iv.priors.GaussianFieldPrior((6, 8), iv.priors.Matern(std=500.0, length=0.2))
    )
    (tmp_path / "out").mkdir()
    result.save(tmp_path / "out" / "mean.dcm")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["mean-0001.dcm", "mean-0002.dcm"]
    again = iv.open(tmp_path / "out")
    spread = float(result.mean.max() - result.mean.min())
    assert float((again.image() - result.mean).abs().max()) < 0.51 * spread / 65535 + 1e-6 * 1500
    assert again.units == "HU" and again.grid.patient["PatientID"] == "17"
    assert again.grid.patient["StudyInstanceUID"] == series.grid.patient["StudyInstanceUID"]
    for k, slice_ in enumerate((1, 3)):
        there = np.asarray(series.grid.affine) @ [slice_, 3, 5, 1]
        assert np.allclose(np.asarray(again.grid.affine) @ [k, 3, 5, 1], there, atol=1e-6)
    header = pydicom.dcmread(tmp_path / "out" / "mean-0001.dcm")
    assert header.SeriesDescription == "invsolve: posterior mean, HU" and header.ImageType[0] == "DERIVED"
    result.save(tmp_path / "out.nii.gz")
    assert np.allclose(iv.open(tmp_path / "out.nii.gz").grid.affine, again.grid.affine, atol=1e-4)
    failed = replace(result, marginals=None, samples=torch.full_like(result.samples, torch.nan), **lost(result))
    with pytest.raises(UnsupportedError, match="some values are not finite"):
        failed.save(tmp_path / "failed.dcm")
    (tmp_path / "out" / "mean-0002.dcm").unlink()
    (tmp_path / "out" / "mean-0002.dcm").mkdir()
    with pytest.raises((InputError, WriteError), match="must be a file, got the folder"):
        result.save(tmp_path / "out" / "mean.dcm")


def lost(result):
    failed = torch.ones_like(result.failed)
    return {"failed": failed, "status": iv.Status.from_failures(failed)}


def test_complex_images_by_their_magnitude(tmp_path):
    made = files.scan(slices=2, grid=(16, 12), std=1e-5)
    scan = iv.open(files.write_ismrmrd(tmp_path / "scan.h5", made["kspace"]))
    prior = iv.priors.GaussianFieldPrior((16, 12), iv.priors.Matern(std=1e-4, length=0.2), kind="complex")
    result = solved(scan.problem(coils=made["maps"]), prior)
    result.save(tmp_path / "out.nii")
    found = nibabel.load(tmp_path / "out.nii")
    assert np.array_equal(found.get_fdata(), result.map(torch.abs).mean.numpy().transpose(1, 2, 0))
    assert np.allclose(found.affine @ [8, 6, 1, 1], [0, 0, 6, 1], atol=1e-5)  # the isocentre of the second slice
    result.save(tmp_path / "one.dcm", statistic="std")
    assert pydicom.dcmread(tmp_path / "one-0002.dcm").Modality == "MR"


def test_without_a_place(tmp_path):
    grid = iv.Grid(voxel_size=(2.0, 1.5))
    result = solved(iv.Problem(iv.operators.Identity((6, 8)), torch.ones(6, 8), noise=0.5, grid=grid))
    result.save(tmp_path / "out.nii")
    found = nibabel.load(tmp_path / "out.nii")
    assert np.allclose(found.header.get_zooms(), (2.0, 1.5, 1.0)) and int(found.header["sform_code"]) == 0
    result.save(tmp_path / "out.dcm")
    scan = iv.open(tmp_path / "out.dcm")
    assert scan.grid.voxel_size == (2.0, 1.5) and scan.grid.affine is None
    cube = iv.priors.GaussianFieldPrior((3, 4, 5), iv.priors.Matern(std=1.0, length=0.2))
    affine = np.diag([3.0, 2.0, 1.0, 1.0])
    whole = iv.Problem(
        iv.operators.Identity((3, 4, 5)), torch.ones(1, 3, 4, 5), 0.5, grid=iv.Grid(voxel_size=(3, 2, 1), affine=affine)
    )
    solved(whole, cube).save(tmp_path / "cube.nii")
    cube_file = nibabel.load(tmp_path / "cube.nii")
    assert cube_file.shape == (4, 5, 3) and np.allclose(cube_file.affine @ [1, 2, 2, 1], affine @ [2, 1, 2, 1])


def test_refusals(volume, tmp_path, monkeypatch):
    result = solved(volume.problem(noise=0.3))
    with pytest.raises(InputError, match="`statistic` must be one of 'mean', 'std', 'samples'"):
        result.save(tmp_path / "out.nii", statistic="median")
    with pytest.raises(InputError, match="`statistic` must be one of 'mean', 'std', got"):
        result.save(tmp_path / "out.dcm", statistic="samples")
    with pytest.raises(InputError, match="`statistic` must be left out unless"):
        result.save(tmp_path / "out.nc", statistic="mean")
    with pytest.raises(UnsupportedError, match="an image needs to know its pixels"):
        solved(iv.Problem(iv.operators.Identity((6, 8)), torch.ones(6, 8), noise=0.5)).save(tmp_path / "out.nii")
    with pytest.raises(UnsupportedError, match="an image needs to know its pixels"):
        result.map(lambda x: x[..., :4]).save(tmp_path / "out.nii")
    one = iv.priors.GaussianFieldPrior((4,), iv.priors.Matern(std=1.0, length=0.2))
    line = iv.Problem(iv.operators.Identity((4,)), torch.ones(4), 0.5, grid=iv.Grid(voxel_size=(1.0,)))
    with pytest.raises(InputError, match="for an image of slices or of one volume"):
        solved(line, one).save(tmp_path / "out.nii")
    for package, name in (("nibabel", "a.nii"), ("pydicom", "a.dcm")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UnsupportedError, match=f"Result.save: a .* file needs the package {package}: pip install"):
            result.save(tmp_path / name)
    assert not (tmp_path / "a.nii").exists()


def test_grids():
    grid = iv.Grid(voxel_size=(2, 1.5), affine=np.eye(4), slices=(0, 2, 4))
    assert grid.voxel_size == (2.0, 1.5) and grid.orientation == "RAS" and hash(grid.affine)
    assert grid.take([2, 0]).slices == (4, 0) and np.allclose(grid.of_items(3)[:3, 0], [2, 0, 0])
    with pytest.raises(InputError, match="`slices` must be one for each of 4 items"):
        grid.of_items(4)
    problem = iv.Problem(iv.operators.Identity((6, 8)), torch.ones(3, 6, 8), noise=0.5, grid=grid)
    assert problem.take(torch.tensor([1])).grid.slices == (2,)
    assert problem.to(dtype=torch.float64).grid is grid
    for voxel, message in (((0.0, 1.0), "`voxel_size\\[0\\]` must be positive"), (("1", 2.0), "a real number")):
        with pytest.raises((InputError, iv.errors.InputTypeError), match=message):
            iv.Grid(voxel_size=voxel)
    for voxel in (2.0, "mm"):
        with pytest.raises(iv.errors.InputTypeError, match="`voxel_size` must be a tuple of lengths"):
            iv.Grid(voxel_size=voxel)
    with pytest.raises(InputError, match=r"`affine` must be of shape \(4, 4\)"):
        iv.Grid(voxel_size=(1.0,), affine=np.eye(3))
    with pytest.raises(InputError, match="`affine` must be finite and invertible"):
        iv.Grid(voxel_size=(1.0,), affine=np.zeros((4, 4)))
    with pytest.raises(iv.errors.InputTypeError, match="`grid` must be an iv.Grid"):
        iv.Problem(iv.operators.Identity((2,)), torch.ones(2), noise=0.5, grid=(1.0,))
    with pytest.raises(InputError, match="`grid` must be of 1 lengths"):
        iv.Problem(iv.operators.Identity((2,)), torch.ones(2), noise=0.5, grid=grid)
    patient = {"PatientID": "17"}
    own = iv.Grid(voxel_size=(1.0,), patient=patient)
    patient["PatientID"] = "18"
    assert own.patient == {"PatientID": "17"} and hash(own) == hash(iv.Grid(voxel_size=(1.0,)))
    for value, message in ((3, "a tuple of integers"), ((0, 1.5), r"`slices\[1\]` must be an integer")):
        with pytest.raises(iv.errors.InputTypeError, match=message):
            iv.Grid(voxel_size=(1.0,), slices=value)
    with pytest.raises(iv.errors.InputTypeError, match="`patient` must be a mapping"):
        iv.Grid(voxel_size=(1.0,), patient="17")


def test_images_that_differ_anywhere_are_other_dicom_objects(tmp_path):
    """Their first 2 kB are the same: 600 pixels of air."""
    prior = iv.priors.GaussianFieldPrior((40, 40), iv.priors.Matern(std=1.0, length=0.2))
    problem = iv.Problem(iv.operators.Identity((40, 40)), torch.zeros(40, 40), 0.5, grid=iv.Grid(voxel_size=(1.0, 1.0)))
    result = iv.solve(problem, prior, num_samples=3)
    found = []
    for number in range(3):
        samples = torch.zeros_like(result.samples)
        samples[:, 39, 39] = min(number, 1)
        replace(result, marginals=None, samples=samples).save(tmp_path / f"{number}.dcm")
        found.append(pydicom.dcmread(tmp_path / f"{number}.dcm"))
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        one, two, again = (getattr(header, name) for header in found)
        assert one != two == again
