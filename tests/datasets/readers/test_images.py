"""Images and sinograms from files: values, units and places as the programs that wrote them have them."""

from __future__ import annotations

import nibabel
import numpy as np
import pydicom
import pydicom.data
import pytest
import scan_files as files
import torch

import invsolve as iv
from invsolve.errors import InputError
from invsolve.operators.ct import from_hounsfield, to_hounsfield

VOLUME = np.random.default_rng(0).integers(-1000, 3000, (4, 6, 8))


# --- DICOM ----------------------------------------------------------------------------------------------------------
def test_a_series_is_put_in_order(tmp_path):
    files.write_series(tmp_path / "series", VOLUME)
    scan = iv.open(tmp_path / "series")
    assert (scan.format, scan.num_slices, scan.shape, scan.units) == ("DICOM", 4, (6, 8), "HU")
    assert np.array_equal(scan.image().numpy(), VOLUME) and np.array_equal(scan.image(2).numpy(), VOLUME[2])
    assert "slices, rows and columns go to S, P, L" in str(scan) and "0.75 x 0.5 mm" in str(scan)
    problem = scan.problem([3, 1], noise=2.0)
    assert problem.units == "HU" and problem.dims == ("row", "column") and problem.grid.slices == (3, 1)
    assert problem.grid.patient["PatientName"] == "Test^Phantom"


def test_places_are_those_of_dicom(tmp_path):
    """An oblique series: pixel (i, j) of slice k is where the standard says, to the left, the back and the top."""
    right, down = np.array([0.6, 0.8, 0.0]), np.array([0.0, 0.0, -1.0])
    paths = files.write_series(tmp_path / "series", VOLUME, ImageOrientationPatient=[*right, *down])
    across = np.cross(right, down)
    for path in paths:
        data = pydicom.dcmread(path)
        data.ImagePositionPatient = list(np.array([5.0, -7.0, 9.0]) + 2.5 * (data.InstanceNumber - 1) * across)
        data.save_as(path)
    scan = iv.open(tmp_path / "series")
    assert np.array_equal(scan.image().numpy(), VOLUME)
    k, i, j = 2, 4, 7
    place = np.array([5.0, -7.0, 9.0]) + 2.5 * k * across + 0.75 * i * down + 0.5 * j * right
    assert np.allclose(np.asarray(scan.grid.affine) @ [k, i, j, 1], [*(place * [-1, -1, 1]), 1], atol=1e-6)


def test_a_real_slice_is_what_pydicom_reads():
    path = pydicom.data.get_testdata_file("CT_small.dcm")
    data = pydicom.dcmread(path)
    scan = iv.open(path)
    expected = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    image = scan.image(0).numpy()
    # Its padding value is -2000, which no pixel has.
    assert np.array_equal(image, expected) and scan.units == "HU" and scan.num_slices == 1
    assert scan.grid.voxel_size == pytest.approx([float(v) for v in data.PixelSpacing])
    assert np.allclose(np.asarray(scan.grid.affine)[:3, 3] * [-1, -1, 1], [float(v) for v in data.ImagePositionPatient])


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"])
def test_syntaxes(name):
    path = pydicom.data.get_testdata_file(name)
    if path is None:
        pytest.skip("pydicom does not bring it")
    assert np.array_equal(iv.open(path).image(0).numpy(), pydicom.dcmread(path).pixel_array)


def test_bits_that_are_not_used_and_filling(tmp_path):
    """Overlays lie in the upper bits of old files; filling has no value and is no data."""
    (path,) = files.write_series(tmp_path / "one", VOLUME[:1], PixelPaddingValue=int(VOLUME[0, 0, 0]) + 1024)
    data = pydicom.dcmread(path)
    stored = np.frombuffer(data.PixelData, "<u2")
    data.PixelData = (stored | 0x7000).tobytes()
    data.save_as(path)
    image = iv.open(path).image(0).numpy()
    filling = VOLUME[0] == VOLUME[0, 0, 0]
    assert np.isnan(image[filling]).all() and np.array_equal(image[~filling], VOLUME[0][~filling])
    problem = iv.open(path).problem(noise=3.0)
    assert np.array_equal(problem.operator.observed.expand(1, 6, 8)[0].numpy(), ~filling)
    signed = files.write_series(tmp_path / "two", VOLUME[:1], PixelRepresentation=1, RescaleIntercept=0)
    as_signed = np.where(VOLUME[0] + 1024 >= 2048, VOLUME[0] + 1024 - 4096, VOLUME[0] + 1024)
    assert np.array_equal(iv.open(signed[0]).image(0).numpy(), as_signed)


