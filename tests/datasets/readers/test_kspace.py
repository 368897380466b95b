"""k-space from files: what is stored comes back, and the problem that is made of it has the right operator and noise."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest
import scan_files as files
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, UnsupportedError

F32 = 1e-6  # relative rounding of single precision, after a few transforms
WHITE = {"std": 2e-6}


@pytest.fixture(scope="module")
def made():
    return files.scan(**WHITE)


@pytest.fixture
def path(made, tmp_path):
    return files.write_fastmri(tmp_path / "scan.h5", made["kspace"])


def test_fastmri_says_what_it_is(made, path, tmp_path):
    scan = iv.open(path)
    assert (scan.format, scan.num_slices, scan.shape) == ("fastMRI", 2, (4, 64, 24))
    text = str(scan)
    for part in (
        "k-space of 2 slices, 4 coils, 64 x 24",
        "AXT1",
        "pixels of 2 x 2 mm",
        "oversampled 2 times",
        "32 x 24",
    ):
        assert part in text
    assert repr(scan) in f"KSpaceScan({text.splitlines()[0]})" and "<pre>" in scan._repr_html_()
    masked = iv.open(files.write_fastmri(tmp_path / "masked.h5", made["kspace"], files.mask(24)))
    assert "13 of 24 columns are sampled" in str(masked)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (1, 1, 16, 24)},
        {"chunks": (1, 2, 30, 10), "compression": "gzip", "fletcher32": True},
        {"chunks": (2, 4, 64, 24), "compression": "gzip", "shuffle": True},
        {"chunks": (2, 3, 7, 5), "compression": "gzip", "shuffle": True, "fletcher32": True},
    ],
)
def test_stored_numbers_come_back(options, made, tmp_path):
    scan = iv.open(files.write_fastmri(tmp_path / "scan.h5", made["kspace"], **options))
    expected = made["kspace"].astype(np.complex64)
    assert np.array_equal(scan.read().numpy(), expected)
    assert np.array_equal(scan.read([1, 0, 1]).numpy(), expected[[1, 0, 1]])
    assert np.array_equal(scan.read(-1).numpy(), expected[[1]])
    assert np.array_equal(scan.read(slice(None, None, -1)).numpy(), expected[::-1])
    with h5py.File(scan.path) as file:
        assert np.array_equal(scan.reference(0).numpy(), file["reconstruction_rss"][0])


def test_the_oversampling_of_the_readout_is_removed(made, path):
    """Without noise the image of the problem's data is the middle of the image of the file's."""
    problem = iv.open(path).problem(coils=made["maps"], noise=1e-6)
    assert problem.shape == (32, 24) and problem.data.shape == (2, 4, 32, 24)
    stored = files.centred(made["kspace"], inverse=True)[:, :, 16:48]
    found = files.centred(problem.data.numpy(), inverse=True)
    assert np.abs(found - stored).max() < F32 * np.abs(stored).max()
    rss = np.sqrt((np.abs(found) ** 2).sum(1))
    scan = iv.open(path)
    assert np.abs(scan.crop(torch.from_numpy(rss)).numpy() - scan.reference().numpy()).max() < F32 * rss.max()
    assert problem.grid == iv.Grid(voxel_size=(2.0, 2.0), slices=(0, 1)) and problem.dims == ("readout", "phase")


def test_whitened_by_a_noise_scan_the_truth_has_chi2_one(made, tmp_path):
    rng = np.random.default_rng(5)
    root = np.linalg.cholesky(made["covariance"])
    lines = rng.normal(size=(64, 4, 64)) + 1j * rng.normal(size=(64, 4, 64))
    path = files.write_ismrmrd(tmp_path / "scan.h5", made["kspace"], noise=np.einsum("ab,nbs->nas", root, lines))
    problem = iv.open(path).problem(coils=made["maps"])
    chi2 = problem.chi2(torch.from_numpy(made["images"]).to(torch.complex64))
    # 2 x 6144 normal numbers; of the covariance, of 4096 samples, the mean has a relative error of a coil's 1/64 / 2.
    assert torch.allclose(chi2, torch.ones(2), atol=5 * (2 / 6144) ** 0.5 + 5 / 64 / 2)
    sigma = np.exp(np.log(np.diag(made["covariance"]).real).mean() / 2)
    assert problem.noise.std == pytest.approx(sigma, rel=5 / 64 / 2)
    white = problem.data - problem.operator(torch.from_numpy(made["images"]).to(torch.complex64))
    flat = white.movedim(1, 0).flatten(1).to(torch.complex128) / problem.noise.std
    found = (flat @ flat.mH / (2 * flat.shape[1])).abs()
    assert (found - torch.eye(4)).abs().max() < 5 / 64 + 5 / 39  # of 4096 and of 1536 samples


def test_noise_at_the_edge_of_kspace(tmp_path):
    """Of noise alone it is right; a stated std leaves the data as they are."""
    rng = np.random.default_rng(0)
    k = 3e-5 * (rng.normal(size=(4, 2, 128, 96)) + 1j * rng.normal(size=(4, 2, 128, 96)))
    scan = iv.open(files.write_fastmri(tmp_path / "noise.h5", k))
    maps = iv.datasets.coil_maps(2, (64, 96))
    samples = 2 * 4 * 0.05 * 64 * 96  # real numbers a coil
    assert scan.problem(coils=maps).noise.std == pytest.approx(3e-5, rel=5 / samples**0.5)
    stated = scan.problem(coils=maps, noise=1e-4)
    assert stated.noise.std == 1e-4 and torch.equal(stated.operator.maps, maps.expand(4, -1, -1, -1))


def test_columns_that_were_not_encoded_are_no_data(made, tmp_path):
    """fastMRI's rule: from n // 2 - centre to that + maximum + 1, whatever the filling holds."""
    xml = files.header(64, 24, centre=10, high=19)
    scan = iv.open(files.write_fastmri(tmp_path / "scan.h5", made["kspace"], xml=xml))
    assert "phase encodings 2 to 21" in str(scan)
    lines = scan.problem(coils=made["maps"], noise=1e-6).operator.mask
    assert torch.equal(lines, torch.tensor([[2 <= i < 22 for i in range(24)]]))


