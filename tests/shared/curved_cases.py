"""Small non-linear operators of every kind."""

from __future__ import annotations

import torch
from operator_cases import COMPLEX as C128
from operator_cases import Numbers
from torch import Tensor

import invsolve as iv

ops = iv.operators


def positive(draw: Numbers, *shape: int) -> Tensor:
    return draw.randn(*shape).abs() + 0.1


CODED = ops.Diffraction(in_shape=(3, 4), codes=ops.random_codes(2, (3, 4), dtype=C128))
MASKED = ops.Mask(mask=torch.arange(24).view(4, 6) % 5 > 0, kind="complex") @ ops.Diffraction(in_shape=(2, 3))


def _cases(draw: Numbers) -> dict[str, iv.operators.Operator]:
    return {
        "amplitude": ops.PhaseRetrieval(operator=ops.Matrix(matrix=draw.randn(6, 4, dtype=C128))),
        "intensity": ops.PhaseRetrieval(operator=ops.Matrix(matrix=draw.randn(6, 4, dtype=C128)), measure="intensity"),
        "amplitude of real": ops.PhaseRetrieval(operator=ops.Matrix(matrix=draw.randn(6, 4))),
        "intensity of real, items": ops.PhaseRetrieval(
            operator=ops.Matrix(matrix=draw.randn(2, 6, 4)), measure="intensity"
        ),
        "coded patterns": ops.PhaseRetrieval(operator=CODED),
        "missing pixels": ops.PhaseRetrieval(operator=MASKED),
        "ptychography": ops.PhaseRetrieval(
            operator=ops.Ptychography(draw.randn(2, 3, dtype=C128), torch.tensor([[0, 0], [1, 1], [2, 0]]), (4, 4)),
            measure="intensity",
        ),
        "real image": ops.PhaseRetrieval(
            operator=ops.Diffraction(in_shape=(3, 4), in_kind="real"), measure="intensity"
        ),
        "saturation": ops.Saturation(in_shape=(5,), low=-0.5, high=0.8, softness=0.2),
        "saturation above": ops.Saturation(in_shape=(2, 3), high=0.3, softness=0.1),
        "saturation below": ops.Saturation(in_shape=(2, 3), low=0.3, softness=0.1),
        "saturated blur": ops.Saturation(in_shape=(8,), high=0.3, softness=0.1)
        @ ops.Blur(kernel=positive(draw, 3), in_shape=(8,)),
        "nonlinear blur": ops.NonlinearBlur(blur=ops.Blur(kernel=positive(draw, 3, 3), in_shape=(5, 6)), contrast=1.5),
        "nonlinear blur items": ops.NonlinearBlur(
            blur=ops.Blur(kernel=positive(draw, 2, 3), in_shape=(6,), boundary="valid"), contrast=0.7
        ),
        "nonlinear blur reflect": ops.NonlinearBlur(
            blur=ops.Blur(kernel=positive(draw, 3, 2), in_shape=(4, 5), boundary="reflect"), contrast=1.0
        ),
    }


# Not 0: there an amplitude of the contract's signals is within a difference's step of 0, where it has a corner.
CASES = _cases(Numbers(2))