def test_filling_of_every_slice(tmp_path):
    """Files of one series may name different numbers for it."""
    paths = files.write_series(tmp_path / "series", VOLUME)
    which = {}
    for path in paths[:3]:
        data = pydicom.dcmread(path)
        slice_ = data.InstanceNumber - 1
        which[slice_] = VOLUME[slice_, 0, slice_]
        data.add_new(0x00280120, "US", int(which[slice_]) + 1024)
        data.save_as(path)
    expected = np.stack([VOLUME[i] == which[i] if i in which else np.zeros((6, 8), bool) for i in range(4)])
    scan = iv.open(tmp_path / "series")
    assert np.array_equal(np.isnan(scan.image().numpy()), expected) and expected.sum() >= 3
    assert np.array_equal(np.isnan(scan.image([3, 0]).numpy()), expected[[3, 0]])


@pytest.mark.parametrize("change", [{"RescaleType": "US"}, {"RescaleIntercept": None}, {"RescaleSlope": None}])
def test_hounsfield_units_are_not_claimed(change, tmp_path):
    """Of CT whose header does not say how its numbers become them."""
    stated = files.write_series(tmp_path / "stated", VOLUME, RescaleType="HU")
    assert iv.open(tmp_path / "stated").units == "HU" and len(stated) == 4
    path = files.write_series(tmp_path / "series", VOLUME)[0]
    data = pydicom.dcmread(path)
    for name, value in change.items():
        delattr(data, name) if value is None else setattr(data, name, value)
    data.save_as(path)
    scan = iv.open(path)
    assert scan.units == "" and "do not say how the stored numbers become Hounsfield units" in str(scan)
    assert scan.problem(noise=1.0).units == ""
    assert iv.open(tmp_path / "series").units == ""  # of one slice they are not known


def test_filling_in_a_file_that_does_not_state_types(tmp_path):
    """A negative number that is read as a large one."""
    filling = {"PixelRepresentation": 1, "RescaleIntercept": 0, "BitsStored": 16, "HighBit": 15}
    (path,) = files.write_series(tmp_path / "one", VOLUME[:1] - 1024, PixelPaddingValue=int(VOLUME[0, 0, 0]), **filling)
    data = pydicom.dcmread(path)
    data.PixelData = VOLUME[0].astype("<i2").tobytes()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    data.save_as(path, implicit_vr=True, little_endian=True)
    assert np.array_equal(np.isnan(iv.open(path).image(0).numpy()), VOLUME[0] == VOLUME[0, 0, 0])


def test_images_that_do_not_say_where_they_are(tmp_path):
    paths = files.write_series(tmp_path / "series", VOLUME)

    def without(path, name):
        data = pydicom.dcmread(path)
        delattr(data, name)
        data.save_as(path)
        return data

    for path in paths[1:]:
        without(path, "ImagePositionPatient")
    with pytest.raises(iv.errors.FileError, match="ImagePositionPatient: is missing in some"):
        iv.open(tmp_path / "series")
    without(paths[0], "ImagePositionPatient")
    for path in paths:
        data = without(path, "ImageOrientationPatient")
    scan = iv.open(tmp_path / "series")
    assert np.array_equal(scan.image().numpy(), VOLUME) and "ordered by their numbers" in str(scan)
    assert scan.grid.affine is None
    data.Rows, data.PixelData = 3, data.PixelData[:48]
    data.save_as(path)
    with pytest.raises(iv.errors.FileError, match="rows: differs between the images of the series"):
        iv.open(tmp_path / "series")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Rows": None}, "Rows: is 'None', where a whole number"),
        ({"PixelSpacing": [1.0, 1.0, 1.0]}, "PixelSpacing: is .*, where 2 finite numbers"),
    ],
)
def test_headers_that_are_no_numbers(change, message, tmp_path):
    files.write_series(tmp_path / "series", VOLUME[:1])
    path = tmp_path / "series" / "000.dcm"
    data = pydicom.dcmread(path)
    for name, value in change.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(path)
    with pytest.raises(iv.errors.FileError, match=message):
        iv.open(path)


# --- NIfTI ----------------------------------------------------------------------------------------------------------
AFFINE = np.array([[-2.0, 0.1, 0, 10], [0, 0, 3, 20], [0.1, 1.5, 0, -5], [0, 0, 0, 1]])


def nifti(path, array, affine=AFFINE, kind=nibabel.Nifti1Image, unit="mm", **scaling):
    image = kind(array, affine)
    image.header.set_xyzt_units(unit)
    if scaling:
        image.header.set_slope_inter(**scaling)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2", ">u2", "<f8", "|u1"])
