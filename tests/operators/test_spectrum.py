"""The singular value decomposition of every operator, against its dense matrix."""

from __future__ import annotations

import pytest
import torch
from operator_cases import CASES, COMPLEX, F64, Numbers, stacked
from torch import Tensor

import invsolve as iv
from invsolve.core.counting import tally
from invsolve.core.validation import kind_dtype
from invsolve.operators.bases import Diagonal
from invsolve.operators.dense import dense_matrix
from invsolve.operators.harmonics import Harmonics
from invsolve.operators.spectrum import RealMatrix, Spectrum

ops = iv.operators


# Those of the contract, and the corners of the closed forms: no blur along an axis, a kernel that is no filter at some
# frequencies (a box of the signal's length), odd and even lengths, cut-off blocks, negative and zero multiples.
def _more(draw: Numbers) -> dict[str, iv.operators.LinearOperator]:
    return {
        "blur periodic items": ops.Blur(kernel=draw.randn(2, 3, 2), in_shape=(6, 5)),
        "blur periodic complex": ops.Blur(kernel=draw.randn(3, 2, dtype=COMPLEX), in_shape=(5, 4), kind="complex"),
        "blur of one axis": ops.Blur(kernel=draw.randn(3, 1), in_shape=(6, 4)),
        "blur by a periodic number": ops.Blur(kernel=draw.randn(1, 1), in_shape=(3, 4)),
        "box": ops.Blur(kernel=torch.ones(1, 4, dtype=F64), in_shape=(3, 8)),
        "blur 3-d periodic": ops.Blur(kernel=draw.randn(2, 1, 3), in_shape=(4, 3, 5)),
        "downsample one axis": ops.Downsample(factor=(1, 3), offset=(0, 2), in_shape=(2, 9), kind="complex"),
        "downsample nothing": ops.Downsample(factor=1, in_shape=(2, 3)),
        "pick with a cut-off block": ops.Downsample(factor=3, in_shape=(7,), method="pick"),
        "mri real items": ops.MRI(in_shape=(4, 6), mask=draw.mask(2, 4, 6), in_kind="real"),
        "mri real columns": ops.MRI(in_shape=(5, 4), mask=draw.mask(1, 4), in_kind="real"),
        "mri one coil items": ops.MRI(in_shape=(4, 5), mask=draw.mask(2, 4, 5)),
        "mri one coil 3-d": ops.MRI(in_shape=(2, 4, 3), mask=draw.mask(1, 4, 3)),
        "scaled blur": -2.5 * ops.Blur(kernel=draw.randn(3), in_shape=(6,)),
        "zero": 0 * ops.Mask(mask=draw.mask(5)),
        "tall matrix": ops.Matrix(matrix=draw.randn(7, 4)),
        "rank one": ops.Matrix(matrix=draw.randn(5, 1) * draw.randn(1, 6)),
    }


ALL = CASES | _more(Numbers(2))
DTYPES = {"float64": F64, "float32": torch.float32}


def tolerance(dtype: torch.dtype) -> float:
    """Relative to the norm of what is compared: each map is a few sums of at most 64 numbers."""
    return 100 * torch.finfo(dtype).eps


def coordinates(draw: Numbers, s: Spectrum, rows: int, dtype: torch.dtype) -> Tensor:
    return draw.randn(rows, *s.shape, dtype=kind_dtype(dtype, s.kind))


def far(a: Tensor, b: Tensor) -> float:
    """The largest difference of a row, relative to the row (absolute where that is zero)."""
    size = stacked(b).norm(dim=1)
    return float(((stacked(a) - stacked(b)).norm(dim=1) / torch.where(size > 0, size, 1.0)).max())


