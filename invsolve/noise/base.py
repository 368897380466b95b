"""What every noise model is: a distribution of the data given the clean measurement, its gradient and information."""

from __future__ import annotations

import abc
import math
from inspect import isfunction
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from invsolve.core.arrays import taking_arrays
from invsolve.core.ownership import Owner
from invsolve.core.random import DrawLike
from invsolve.core.torch_state import Defined
from invsolve.core.validation import Shape

_OF_DATA = ("y", "clean")
_VALUES = {  # the tensors that public methods take first
    **dict.fromkeys(("log_prob", "log_prob_each", "grad", "residual", "expansion", "gaussian_at"), _OF_DATA),
    "curvature": ("v", "clean"),
    "whiten": ("r",),
    "unwhiten_adjoint": ("r",),
    "apply_covariance": ("r",),
    "check_data": ("y",),
}
_LEAST = 1e-30  # information below which a datum says nothing: its Gaussian has a std of 1e15


class Noise(Defined, Owner, abc.ABC):
    """The distribution p(y | clean) of the data given the clean measurement ``A(x)``.

    Shapes: ``y`` and ``clean`` are ``(rows, *out_shape)``; ``observed`` (bool, broadcastable to y) says which data
    exist: others do not count. A model of your own gives the abstract methods; the others follow from them. Where the
    data are real and independent, `Entrywise` needs fewer.
    """

    _lends: ClassVar[tuple[str, ...]] = (
        "log_prob",
        "grad",
        "curvature",
        "sample",
        "check_data",
        "residual",
        "expansion",
        "gaussian_at",
    )

    per_item: bool = False  # True if a parameter differs from row to row

    def __init_subclass__(cls, **options: Any) -> None:
        for name, values in _VALUES.items():
            if isfunction(method := vars(cls).get(name)):
                setattr(cls, name, taking_arrays(method, values))
        super().__init_subclass__(**options)

    @abc.abstractmethod
    def log_prob(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        """Log p(y | clean), normalised, ``(rows,)``; minus infinity where the data are impossible."""

    @abc.abstractmethod
    def grad(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        """Gradient of -log p in ``clean``, shape of ``clean``."""

    @abc.abstractmethod
    def curvature(self, v: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        """``W v`` with W the Gauss-Newton weight (the Fisher information of ``clean``), shape of ``v``."""

    @abc.abstractmethod
    def sample(self, clean: Tensor, draw: DrawLike, *, step: int = 0, index: int = 0) -> Tensor:
        """Data drawn around ``clean`` ``(rows, *out_shape)``, by the keyed source ``draw``."""

    @abc.abstractmethod
    def check(self, out_shape: Shape, batch: int, dtype: torch.dtype, device: torch.device) -> Self:
        """The noise with its parameters checked against data, on their dtype and device.

        Parameters
        ----------
        out_shape : tuple of int
            The shape of one item's data.
        batch : int
            Items of the data ``(batch, *out_shape)``.
        dtype : torch.dtype
            Of the data.
        device : torch.device
            Of the data.

        Returns
        -------
        Noise

        Raises
        ------
        InputError, InputTypeError
            If a parameter does not fit the data.
        """

    @abc.abstractmethod
    def take(self, index: Tensor) -> Self:
        """The noise of the rows ``index``: parameters with an item axis are indexed."""

    def log_prob_each(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor | None:
        """Log p of every datum by itself, shape of ``y``, 0 if unobserved; None where they depend on each other."""
        return None

    def lower_limits(self, y: Tensor) -> Tensor | None:
        """Clean measurements below which data are impossible, broadcastable to ``y``; None: none is."""
        return None

    def check_data(self, y: Tensor, observed: Tensor | None = None) -> None:
        """Raise InputError where the observed data are impossible under this noise, whatever the signal."""
        return None

    def residual(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        """What is left of the data, of mean 0 and variance 1 if ``clean`` is right, shape of ``y``; 0 if unobserved.

        Unless a model has a better one it is the score over its std, ``-grad W^-1/2``: for Gaussian, Poisson and Gamma
        distributions that is ``(y - E[y]) / sd[y]``, up to its sign where data fall with ``clean``.
        """
        weight = self.curvature(torch.ones_like(clean), clean, observed).real
        return -self.grad(y, clean, observed) / weight.clamp_min(torch.finfo(weight.dtype).tiny).sqrt()

    def expansion(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where `gaussian_at` expands log p, and the information there: ``clean`` and the diagonal of W.

        Models say another point where ``clean`` is impossible, or so far from the data that a parabola from there would
        lead nowhere; and may prefer the curvature of -log p at y to its mean over y.
        """
        return clean, self.curvature(torch.ones_like(clean), clean, observed).real

    def gaussian_at(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Data and std ``(rows, *out_shape)`` of the Gaussian noise that stands for this one near ``clean``.

        At the point c of `expansion` its log density has the gradient of log p and the curvature -W: ``std = W^-1/2``
        and data ``c - W^-1 grad`` (Fisher scoring; McCullagh & Nelder 1989, section 2.5). Third: ``peak`` (rows,),
        float64, so that ``peak - |data - clean|^2 / (2 std^2)`` is log p itself at c.
        """
        point, weight = self.expansion(y, clean, observed)
        known = weight > _LEAST
        weight = weight.clamp_min(_LEAST)
        step = torch.where(known, -self.grad(y, point, observed) / weight, 0.0)
        height = (step.abs().square() * weight).flatten(1).sum(1, dtype=torch.float64)
        log = self.log_prob(y, point, observed).double()
        # Where log p itself overflows there is nothing to be relative to.
        return point + step, weight.rsqrt(), torch.where(log == -math.inf, -math.inf, log + 0.5 * height)


def spoken(noise: Noise, name: str, owner: str | None) -> tuple[str, str]:
    """Who an error about a parameter speaks as, and what it calls it: ``solve: noise.std``, or ``Gaussian: std``."""
    return (type(noise).__name__, name) if owner is None else (owner, f"noise.{name}")