def test_masks(made, tmp_path):
    columns = files.mask(24)
    scan = iv.open(files.write_fastmri(tmp_path / "scan.h5", made["kspace"], columns))
    assert np.array_equal(scan.problem(coils=made["maps"]).operator.mask[0].numpy(), columns)
    fewer = scan.problem(coils=made["maps"], noise=1e-6, mask=np.arange(24) % 2 == 0)
    assert np.array_equal(fewer.operator.mask[0].numpy(), columns & (np.arange(24) % 2 == 0))
    assert bool((fewer.data[..., ~fewer.operator.mask[0]] == 0).all())
    plane = np.random.default_rng(0).random((32, 24)) < 0.5
    assert np.array_equal(scan.problem(coils=made["maps"], noise=1e-6, mask=plane).operator.mask, plane & columns)


def test_an_asymmetric_echo_keeps_its_readout(made, tmp_path):
    k = made["kspace"].copy()
    k[:, :, :12] = 0
    problem = iv.open(files.write_fastmri(tmp_path / "scan.h5", k)).problem(coils="smooth", noise=1e-6)
    assert problem.shape == (64, 24)
    assert torch.equal(problem.operator.mask, (torch.arange(64) >= 12)[:, None].expand(64, 24))


def test_one_slice_one_coil(made, tmp_path):
    scan = iv.open(files.write_fastmri(tmp_path / "scan.h5", made["kspace"][:, 0]))
    assert scan.shape == (1, 64, 24) and "1 coil," in str(scan)
    problem = scan.problem(0)
    assert not problem.batched and problem.data.shape == (1, 32, 24) and problem.operator.maps is None
    assert scan.problem([1]).grid.slices == (1,) and scan.reference(1).shape == (32, 24)


@pytest.mark.parametrize("coils", ["espirit", "smooth"])
def test_estimated_maps(coils, made, tmp_path):
    """What they make of full data is near the true image, whose magnitude is the root sum of squares of the file's coils."""
    problem = iv.open(files.write_fastmri(tmp_path / "scan.h5", made["kspace"])).problem(coils=coils)
    found = iv.baselines.tikhonov(problem.operator, problem.data, weight=1e-6).abs()
    truth = torch.from_numpy(abs(made["images"])).float()
    inside = truth > 0.3 * truth.max()
    assert float((found - truth)[inside].norm() / truth[inside].norm()) < 0.1  # noise alone: about 0.05
    raw = iv.datasets.coil_maps(4, (32, 24))  # of the coils in the file the sum of squares is 1
    assert problem.operator.maps.shape == (2, *raw.shape)


