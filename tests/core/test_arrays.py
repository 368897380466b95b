"""Arrays at the border, and complex rows as pairs of real numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray

from invsolve.core.arrays import as_tensor, from_real, to_real
from invsolve.errors import InputTypeError

CPU = torch.device("cpu")
X = np.arange(6.0).reshape(2, 3)


def convert(value, dtype=torch.float32):
    return as_tensor("solve", "y", value, dtype=dtype, device=CPU)


def test_tensors_are_returned_as_they_are():
    x = torch.ones(2, dtype=torch.float64)
    assert convert(x) is x
    assert convert(torch.ones(2, dtype=torch.int64)).dtype == torch.int64


FORMS = {
    "float64": X,
    "float32": X.astype(np.float32),
    "float16": X.astype(np.float16),
    "long double": X.astype(np.longdouble),
    "big-endian": X.astype(">f4"),  # as NetCDF-3 and FITS store it
    "Fortran order": np.asfortranarray(X),
    "reversed": X[::-1, ::-1].copy()[::-1, ::-1],
    "every second": np.repeat(X, 2, axis=1)[:, ::2],
    "xarray": xarray.DataArray(X, dims=("item", "x")),
    "nothing masked": np.ma.masked_array(X, mask=False),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("value", FORMS.values(), ids=FORMS.keys())
def test_arrays_are_copied_in_the_precision_asked_for(value, dtype):
    got = convert(value, dtype)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(got.double(), torch.tensor(X))


@pytest.mark.parametrize("kind", ["c8", "c16", ">c8", "G"])
def test_complex_arrays(kind):
    got = convert((X + 1j * X).astype(kind), torch.float64)
    assert got.dtype == torch.complex128
    assert torch.equal(got, torch.tensor(X + 1j * X))


def test_the_array_may_change_afterwards_and_may_be_read_only():
    x = X.copy()
    got = convert(x, torch.float64)
    x[0, 0] = 99.0
    assert float(got[0, 0]) == 0.0
    x.flags.writeable = False
    assert float(convert(x)[0, 0]) == 99.0


def test_masked_entries_become_nan():
    masked = np.ma.masked_array(X, mask=X == 4.0)
    got = convert(masked)
    assert torch.equal(got.isnan(), torch.tensor(X == 4.0))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, r"solve: `y` must be a torch.Tensor, numpy array or xarray.DataArray, got NoneType\."),
        ([1.0, 2.0], "xarray.DataArray, got list"),
        ("y.npy", "xarray.DataArray, got 'y.npy'"),
        (np.float64(1.0), "xarray.DataArray, got float64"),
        (xarray.Dataset({"a": ("x", X[0])}), "xarray.DataArray, got Dataset"),
        (np.arange(3), r"`y` must be floating point or complex, got int64. Convert it: y.astype\(float\)"),
        (np.array([True]), "floating point or complex, got bool"),
        (np.array(["a"]), "floating point or complex, got <U1"),
        (np.array([None]), "floating point or complex, got object"),
    ],
    ids=str,
)
def test_refusals(value, words):
    with pytest.raises(InputTypeError, match=words):
        convert(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_to_real_and_back(dtype):
    x = torch.randn(4, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    real = to_real(x)
    assert real.shape == (4, 12 if dtype.is_complex else 6)
    assert not real.is_complex()
    assert torch.allclose(real.norm(dim=1), x.flatten(1).norm(dim=1))
    assert torch.equal(from_real(real, (2, 3), dtype if dtype.is_complex else None), x)
    if dtype.is_complex:
        assert torch.equal(real[:, ::2], x.real.flatten(1))
        assert torch.equal(to_real(x.conj())[:, 1::2], -x.imag.flatten(1))  # also of a lazy conjugate
