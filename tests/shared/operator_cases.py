"""Small operators of every kind, and what compares them with dense matrices."""

from __future__ import annotations

import itertools

import scipy.sparse
import torch
from torch import Tensor

import invsolve as iv
from invsolve.operators.mri import radial

ops = iv.operators
F64, COMPLEX = torch.float64, torch.complex128
KINDS = {"real": F64, "complex": COMPLEX}


class Numbers:
    """Random values of one test or one table: every call has a generator of its own, of this seed and the call's number.

    Calls of equal shape differ, and no test's values depend on which tests ran before it.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._calls = seed, itertools.count()

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(1000 * self._seed + next(self._calls))

    def randn(self, *shape: int, dtype: torch.dtype = F64) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=self._generator())

    def rand(self, *shape: int, dtype: torch.dtype = F64) -> Tensor:
        return torch.rand(*shape, dtype=dtype, generator=self._generator())

    def mask(self, *shape: int) -> Tensor:
        return self.rand(*shape) < 0.6

    def signals(self, A: iv.operators.Operator, rows: int) -> Tensor:
        return self.randn(rows, *A.in_shape, dtype=KINDS[A.in_kind])

    def data(self, A: iv.operators.Operator, rows: int) -> Tensor:
        return self.randn(rows, *A.out_shape, dtype=KINDS[A.out_kind])


def turn(*shape: int) -> Tensor:
    """Angles that are spread evenly over half a turn."""
    n = torch.Size(shape).numel()
    return torch.pi * torch.arange(n, dtype=F64).view(shape) / n


def pinv_error(matrix: Tensor, normal_rtol: float = 0.0) -> float:
    """What rounding allows the normal equations: eps times the square of the condition number, with a factor of 10.

    ``normal_rtol``: what the normal map may be off by, which counts the same.
    """
    values = torch.linalg.svdvals(matrix)
    kept = values[values > 1e-9 * values.max()]
    return 1e-9 + (10 * torch.finfo(F64).eps + normal_rtol) * float(kept.max() / kept.min()) ** 2


def stacked(x: Tensor) -> Tensor:
    """``(rows, ...)`` -> ``(rows, n)`` real, complex as [Re; Im]."""
    x = x.flatten(1)
    return torch.cat([x.real, x.imag], 1) if x.is_complex() else x


def _cases(draw: Numbers) -> dict[str, iv.operators.LinearOperator]:
    return {
        "matrix": ops.Matrix(matrix=draw.randn(3, 5)),
        "matrix items": ops.Matrix(matrix=draw.randn(2, 3, 5)),
        "matrix complex": ops.Matrix(matrix=draw.randn(3, 5, dtype=COMPLEX)),
        "matrix complex of real": ops.Matrix(matrix=draw.randn(3, 5, dtype=COMPLEX), in_kind="real"),
        "matrix real of complex": ops.Matrix(matrix=draw.randn(3, 5), in_kind="complex"),
        "identity": ops.Identity((4, 5)),
        "identity complex": ops.Identity((3,), kind="complex"),
        "mask": ops.Mask(mask=draw.mask(4, 5)),
        "mask items complex": ops.Mask(mask=draw.mask(2, 4, 5), in_shape=(4, 5), kind="complex"),
        "subsample": ops.Subsample(index=torch.tensor([0, 7, 7, 19]), in_shape=(4, 5)),
        "subsample items": ops.Subsample(index=torch.tensor([[0, 7], [3, 2]]), in_shape=(4, 5), kind="complex"),
        "blur periodic": ops.Blur(kernel=draw.randn(3, 4), in_shape=(8, 9)),
        "blur longer than the signal": ops.Blur(kernel=draw.randn(11), in_shape=(7,)),
        "blur zero": ops.Blur(kernel=draw.randn(4, 3), in_shape=(7, 8), boundary="zero"),
        "blur reflect": ops.Blur(kernel=draw.randn(5, 4), in_shape=(7, 8), boundary="reflect"),
        "blur symmetric": ops.Blur(kernel=draw.randn(5, 4), in_shape=(7, 2), boundary="symmetric"),
        "blur mirror of one": ops.Blur(kernel=draw.randn(1, 3), in_shape=(4, 1), boundary="symmetric"),
        "blur valid": ops.Blur(kernel=draw.randn(3, 4), in_shape=(7, 8), boundary="valid"),
        "blur items": ops.Blur(kernel=draw.randn(2, 3, 3), in_shape=(6, 5), boundary="zero"),
        "blur complex": ops.Blur(
            kernel=draw.randn(3, 3, dtype=COMPLEX), in_shape=(6, 5), kind="complex", boundary="reflect"
        ),
        "blur 3-d": ops.Blur(kernel=draw.randn(2, 1, 3), in_shape=(4, 3, 5), boundary="zero"),
        "gaussian blur": ops.GaussianBlur(std=0.7, in_shape=(9, 8), boundary="reflect").to(dtype=F64),
        "downsample mean": ops.Downsample(factor=2, in_shape=(6, 7)),
        "downsample pick": ops.Downsample(factor=(2, 3), offset=(1, 0), in_shape=(6, 8), method="pick", kind="complex"),
        "mri one coil": ops.MRI(in_shape=(8, 7), mask=draw.mask(8, 7)),
        "mri columns": ops.MRI(in_shape=(6, 8), mask=draw.mask(1, 8), maps=draw.randn(3, 6, 8, dtype=COMPLEX)),
        "mri real": ops.MRI(in_shape=(7, 6), mask=draw.mask(7, 6), in_kind="real"),
        "mri items": ops.MRI(in_shape=(6, 5), mask=draw.mask(2, 6, 5), maps=draw.randn(2, 3, 6, 5, dtype=COMPLEX)),
        "mri 3-d": ops.MRI(in_shape=(4, 3, 5), mask=draw.mask(4, 3, 5), maps=draw.randn(2, 4, 3, 5, dtype=COMPLEX)),
        "soft sense": ops.SoftSense(draw.mask(1, 5), (2, 4, 5), maps=draw.randn(2, 3, 4, 5, dtype=COMPLEX)),
        "soft sense items": ops.SoftSense(
            draw.mask(2, 3, 4), (2, 3, 4), maps=draw.randn(2, 2, 3, 3, 4, dtype=COMPLEX), in_kind="real"
        ),
        "soft sense 3-d": ops.SoftSense(
            draw.mask(1, 3, 2), (1, 2, 3, 2), maps=draw.randn(1, 2, 2, 3, 2, dtype=COMPLEX)
        ),
        "frames of one coil": ops.Frames(ops.MRI(draw.mask(3, 4, 5), (4, 5))),
        "frames of coils": ops.Frames(ops.MRI(draw.mask(2, 1, 4), (3, 4), maps=draw.randn(2, 3, 4, dtype=COMPLEX))),
        "frames alike": ops.Frames(ops.Blur(kernel=draw.randn(3), in_shape=(5,), boundary="zero"), frames=3),
        "super-resolution": ops.SuperResolution(draw.randn(3, 4), (2, 3), (6, 9), offset=(1, 2)),
        "super-resolution items": ops.SuperResolution(draw.randn(2, 3, 2), 2, (4, 6), method="mean"),
        "super-resolution complex": ops.SuperResolution(draw.randn(5, dtype=COMPLEX), 3, (9,), kind="complex"),
        "mosaic": ops.Mosaic((3, 4, 5), pattern="GRBG"),
        "ptychography": ops.Ptychography(
            draw.randn(3, 2, dtype=COMPLEX), torch.tensor([[0, 0], [1, 1], [1, 2], [0, 3]]), (4, 5)
        ),
        "ptychography of real, items": ops.Ptychography(
            draw.randn(2, 2, 2, dtype=COMPLEX), torch.tensor([[0, 0], [1, 1]]), (3, 4), in_kind="real"
        ),
        "visibilities": ops.Visibilities(60 * draw.randn(7, 2), (4, 5), pixel_size=0.003),
        "visibilities items": ops.Visibilities(60 * draw.randn(2, 7, 2), (3, 2), pixel_size=0.003, in_kind="complex"),
        "random signs, hadamard": ops.StructuredRandom.draw((4, 4), 7, dtype=F64),
        "random signs, cosine": ops.StructuredRandom.draw((3, 5), 8, transform="cosine", dtype=F64),
        "random signs, fourier": ops.StructuredRandom.draw((3, 2), 4, transform="fourier", dtype=F64),
        "varying blur": ops.VaryingBlur(draw.randn(3, 2, 3), draw.randn(3, 5, 6)),
        "varying blur zero": ops.VaryingBlur(draw.randn(2, 3, 2), draw.randn(2, 5, 4), boundary="zero"),
        "varying blur reflect": ops.VaryingBlur(
            draw.randn(2, 3, dtype=COMPLEX), draw.randn(2, 6), boundary="reflect", kind="complex"
        ),
        "varying blur valid": ops.VaryingBlur.tiled(draw.randn(2, 3, 3, 2), (6, 5), boundary="valid"),
        "sparse": ops.from_scipy(
            scipy.sparse.random(6, 20, density=0.3, random_state=0, format="csr"), in_shape=(4, 5)
        ),
        "sparse real of complex": ops.from_scipy(
            scipy.sparse.random(6, 20, density=0.3, random_state=1, format="csr"), in_shape=(4, 5), in_kind="complex"
        ),
        "sparse complex of real": ops.from_scipy(
            scipy.sparse.random(6, 20, density=0.3, random_state=2, format="csr") * (1 + 2j),
            in_shape=(4, 5),
            in_kind="real",
        ),
        "blur by a number": ops.Blur(kernel=draw.randn(1, 1), in_shape=(3, 4), boundary="zero"),
        "parallel beam": ops.ParallelBeam(turn(4), (5, 5), bin_size=0.8, detector_offset=0.1),
        "parallel beam items": ops.ParallelBeam(turn(2, 3), (3, 4), bins=5, pixel_size=(0.7, 1.1), center=(0.2, -0.3)),
        "parallel beam complex": ops.ParallelBeam(turn(3), (1, 4), kind="complex", backend="on the fly"),
        "fan beam": ops.FanBeam(2 * turn(8), (4, 4), source_to_center=9.0, source_to_detector=15.0),
        "fan beam curved": ops.FanBeam(
            turn(3), (4, 3), bins=6, source_to_center=8.0, source_to_detector=12.0, detector="curved"
        ),
        "parallel beam by lengths": ops.ParallelBeam(turn(4), (4, 5), weights="siddon"),
        "cone beam": ops.ConeBeam(
            turn(3), (2, 3, 2), rows=3, bins=2, pitch=1.0, source_to_center=8.0, source_to_detector=9.0
        ),
        "cone beam items": ops.ConeBeam(
            turn(2, 3), (1, 3, 2), rows=2, bins=3, backend="on the fly", source_to_center=8.0, source_to_detector=9.0
        ),
        "vector beam complex": ops.VectorBeam(
            direction=draw.randn(2, 2),
            detector_center=draw.randn(2, 2),
            u=draw.randn(2, 2),
            in_shape=(3, 4),
            bins=4,
            kind="complex",
            weights="siddon",
            backend="on the fly",
        ),
        "stack items": ops.Stack(
            operators=(
                ops.MRI(in_shape=(3, 4), mask=draw.mask(2, 3, 4), in_kind="real"),
                ops.Mask(mask=draw.mask(3, 4)),
                ops.Matrix(matrix=draw.randn(2, 2, 12)) @ ops.Subsample(index=torch.arange(12), in_shape=(3, 4)),
            ),
            names=("k-space", "pixels", "sums"),
        ),
        "stack": ops.Stack(
            operators=(
                ops.Matrix(matrix=draw.randn(3, 5)),
                ops.Matrix(matrix=draw.randn(2, 5, dtype=COMPLEX), in_kind="real"),
            )
        ),
        "stack complex": ops.Stack(
            operators=(
                ops.Matrix(matrix=draw.randn(3, 5, dtype=COMPLEX)),
                ops.Matrix(matrix=draw.randn(2, 5, dtype=COMPLEX)),
            )
        ),
        "callable": ops.from_callable(lambda x: x.cumsum(1), (5,), (5,), kind="linear", dtype=F64),
        "callable with adjoint": ops.from_callable(
            lambda x: x.cumsum(1), (5,), (5,), kind="linear", dtype=F64, adjoint=lambda y: y.flip(1).cumsum(1).flip(1)
        ),
        "composed": ops.Matrix(matrix=draw.randn(3, 5)) @ ops.Subsample(index=torch.arange(5), in_shape=(2, 4)),
        "scaled": 0.5 * ops.Matrix(matrix=draw.randn(3, 5)),
        "adjoint": ops.Matrix(matrix=draw.randn(3, 5, dtype=COMPLEX)).H,
        "sum": ops.Matrix(matrix=draw.randn(3, 5)) + ops.Matrix(matrix=draw.randn(3, 5)),
        "masked blur": ops.Mask(mask=draw.mask(2, 6, 5), in_shape=(6, 5))
        @ ops.Blur(kernel=draw.randn(3, 3), in_shape=(6, 5)),
        "diffraction": ops.Diffraction(in_shape=(3, 4)),
        "diffraction of real": ops.Diffraction(in_shape=(5,), codes=draw.randn(2, 5, dtype=COMPLEX), in_kind="real"),
        "diffraction items": ops.Diffraction(
            in_shape=(3, 2), codes=draw.randn(2, 3, 3, 2, dtype=COMPLEX), oversampling=1
        ),
        "radial mri": ops.NonCartesianMRI(radial(3, 5), (5, 4), maps=draw.randn(2, 5, 4, dtype=COMPLEX), tol=1e-11),
        "radial mri items": ops.NonCartesianMRI(
            torch.stack([radial(2, 4), radial(2, 4, first=0.3)]),
            (3, 4),
            maps=draw.randn(2, 1, 3, 4, dtype=COMPLEX),
            in_kind="real",
            tol=1e-11,
        ),
        "off resonance": ops.NonCartesianMRI(
            radial(3, 4),
            (4, 3),
            maps=draw.randn(2, 4, 3, dtype=COMPLEX),
            tol=1e-3,
            field_map=100 * draw.randn(4, 3),
            times=1e-3 * torch.arange(12),
        ),
    }


CASES = _cases(Numbers(0))