def test_values_and_places_are_those_of_nibabel(name, dtype, tmp_path):
    array = np.random.default_rng(0).integers(0, 200, (6, 8, 5)).astype(dtype)
    header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm")
    nibabel.save(nibabel.Nifti1Image(array, AFFINE, header), tmp_path / name)
    scan = iv.open(tmp_path / name)
    read = nibabel.load(tmp_path / name)
    assert np.array_equal(scan.image([4, 0, 4]).numpy(), read.get_fdata().transpose(2, 0, 1)[[4, 0, 4]])
    assert (scan.format, scan.num_slices, scan.shape) == ("NIfTI", 5, (6, 8))
    k, i, j = 3, 2, 7
    assert np.allclose(np.asarray(scan.grid.affine) @ [k, i, j, 1], read.affine @ [i, j, k, 1], atol=1e-5)
    assert scan.grid.voxel_size == pytest.approx(nibabel.affines.voxel_sizes(AFFINE)[:2], rel=1e-6)


def test_scaled_values_other_units_and_version_2(tmp_path):
    array = np.random.default_rng(0).integers(-100, 100, (6, 8, 5)).astype(np.int16)
    path = nifti(tmp_path / "a.nii", array, AFFINE * [[1e-3], [1e-3], [1e-3], [1]], unit="meter", slope=0.5, inter=7.0)
    scan = iv.open(path)
    assert np.allclose(scan.image().numpy(), nibabel.load(path).get_fdata().transpose(2, 0, 1), rtol=1e-7)
    assert np.allclose(scan.grid.affine, np.asarray(iv.open(nifti(tmp_path / "b.nii", array)).grid.affine), rtol=1e-6)
    second = iv.open(nifti(tmp_path / "c.nii.gz", array, kind=nibabel.Nifti2Image, unit="unknown"))
    assert np.array_equal(second.image().numpy(), array.transpose(2, 0, 1))
    assert "no unit of length: taken for mm" in str(second)
    assert iv.open(nifti(tmp_path / "f.nii", array[..., None])).num_slices == 5
    zero = bytearray(nifti(tmp_path / "g.nii", array).read_bytes())
    zero[112:116] = bytes(4)  # a slope of 0 is none
    (tmp_path / "g.nii").write_bytes(bytes(zero))
    assert np.array_equal(iv.open(tmp_path / "g.nii").image().numpy(), array.transpose(2, 0, 1))
    one = iv.open(nifti(tmp_path / "d.nii", array[..., 0]))
    assert one.num_slices == 1 and np.array_equal(one.image(0).numpy(), array[..., 0])
    with pytest.raises(iv.errors.FileError, match="dim: says .*, where one volume is read"):
        iv.open(nifti(tmp_path / "e.nii", array[..., None].repeat(2, -1)))


def test_missing_values_are_no_data(tmp_path):
    array = np.random.default_rng(0).normal(size=(6, 8, 2)).astype(np.float32)
    array[2, 3, 1] = np.nan
    image = nibabel.Nifti1Image(array, None)
    nibabel.save(image, tmp_path / "a.nii")
    scan = iv.open(tmp_path / "a.nii")
    assert "does not say where the volume is" in str(scan) and scan.grid.affine is None
    observed = scan.problem(noise=0.1).operator.observed
    assert not bool(observed[1, 2, 3]) and int(observed.sum()) == array.size - 1


# --- noise ----------------------------------------------------------------------------------------------------------
def test_noise_that_an_image_shows(tmp_path):
    rng = np.random.default_rng(0)
    smooth = np.cos(np.linspace(0, 3, 64))[:, None] * np.ones(96)
    np.save(tmp_path / "a.npy", smooth + 0.1 * rng.normal(size=(2, 64, 96)))
    assert "pixels of unknown size" in str(iv.open(tmp_path / "a.npy", kind="image"))
    problem = iv.open(tmp_path / "a.npy", kind="image").problem()
    # The median of n absolute normal numbers has the relative standard error 1.17 / sqrt(n).
    assert problem.noise.std == pytest.approx(0.1, rel=5 * 1.17 / (2 * 32 * 48) ** 0.5)
    blur = iv.operators.GaussianBlur(1.0, (64, 96))
    blurred = iv.open(tmp_path / "a.npy", kind="image").problem(0, operator=blur, noise=0.1)
    assert blurred.operator is blur or blurred.operator.in_shape == (64, 96)
    np.save(tmp_path / "b.npy", np.ones((8, 8)))
    with pytest.raises(InputError, match="`noise` must be stated, got None. The finest differences"):
        iv.open(tmp_path / "b.npy", kind="image").problem()
    np.save(tmp_path / "c.npy", (smooth + 0.1 * rng.normal(size=(64, 96))) * np.exp(1j))
    assert iv.open(tmp_path / "c.npy", kind="image").problem(0, noise=0.1).data.is_complex()