def cast(A, dtype):
    callable_ = "Callable" in type(A).__name__
    return None if callable_ and dtype != F64 else A.to(dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_a_decomposition_is_one(name, dtype):
    """V is unitary, U isometric where s > 0 and absent elsewhere, A = U S V^H, A^H = V S U^H."""
    draw = Numbers(1)
    if (A := cast(ALL[name], dtype)) is None:
        pytest.skip("works in float64 only")
    rows, tol = A.batch or 3, tolerance(dtype)
    x, y = draw.signals(A, rows).to(kind_dtype(dtype, A.in_kind)), draw.data(A, rows).to(kind_dtype(dtype, A.out_kind))
    s = A.svd(like=x)
    c = coordinates(draw, s, rows, dtype)
    assert s.values.dtype == dtype and not s.values.is_complex() and bool((s.values >= 0).all())
    assert s.values.shape in (s.shape, (rows, *s.shape)) and s.batch in (None, A.batch)

    v = s.to_spectrum(x)
    assert v.shape == c.shape and v.dtype == c.dtype
    assert s.from_spectrum(c).dtype == x.dtype and s.from_spectrum(c).shape == x.shape
    assert far(s.from_spectrum(v), x) < tol and far(s.to_spectrum(s.from_spectrum(c)), c) < tol
    assert torch.allclose(stacked(v).norm(dim=1), stacked(x).norm(dim=1), rtol=tol)

    seen = (s.values > 0).expand(c.shape)
    u = s.data_to_spectrum(y)
    assert u.dtype == c.dtype and bool((u[~seen] == 0).all())
    assert s.data_from_spectrum(c).dtype == y.dtype and s.data_from_spectrum(c).shape == y.shape
    assert far(s.data_to_spectrum(s.data_from_spectrum(c)), torch.where(seen, c, 0)) < tol
    assert bool((stacked(u).norm(dim=1) <= stacked(y).norm(dim=1) * (1 + tol)).all())
    inner = ((stacked(u) * stacked(c)).sum(1), (stacked(y) * stacked(s.data_from_spectrum(c))).sum(1))
    assert bool(((inner[0] - inner[1]).abs() <= tol * stacked(y).norm(dim=1) * stacked(c).norm(dim=1)).all())

    size = stacked(x).norm(dim=1) * s.values.max()
    gap = stacked(A(x) - s.data_from_spectrum(s.values * v)).norm(dim=1)
    assert bool((gap <= tol * size).all())
    back = stacked(A.adjoint(y) - s.from_spectrum(s.values * u)).norm(dim=1)
    assert bool((back <= tol * stacked(y).norm(dim=1) * s.values.max()).all())
    kept = stacked(A(x) - s.data_from_spectrum(s.data_to_spectrum(A(x)))).norm(dim=1)
    assert bool((kept <= tol * size).all())


@pytest.mark.parametrize("name", ALL)
def test_values_are_those_of_the_dense_matrix(name):
    """All of them, with their multiplicity: one for each real number of the signal; the null space is exact zeros."""
    draw = Numbers(1)
    A = ALL[name]
    s = A.svd(like=draw.randn(1))
    twice = 2 if s.kind == "complex" else 1
    matrices = dense_matrix(A, dtype=F64)
    matrices = matrices if A.batch is not None else matrices[None]
    for matrix, values in zip(matrices, s.values.expand(len(matrices), *s.shape), strict=True):
        want = torch.zeros(matrix.shape[1], dtype=F64)
        dense = torch.linalg.svdvals(matrix)
        want[: len(dense)] = dense
        got = values.flatten().repeat(twice).sort(descending=True).values
        assert torch.allclose(got, want, atol=1e-12 * max(1.0, float(want[0])))
        rank = int((dense > 1e-12 * dense.max().clamp_min(1e-300)).sum())
        assert int((got > 0).sum()) == rank


@pytest.mark.parametrize("name", [n for n, A in ALL.items() if A.batch is not None])
def test_items_are_taken_with_the_rows(name):
    draw = Numbers(1)
    A = ALL[name]
    index = torch.tensor([1, 0, 1])
    x, y = draw.signals(A, 3), draw.data(A, 3)
    whole, taken = A.svd(like=x).take(index), A.take(index).svd(like=x)
    assert whole.batch in (None, 3)
    assert torch.allclose(whole.values.expand(3, *whole.shape), taken.values.expand(3, *whole.shape), atol=1e-13)
    v = whole.to_spectrum(x)
    size = stacked(x).norm(dim=1) * whole.values.max()
    assert bool(
        (stacked(whole.data_from_spectrum(whole.values * v) - A.take(index)(x)).norm(dim=1) < 1e-13 * size).all()
    )
    assert far(whole.from_spectrum(whole.data_to_spectrum(y)), taken.from_spectrum(taken.data_to_spectrum(y))) < 1e-13
    assert far(whole.to_spectrum(x)[1:2], whole.take(torch.tensor([1])).to_spectrum(x[1:2])) < 1e-13


@pytest.mark.parametrize(
    "name", ["blur periodic", "mri real", "downsample mean", "mask", "matrix items", "mri one coil"]
)
def test_the_pseudo_inverse_and_the_normal_equations_in_coordinates(name):
    draw = Numbers(1)
    A = ALL[name]
    rows = A.batch or 2
    x, y = draw.signals(A, rows), draw.data(A, rows)
    s = A.svd(like=x)
    inverse = torch.where(s.values > 0, 1 / s.values, 0.0)
    assert far(s.from_spectrum(inverse * s.data_to_spectrum(y)), A.pinv(y, rtol=1e-14, max_iter=5000)) < 1e-9
    solved = s.from_spectrum(s.to_spectrum(x) / (s.values**2 + 0.3))
    assert far(solved, A.solve_normal(x, tau=0.3, rtol=1e-14, max_iter=2000)) < 1e-9


def test_closed_forms_need_no_matrix():
    """A megapixel, in a second: nothing of the square of the size is built."""
    draw = Numbers(1)
    shape = (1024, 1024)
    seen = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    for A in (
        ops.Mask(mask=seen),
        ops.Subsample(index=torch.arange(0, 1024**2, 7), in_shape=shape),
        ops.GaussianBlur(std=1.5, in_shape=shape),
        ops.Downsample(factor=4, in_shape=shape),
        ops.MRI(in_shape=shape, mask=seen),
        ops.MRI(in_shape=shape, mask=seen, in_kind="real"),
        -2.0 * ops.Mask(mask=seen),
    ):
        x = draw.signals(A, 1).to(kind_dtype(torch.float32, A.in_kind))
        s = A.svd()
        assert far(s.data_from_spectrum(s.values * s.to_spectrum(x)), A(x)) < tolerance(torch.float32)


def test_white_noise_stays_white():
    """Of the same std per real component, for signals and for data: the moments of many draws, at five standard errors."""
    A = ops.Blur(kernel=torch.tensor([0.5, 0.3, 0.1]), in_shape=(6,))
    s, n = A.svd(), 20_000
    z = torch.randn(n, 6, generator=torch.Generator().manual_seed(0))
    for c in (s.to_spectrum(z), s.data_to_spectrum(z), s.from_spectrum(z)):
        cov = c.T @ c / n
        assert float((cov - torch.eye(6)).abs().max()) < 5 * (2 / n) ** 0.5


def test_the_parts_keep_the_contract():
    draw = Numbers(1)
    phase = torch.fft.fftn(draw.randn(2, 4, 5), dim=(1, 2))
    for part in (
        Diagonal(values=draw.randn(2, 3), in_shape=(3,), kind="complex"),
        RealMatrix(matrix=draw.randn(4, 6), in_shape=(3,), in_kind="complex"),
        RealMatrix(matrix=draw.randn(2, 4, 6), in_shape=(2, 3), in_kind="real"),
        Harmonics(in_shape=(4, 5)),
        Harmonics(in_shape=(4, 5), phase=phase / phase.abs()),
        Harmonics(in_shape=(4, 5), phase=phase / phase.abs(), kind="complex"),
        ops.Downsample(factor=2, in_shape=(5, 4)).svd().signal_basis,
    ):
        assert iv.testing.check_operator(part).passed


def test_what_a_decomposition_costs_and_says():
    draw = Numbers(1)
    A = ops.Mask(mask=draw.mask(2, 3, 4), in_shape=(3, 4))
    s, x = A.svd(), torch.zeros(2, 3, 4)
    with tally() as calls:
        s.from_spectrum(s.to_spectrum(x))
        s.data_from_spectrum(s.data_to_spectrum(x))
    assert calls == {"spectral": 8}
    assert repr(s) == "Spectrum((3, 4) -> (3, 4), real, torch.float32, 2 items)"
    assert s.data_basis.batch == 2 and s.signal_basis.batch is None


BIG = ops.Blur(kernel=torch.ones(3, 3), in_shape=(70, 70), boundary="zero")
HALF = ops.Mask(mask=torch.tensor([[True, False, True], [True, True, False]]), in_shape=(3,)).svd()
REFUSED = {
    "too large": (BIG.svd, "Blur.svd: no closed form is known.*up to 4096 unknowns.*got 4900 unknowns and 4900 data"),
    "too many items": (
        lambda: ops.Blur(kernel=torch.ones(200, 3), in_shape=(500,), boundary="zero").svd(),
        r"got 500 unknowns and 500 data of 200 item\(s\)",
    ),
    "rows": (lambda: HALF.data_to_spectrum(torch.ones(3, 3)), "`y` must be of 2 rows, one for each item, got 3"),
    "kind": (lambda: HALF.from_spectrum(torch.ones(2, 3, dtype=torch.complex64)), "`c` must be real"),
    "shape": (lambda: HALF.data_from_spectrum(torch.ones(2, 4)), r"`c` must be of shape \(batch, 3\)"),
    "values a list": (
        lambda: Spectrum(values=[1.0], signal_basis=HALF.signal_basis, data_basis=HALF.data_basis),
        "`values` must be a real floating tensor, got list",
    ),
    "values shape": (
        lambda: Spectrum(values=torch.ones(4), signal_basis=HALF.signal_basis, data_basis=HALF.data_basis),
        r"`values` must be of shape \(3,\)",
    ),
    "values negative": (
        lambda: Spectrum(values=-torch.ones(3), signal_basis=HALF.signal_basis, data_basis=HALF.data_basis),
        "`values` must be non-negative, got -1.0",
    ),
    "values NaN": (
        lambda: Spectrum(
            values=torch.full((3,), torch.nan), signal_basis=HALF.signal_basis, data_basis=HALF.data_basis
        ),
        "`values` must be non-negative",
    ),
    "bases": (
        lambda: Spectrum(
            values=torch.ones(3),
            signal_basis=HALF.signal_basis,
            data_basis=ops.Mask(mask=torch.ones(4, dtype=torch.bool)),
        ),
        r"`data_basis` must be to coordinates of shape and kind \(\(3,\), 'real'\)",
    ),
    "no basis": (
        lambda: Spectrum(values=torch.ones(3), signal_basis=torch.eye(3), data_basis=HALF.data_basis),
        "`signal_basis` must be a LinearOperator",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        call()
