"""`iv.open`: what a file is, by its first bytes, and the scan that it holds."""

from __future__ import annotations

import os

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int
from invsolve.datasets.readers import arrays, dicom, fastmri, hdf5, ismrmrd, nifti, sinogram
from invsolve.datasets.readers.checks import LIMIT, Source, regular
from invsolve.datasets.readers.scan import Scan
from invsolve.errors import FileError, invalid_type

_KNOWN = (
    "fastMRI, ISMRMRD or a sinogram in HDF5, DICOM (a file, or the folder of a series), NIfTI, a sinogram in .npz, "
    "BART's .cfl and .hdr, .npy"
)


@in_defined_state
def open_scan(path: str | os.PathLike[str], *, kind: str | None = None, limit: int = LIMIT) -> Scan:
    """Look at a file from a scanner, and return what it holds: print it, then call its ``problem()``.

    The first bytes decide, not the name. Nothing is read but what is needed to say what it is; numbers are read when
    they are asked for, slice by slice. Files are not trusted: what a file declares is compared with the bytes that are
    there before memory is asked for, links and storage in other files are refused, and no code is ever run.

    Parameters
    ----------
    path : str or path
        fastMRI or ISMRMRD (HDF5), DICOM (one file, or the folder of one series), NIfTI (.nii, .nii.gz), BART (.cfl with
        its .hdr), .npy, or a sinogram: .npz or HDF5 with ``counts`` and ``i0``, or ``line_integrals``, of shape
        ([slices,] views, bins), and the geometry by astra's names, lengths in mm: ``ProjectionAngles``,
        ``DetectorWidth`` (of a bin), for a fan ``DistanceOriginSource`` and ``DistanceOriginDetector``.
    kind : {'kspace', 'image'}, optional
        What an array holds: .npy and BART's files do not say. k-space is ([slices, [coils,]] readout, phase), with its
        origin at index n // 2; images are ([slices,] rows, columns).
    limit : int
        The most bytes that are read at once, 4 GiB by default; larger data sets are refused.

    Returns
    -------
    Scan
        `KSpaceScan`, `ImageScan` or `SinogramScan`.

    Raises
    ------
    FileError
        Naming file, data set and rule: for a file that is not there, cut short, damaged, hostile or of an unknown kind.
    InputError, InputTypeError
        If ``path`` is no path, or ``kind`` is not stated where it must be.
    UnsupportedError
        Without the package that a format is read with: ``pip install 'invsolve[io]'`` brings pydicom and nibabel.

    Examples
    --------
    >>> import tempfile, numpy as np, invsolve as iv
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/slices.npy"
    >>> np.save(path, np.random.default_rng(0).normal(size=(3, 32, 24)))
    >>> scan = iv.open(path, kind="image")
    >>> scan.num_slices, scan.shape, scan.problem(slices=0).data.shape
    (3, (32, 24), torch.Size([1, 32, 24]))
    >>> folder.cleanup()
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise invalid_type("open", "path", "the path of a file", path)
    limit = check_int("open", "limit", limit, minimum=1)
    name = os.fspath(path)
    if os.path.isdir(name):
        folder = Source(name, limit)
        with folder.guarded("the folder"):
            return dicom.open_series(folder)
    bart = name.endswith((".cfl", ".hdr")) or not os.path.exists(name)
    if not os.path.exists(name) and os.path.exists(f"{name}.hdr"):
        name = f"{name}.hdr"
    source = regular(name, limit)
    with source.guarded("the file"):  # types and names that a format does not have, wherever they are met
        return _by_its_first_bytes(source, kind, bart and name.endswith(".cfl"))


def _by_its_first_bytes(source: Source, kind: str | None, bart: bool) -> Scan:
    head = source.read("the file", 0, min(source.size, 512))
    if not head:
        raise source.refuse("the file", "is empty")
    if head[:8] == hdf5.MAGIC:
        return _in_hdf5(source)
    if head[:4] == sinogram.ZIP:
        return sinogram.open_npz(source)
    if head[:6] == arrays.NPY:
        return arrays.open_npy(source, kind)
    if dicom.is_dicom(head):
        return dicom.open_dicom(source)
    if nifti.version(head) or (head[:2] == nifti.GZIP and nifti.version(nifti.beginning(source))):
        return nifti.open_nifti(source)
    if head.lstrip().startswith(b"# Dimensions") or bart:
        return arrays.open_bart(source, kind)
    raise FileError(
        f"iv.open: {source.path!r}, the file: is of no kind that is known by its first bytes. Known are {_KNOWN}."
    )


def _in_hdf5(source: Source) -> Scan:
    with hdf5.HDF5File(source) as file:
        if fastmri.is_fastmri(file):
            return fastmri.open_fastmri(file)
        if sinogram.is_sinogram(file):
            return sinogram.open_hdf5(file)
        if (group := ismrmrd.ismrmrd_group(file)) is not None:
            return ismrmrd.open_ismrmrd(file, group)
        names = ", ".join(repr(name) for name in file.names()[:8])
        raise source.refuse(
            "the file",
            f"is HDF5 of no known layout, with {names or 'nothing'} at its top: 'kspace' of fastMRI, 'xml' and 'data' "
            "of ISMRMRD, or 'ProjectionAngles' of a sinogram is looked for",
        )