def test_ismrmrd_as_its_own_writer_makes_it(made, tmp_path):
    columns = files.mask(24)
    scan = iv.open(files.write_ismrmrd(tmp_path / "scan.h5", made["kspace"], columns=columns))
    assert np.array_equal(scan.read().numpy(), (made["kspace"] * columns).astype(np.complex64))
    assert np.array_equal(scan.read([1]).numpy(), (made["kspace"][[1]] * columns).astype(np.complex64))
    grid = scan.problem(coils=made["maps"], noise=1e-6).grid
    # Readout to the left, phase to the back, 6 mm between slices, the middle pixel (16, 12) at the isocentre.
    expected = [[0, -2, 0, 32], [0, 0, -2, 24], [6, 0, 0, 0], [0, 0, 0, 1]]
    assert np.allclose(grid.affine, expected, atol=1e-9) and grid.orientation == "SLP"
    one = scan.problem([1], coils=made["maps"], noise=1e-6).grid
    assert one.slices == (1,) and np.allclose(one.of_items(1)[:3, 3], [32, 24, 6])


def test_ismrmrd_flags(made, tmp_path):
    """A reversed line is turned; navigators and separate calibration lines are left out; of repetitions the first."""
    import ismrmrd

    path = files.write_ismrmrd(tmp_path / "scan.h5", made["kspace"][:1])
    with h5py.File(path, "r+") as file:
        records = file["dataset/data"][()]
        head, k = records["head"], made["kspace"][0].astype(np.complex64)
        head["flags"][3] |= 1 << (ismrmrd.ACQ_IS_REVERSE - 1)
        head["flags"][4] |= 1 << (ismrmrd.ACQ_IS_NAVIGATION_DATA - 1)
        head["flags"][5] |= 1 << (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION - 1)
        head["flags"][6] |= 1 << (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING - 1)
        head["idx"]["repetition"][7] = 2
        head["discard_pre"][8] = 5
        file["dataset/data"][...] = records
    found = iv.open(path)
    k[..., 3] = k[..., ::-1, 3]
    k[..., [4, 5, 7]] = 0
    k[:, :5, 8] = 0
    assert np.array_equal(found.read()[0].numpy(), k)
    assert "2 numbers of 'repetition': the lowest is read" in str(found)


def test_arrays(made, tmp_path):
    k = made["kspace"]
    for name, array in (("c", k), ("f", np.asfortranarray(k)), ("big", k.astype(">c16"))):
        np.save(tmp_path / f"{name}.npy", array)
        scan = iv.open(tmp_path / f"{name}.npy", kind="kspace")
        assert np.array_equal(scan.read([1, 0]).numpy(), k[[1, 0]]) and "pixels of unknown size" in str(scan)
        assert scan.problem(coils="smooth").grid is None
    np.save(tmp_path / "plane.npy", k[0, 0])
    assert np.array_equal(iv.open(tmp_path / "plane.npy", kind="kspace").read()[0, 0].numpy(), k[0, 0])
    whole = np.zeros((64, 24, 1, 4, *[1] * 9, 2), complex)
    whole[:, :, 0, :, 0, 0, 0, 0, 0, 0, 0, 0, 0] = k.transpose(2, 3, 1, 0)
    path = files.write_bart(tmp_path / "bart", whole)
    for name in (path, path.with_suffix(".hdr"), path.with_suffix("")):
        scan = iv.open(name, kind="kspace")
        assert scan.format == "BART" and np.array_equal(scan.read([1]).numpy(), k[[1]].astype(np.complex64))
    readout_second = files.write_bart(tmp_path / "other", k[0].transpose(1, 2, 0)[None])  # (1, 64, 24, 4), as 2D scans
    assert np.array_equal(iv.open(readout_second, kind="kspace").read()[0].numpy(), k[0].astype(np.complex64))


