"""The one or two obvious arguments of an operator by position, all others by keyword only."""

from __future__ import annotations

import inspect

import pytest
import torch

import invsolve as iv

ops = iv.operators
IDENTITY = ops.Matrix(torch.eye(3))
SEEN, EVEN = torch.tensor([True, False, True]), torch.full((3,), 1 / 3)
# Class -> its obvious arguments, and the others that it needs.
OBVIOUS = {
    ops.Matrix: ({"matrix": torch.eye(3)}, {}),
    ops.Mask: ({"mask": SEEN}, {}),
    ops.Subsample: ({"index": torch.tensor([0, 2]), "in_shape": (3,)}, {}),
    ops.Blur: ({"kernel": EVEN, "in_shape": (5,)}, {}),
    ops.GaussianBlur: ({"std": 1.5, "in_shape": (5,)}, {}),
    ops.Downsample: ({"factor": 2, "in_shape": (4,)}, {}),
    ops.MRI: ({"mask": SEEN, "in_shape": (2, 3)}, {}),
    ops.NonCartesianMRI: ({"trajectory": torch.tensor([[0.0, 1.0]]), "in_shape": (2, 3)}, {}),
    ops.ParallelBeam: ({"angles": torch.tensor([0.0, 1.0]), "in_shape": (2, 3)}, {}),
    ops.FanBeam: (
        {"angles": torch.tensor([0.0, 1.0]), "in_shape": (2, 3)},
        {"source_to_center": 9.0, "source_to_detector": 15.0},
    ),
    ops.ConeBeam: (
        {"angles": torch.tensor([0.0, 1.0]), "in_shape": (2, 2, 3)},
        {"source_to_center": 9.0, "source_to_detector": 15.0},
    ),
    ops.Diffraction: ({"in_shape": (3,)}, {}),
    ops.PhaseRetrieval: ({"operator": IDENTITY}, {}),
    ops.Saturation: ({"in_shape": (3,)}, {"high": 1.0, "softness": 0.1}),
    ops.NonlinearBlur: ({"blur": ops.Blur(EVEN, (5,))}, {"contrast": 1.0}),
    ops.Stack: ({"operators": (IDENTITY, IDENTITY)}, {}),
    ops.NonlinearStack: ({"operators": (IDENTITY, IDENTITY)}, {}),
}


@pytest.mark.parametrize("make", OBVIOUS, ids=lambda make: make.__name__)
def test_obvious_arguments_by_position_and_all_by_keyword(make):
    obvious, needed = OBVIOUS[make]
    assert make(*obvious.values(), **needed).fingerprint() == make(**obvious, **needed).fingerprint()
    kinds = {name: p.kind for name, p in inspect.signature(make).parameters.items()}
    assert [n for n, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == list(obvious)
    with pytest.raises(TypeError, match="positional argument"):
        make(*obvious.values(), "real", **needed)


def test_what_has_no_obvious_argument_wants_names():
    with pytest.raises(TypeError, match="positional argument"):
        ops.Sparse(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), in_shape=(1,), out_shape=(1,))
    with pytest.raises(TypeError, match="positional argument"):
        ops.Spectrum(torch.ones(3), IDENTITY, IDENTITY)
