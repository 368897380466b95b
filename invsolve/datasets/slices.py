"""Real images that are small enough to travel with the package; `datasets/t1-slice.md` is the card of the one here."""

from __future__ import annotations

import hashlib
from importlib import resources
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.datasets.continuum import check_real_dtype
from invsolve.errors import FileError

SHA256 = "ea62ca8946750d5da7489796f7d8b6116026ec895e8b5850a245d31d34543145"


@in_defined_state
def t1_slice(*, dtype: torch.dtype = torch.float32) -> Tensor:
    """A coronal T1-weighted slice of a human brain, values k/255 in [0, 1], top of the head in row 0.

    A magnitude image after brain extraction: the background is exactly 0. From dipy (BSD-3, the licence lies beside the
    file). It is here to test on: nothing in the package is tuned or fitted to it.

    Parameters
    ----------
    dtype : torch.dtype
        float32 or float64.

    Returns
    -------
    Tensor, shape (256, 256)
        Real.

    Raises
    ------
    FileError
        If the file is damaged.
    InputTypeError
        For another ``dtype``.
    """
    dtype = check_real_dtype("t1_slice", "dtype", dtype)
    grey = decoded((resources.files("invsolve.datasets") / "samples" / "t1_slice.npy").read_bytes())
    return (grey.double() / 255).to(dtype)


def decoded(content: bytes) -> Tensor:
    """The slice in the bytes of its file, integers 0 to 255. Raises FileError unless they are those that ship."""
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise FileError("t1_slice: the file t1_slice.npy of invsolve is damaged (wrong checksum). Reinstall it.")
    return torch.from_numpy(np.load(BytesIO(content), allow_pickle=False))