def test_small_files(made, tmp_path):
    """Numbers in the header of the data set; one slice of ISMRMRD with its thickness; coils that do not say where."""
    with h5py.File(tmp_path / "compact.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_layout(h5py.h5d.COMPACT)
        k = made["kspace"][:, 0, :8, :8].astype(np.complex64)
        kind, space = h5py.h5t.py_create(k.dtype), h5py.h5s.create_simple(k.shape)
        h5py.Dataset(h5py.h5d.create(file.id, b"kspace", kind, space, plan))[...] = k
    scan = iv.open(tmp_path / "compact.h5")
    assert np.array_equal(scan.read([1])[0, 0].numpy(), k[1])
    assert scan.problem(0).noise.std > 0  # of three samples
    path = files.write_ismrmrd(tmp_path / "one.h5", made["kspace"][:1])
    assert np.allclose(np.asarray(iv.open(path).problem(0, coils=made["maps"]).grid.affine)[:3, 0], [0, 0, 5])
    with h5py.File(path, "r+") as file:
        records = file["dataset/data"][()]
        records["head"]["read_dir"] = 0
        file["dataset/data"][...] = records
    assert iv.open(path).problem(0, coils=made["maps"]).grid.affine is None


def test_refusals(made, path, tmp_path, monkeypatch):
    scan = iv.open(path)
    for slices in (2, -3, [], [0, 7], slice(5, 9)):
        with pytest.raises(InputError, match="`slices` must be some of 0 to 1"):
            scan.problem(slices)
    for slices in ("0", 1.5, [0.5], object()):
        with pytest.raises(InputTypeError, match="`slices` must be a number, a slice or a list"):
            scan.read(slices)
    with pytest.raises(InputError, match="`coils` must be 'espirit', 'smooth' or maps, got 'walsh'"):
        scan.problem(coils="walsh")
    with pytest.raises(InputError, match=r"`coils` must be of shape \(4, 32, 24\)"):
        scan.problem(coils=np.ones((4, 64, 24)))
    with pytest.raises(InputError, match=r"`mask` must be broadcastable to \(32, 24\)"):
        scan.problem(coils=made["maps"], mask=np.ones(7))
    with pytest.raises(InputError, match="`mask` must be True somewhere that was measured"):
        scan.problem(coils=made["maps"], mask=np.zeros(24))
    with pytest.raises(InputError, match="`noise` must be positive"):
        scan.problem(noise=0.0)
    clean = files.scan(std=0.0)["kspace"]
    clean[:, 1] = 0
    with pytest.raises(InputError, match="there is none to be seen in some coil: the file is simulated or filtered"):
        iv.open(files.write_fastmri(tmp_path / "clean.h5", clean)).problem()
    np.save(tmp_path / "k.npy", made["kspace"])
    with pytest.raises(UnsupportedError, match="holds no image beside its data"):
        iv.open(tmp_path / "k.npy", kind="kspace").reference()
    with pytest.raises(InputError, match="`kind` must be stated for 'k.npy', an array of complex numbers"):
        iv.open(tmp_path / "k.npy")
    with pytest.raises(InputError, match="`kind` must be one of 'kspace', 'image'"):
        iv.open(tmp_path / "k.npy", kind="sinogram")
    with pytest.raises(InputTypeError, match="`path` must be the path of a file"):
        iv.open(7)
    with pytest.raises(InputError, match="`limit` must be at least 1"):
        iv.open(path, limit=0)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    (tmp_path / "a.nii").write_bytes((348).to_bytes(4, "little") + bytes(340) + b"n+1\0" + bytes(100))
    with pytest.raises(UnsupportedError, match=r"NIfTI needs the package nibabel: pip install 'invsolve\[io\]'"):
        iv.open(tmp_path / "a.nii")


def test_slices_that_were_sampled_differently_are_not_one_problem(made, tmp_path):
    """Zeros of one slice, where only another was measured, would be data. Slices of nothing but zeros are taken."""
    k = made["kspace"].copy()
    k[0, ..., 1::2] = 0
    k[1, ..., 5] = 0
    scan = iv.open(files.write_fastmri(tmp_path / "scan.h5", k))
    with pytest.raises(iv.errors.FileError, match="k-space: was not sampled at the same places in all of these slices"):
        scan.problem(noise=1e-6)
    lines = [scan.problem(i, coils=made["maps"], noise=1e-6).operator.observed[0, 0] for i in (0, 1)]
    assert lines[0].tolist() == [i % 2 == 0 for i in range(24)] and lines[1].tolist() == [i != 5 for i in range(24)]
    k[1] = 0
    empty = iv.open(files.write_fastmri(tmp_path / "empty.h5", k)).problem(coils=made["maps"], noise=1e-6)
    assert empty.operator.observed[..., 0, :].flatten(0, -2)[0].tolist() == [i % 2 == 0 for i in range(24)]
    points = made["kspace"] * (np.random.default_rng(0).random((2, 1, 64, 24)) < 0.5)  # no columns
    with pytest.raises(iv.errors.FileError, match="was not sampled at the same places"):
        iv.open(files.write_fastmri(tmp_path / "points.h5", points)).problem(noise=1e-6)


def test_what_is_read_can_be_part_of_a_graph(made, path, tmp_path):
    """In inference mode too; the default device and dtype do not count."""
    np.save(tmp_path / "image.npy", np.ones((2, 4, 4), np.float32) + np.eye(4, dtype=np.float32))
    with torch.inference_mode(), torch.device("meta"):
        scan, images = iv.open(path), iv.open(tmp_path / "image.npy", kind="image")
        found = [scan.read(0), scan.reference(0), scan.crop(torch.ones(64, 24, device="cpu"))]
        found += [images.read(0), images.image(0), images.problem(0, noise=1.0).data]
    assert not any(x.is_inference() for x in found) and {x.device.type for x in found} == {"cpu"}
