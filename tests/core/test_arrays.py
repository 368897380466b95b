"""Arrays at the border, and complex rows as pairs of real numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray

from invsolve.core.arrays import as_given, as_tensor, from_real, parameter, parameters, real_parameter, several, to_real
from invsolve.errors import FileError, InputTypeError

try:
    import pandas
except ImportError:  # which xarray brings
    pandas = None

CPU, F32, F64 = torch.device("cpu"), torch.float32, torch.float64
X = np.arange(6.0).reshape(2, 3)


def convert(value, dtype=torch.float32):
    return as_tensor("solve", "y", value, dtype=dtype, device=CPU)


def test_tensors_of_numbers_with_a_point_are_returned_as_they_are():
    x = torch.ones(2, dtype=torch.float64)
    assert convert(x) is x
    assert convert(torch.ones(2, dtype=torch.int64)).dtype == convert(torch.ones(2, dtype=torch.bool)).dtype == F32


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
    "integers": X.astype(np.uint16),
    "lists": X.tolist(),
    "tuples of integers": ((0, 1, 2), (3, 4, 5)),
    "a list of arrays": list(X),
    "a list of tensors": list(torch.tensor(X)),
    "a table": pandas.DataFrame(X) if pandas else X,
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
        (None, r"solve: `y` must be a torch.Tensor, a numpy array, .*, or the path of a .npy file, got NoneType\."),
        ("y.txt", "the path of a .npy file, got 'y.txt'"),
        (xarray.Dataset({"a": ("x", X[0]), "b": 1.0}), r"a Dataset of 2 variables \('a', 'b'\). .*: [a-z]+\['a'\]"),
        (len, "a .npy file, got builtin_function_or_method"),
        (np.array(["a"]), "floating point or complex, or integers, got <U1"),
        (np.array([None]), "floating point or complex, or integers, got object"),
        ([[1.0], [1.0, 2.0]], "numbers, in rows of one length, got list"),
        ([torch.ones(1), torch.ones(2)], "numbers, in rows of one length, got list"),
        ([1.0, "a"], "numbers, in rows of one length, got a list of <U32"),
    ],
    ids=str,
)
def test_refusals(value, words):
    with pytest.raises(InputTypeError, match=words):
        convert(value)


def test_numbers():
    assert float(convert(3)) == float(convert(np.float32(3))) == float(convert(np.int8(3))) == 3.0


def test_files(tmp_path):
    np.save(tmp_path / "y.npy", X)
    assert torch.equal(convert(tmp_path / "y.npy"), torch.tensor(X).float())
    assert torch.equal(convert(str(tmp_path / "y.npy"), F64), torch.tensor(X))
    (tmp_path / "text.npy").write_text("1 2 3")
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    for name, words in (("no", "there is no file"), ("text", "no .npy file of numbers"), ("objects", "no .npy file")):
        with pytest.raises(FileError, match=f"solve: `y`: {words}|solve: `y`: .*{words}"):
            convert(tmp_path / f"{name}.npy")


def test_what_a_call_is_given_takes_the_precision_of_the_object():
    def given(value, dtype=F32, kind=None):
        return as_given("A", "x", value, dtype=dtype, device=CPU, kind=kind)

    for value in (X, X.tolist(), torch.tensor(X), torch.tensor(X).to(torch.int32)):
        assert torch.equal(given(value), torch.tensor(X).float()) and given(value).dtype == F32
        assert given(value, None).dtype == (F64 if isinstance(value, torch.Tensor) and value.dtype == F64 else F32)
        assert given(value, F64, "complex").dtype == torch.complex128
    assert given(2.0) == 2.0 and given("x") == "x" and given(None) is None  # the caller says what is wrong
    assert given(torch.ones(1, dtype=torch.complex128)).dtype == torch.complex64


def test_parameters_share_the_widest_precision():
    """Whatever a list holds is not rounded on the way to it."""
    assert parameter("Blur", "kernel", [1, 2]).dtype == parameter("Blur", "kernel", np.arange(2)).dtype == F32
    assert parameter("Blur", "kernel", np.ones(2)).dtype == F64
    found = parameters("G", mean=[0.1], covariance=np.eye(1), other=torch.eye(1))
    assert {v.dtype for v in found.values()} == {F64} and float(found["mean"]) == 0.1
    found = parameters("G", mean=[0.1], covariance=torch.eye(1))
    assert {v.dtype for v in found.values()} == {F32}
    assert parameters("G", mean=np.ones(1) + 0j, covariance=torch.eye(1))["mean"].dtype == torch.complex128
    with pytest.raises(InputTypeError, match="G: `std` must be real, got torch.complex128"):
        real_parameter("G", "std", np.ones(1) + 0j)


def test_several():
    assert all(several(v) for v in (X, torch.ones(1), [1.0], (1.0,), xarray.DataArray(X)))
    assert not any(several(v) for v in (1.0, np.float32(1.0), torch.tensor(1.0), np.array(1.0), "abc", None))


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