# --- sinograms ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["npz", "h5"])
@pytest.mark.parametrize("fan", [False, True])
def test_counts_of_an_image_in_hounsfield_units(form, fan, tmp_path):
    """Expected counts of an image x are ``i0 exp(-A mu)`` with mu of x, and near the counts in the file."""
    path = tmp_path / f"scan.{form}"
    clean = files.write_sinogram(path, fan=fan, form=form)
    scan = iv.open(path)
    assert (scan.num_slices, scan.shape) == (1, (48, 64))
    assert ("a fan of rays" if fan else "parallel beams") in str(scan) and "2000 counts" in str(scan)
    problem = scan.problem(0, in_shape=(128, 128), pixel_size=240 / 128)
    head = iv.datasets.heads.ct(1, (128, 128), seed=3)
    expected = problem.noise.expected(problem.operator(head))
    line = scan.operator((128, 128), 240 / 128)(from_hounsfield(head))
    assert torch.allclose(expected.double(), 2000 * torch.exp(-line.double()), rtol=1e-4)
    assert np.allclose(line[0].numpy(), clean, atol=1e-4 * clean.max())
    assert problem.units == "HU" and problem.grid.voxel_size == (240 / 128, 240 / 128)
    assert float(problem.chi2(head)) == pytest.approx(1, abs=5 * (2 / 3072) ** 0.5)


def test_line_integrals(tmp_path):
    files.write_sinogram(tmp_path / "scan.npz", counts=False)
    scan = iv.open(tmp_path / "scan.npz")
    with pytest.raises(InputError, match="`noise` must be given for line integrals"):
        scan.problem()
    problem = scan.problem(noise=0.01, in_shape=(128, 128), pixel_size=240 / 128)
    head = iv.datasets.heads.ct(1, (128, 128), seed=3)
    assert float(problem.chi2(head)) == pytest.approx(1, abs=5 * (2 / 3072) ** 0.5)
    files.write_sinogram(tmp_path / "counts.npz")
    with pytest.raises(InputError, match="`noise` must be left out for counts"):
        iv.open(tmp_path / "counts.npz").problem(noise=1.0)
    whole = iv.open(tmp_path / "counts.npz").problem(0)  # as many pixels as bins, as wide as the detector
    assert whole.shape == (64, 64) and whole.grid.voxel_size == (4.0, 4.0)
    assert bool((to_hounsfield(torch.tensor([0.0])) == -1000).all())


def test_the_geometry_is_astras(tmp_path):
    """astra's own projection of a blob, with its geometry saved as it is, is that of the operator."""
    astra = pytest.importorskip("astra")
    y, x = np.mgrid[:48, :48]
    width = 6.0
    blob = 0.02 * np.exp(-((x - 28) ** 2 + (y - 19) ** 2) / (2 * width**2))
    angles = np.linspace(0, np.pi, 20, endpoint=False)
    volume = astra.create_vol_geom(48, 48)
    parallel = astra.create_proj_geom("parallel", 1.0, 64, angles)
    fan = astra.create_proj_geom("fanflat", 1.6, 96, 2 * angles, 150.0, 50.0)
    # Joseph's weights in both; of fans astra has Siddon's, the same on smooth images up to the error of both.
    cases = ((parallel, "linear", 1e-5), (fan, "line_fanflat", 2 / width**2 / 6))
    for geometry, projector, tolerance in cases:
        identity = astra.create_projector(projector, geometry, volume)
        data, sinogram = astra.create_sino(blob, identity)
        astra.data2d.delete(data)
        astra.projector.delete(identity)
        np.savez(tmp_path / "scan.npz", line_integrals=sinogram, **geometry)
        scan = iv.open(tmp_path / "scan.npz")
        found = scan.operator((48, 48), 1.0)(torch.from_numpy(blob[None]))[0].numpy()
        assert np.linalg.norm(found - sinogram) < tolerance * np.linalg.norm(sinogram)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"DistanceOriginDetector": -1.0, "DistanceOriginSource": 10.0},
            "DistanceOriginDetector: must be a number of mm",
        ),
        ({"counts": np.ones(6)}, "counts: has shape"),
        ({"type": np.zeros(3)}, "type: is no short text"),
        ({"background": -np.ones(6)}, "background: must be positive"),
    ],
)
def test_other_refusals(change, message, tmp_path):
    given = {
        "counts": np.ones((4, 6)),
        "i0": 9.0,
        "ProjectionAngles": np.arange(4.0),
        "DetectorSpacingX": 1.0,
    } | change  # astra's name in 3D
    np.savez(tmp_path / "scan.npz", **given)
    with pytest.raises(iv.errors.FileError, match=message):
        iv.open(tmp_path / "scan.npz")
