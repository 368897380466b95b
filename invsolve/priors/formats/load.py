"""Reading a prior from any file that is known: ours, and other people's weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from invsolve.core.torch_state import for_new_weights, in_defined_state
from invsolve.core.validation import Kind
from invsolve.errors import invalid
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.formats.base import Layout
from invsolve.priors.learned.files import is_own, path_of, read_own
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.learned.parameterization import Prediction

# mm: fields of view of 215 to 262 mm on 128 pixels, of files that were made before cards said so.
_VOXELS = {"head-mr-128": [1.68, 2.05], "head-ct-128": [1.68, 2.05]}


@in_defined_state
@for_new_weights()
def load(
    name: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    layout: Layout | None = None,
    shape: Sequence[int] | None = None,
    kind: Kind | None = None,
    prediction: Prediction | None = None,
    offset: Tensor | float | None = None,
    unit: float | None = None,
    sigma_range: tuple[float, float] | None = None,
    mean: Tensor | float | None = None,
    scale: float | None = None,
    detail: float | None = None,
    law: GaussianLaw | None = None,
) -> NetworkPrior:
    """Read a prior: a file of `save_prior`, one that ships by its name (`shipped`), or other people's weights.

    Of others, safetensors files, those of ``torch.save`` and folders of diffusers are read, in the layouts of
    `invsolve.priors.formats`: NVlabs' EDM and InverseBench, guided-diffusion (ADM), UNet2DModel of diffusers (which
    needs the package diffusers). Architecture, every key and every shape are checked; averaged weights are taken before
    others; all is computed in float32 unless moved. No code of a file is ever run.

    What such files do not say is stated here, in the units of the signal, as for `from_network`. With a file of our own
    everything but ``device`` must be left out.

    Parameters
    ----------
    name : str or PathLike
        A file, a folder, or the name of a prior that ships.
    device : torch.device or str
        Where the prior is put.
    layout : Layout, optional
        `EDMLayout`, `ADMLayout` or `DiffusersLayout`, where the names of the tensors, by which it is found, do not
        suffice.
    shape : sequence of int, optional
        Of the signals; unless given, at the resolution that the file names.
    kind : {"real", "complex"}, optional
        ``"complex"`` for two channels that are real and imaginary part; "real" unless given.
    prediction : Prediction, optional
        What the network predicts; unless given, what the layout or the scheduler says.
    offset : float or Tensor, shape (*shape), optional
        The network was trained on ``(x - offset) / unit``; 0 unless given.
    unit : float, optional
        See ``offset``; > 0, 1 unless given: the values that the network was trained on.
    sigma_range : tuple of float, optional
        Lowest and highest noise level of training; unless given, those usual for the prediction.
    mean : float or Tensor, shape (*shape), optional
        The mean signal; the offset unless given.
    scale : float, optional
        The largest standard deviation of any direction, > 0, as for `from_network`.
    detail : float, optional
        The smallest standard deviation that samples must show, > 0, as for `from_network`.
    law : GaussianLaw, optional
        A Gaussian distribution with about the mean and covariance of the signals.

    Returns
    -------
    NetworkPrior
        Its ``card`` says what it was trained on, or the file and layout that it comes from.

    Raises
    ------
    FileError
        Naming what is wrong with a file, or the package that it needs.
    InputError, InputTypeError
        If what was stated does not fit, is missing (``shape``, ``prediction``), or is stated for a file of our own.

    Examples
    --------
    >>> import invsolve as iv
    >>> iv.priors.load("head-mr-128").shape
    (128, 128)
    """
    path = path_of(name)
    from invsolve.priors.formats.detect import Stated, load_foreign  # networks of others, where they are asked for

    stated = Stated(
        layout=layout,
        shape=shape,
        kind=kind,
        prediction=prediction,
        offset=offset,
        unit=unit,
        sigma_range=sigma_range,
        mean=mean,
        scale=scale,
        detail=detail,
        law=law,
    )
    if Path(path).is_dir() or not is_own(path):
        return load_foreign(path, stated).to(device)
    if stated.given:
        raise invalid("load", stated.given[0], "left out: the file states it", repr(getattr(stated, stated.given[0])))
    prior = read_own(path)
    if name in _VOXELS and "voxel size" not in prior.card:
        prior = replace(prior, card={**prior.card, "voxel size": _VOXELS[str(name)]})
    return prior.to(device)
