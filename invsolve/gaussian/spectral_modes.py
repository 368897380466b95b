"""The modes of an orthonormal transform, with white or coloured diffusion noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.transforms import Transform
from invsolve.core.validation import Shape
from invsolve.gaussian.law import Modes


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralModes(Modes):
    """``S = T^-1 diag(colour)``: an orthonormal transform T, and the std of the diffusion noise in its coefficients.

    ``colour`` ``(*shape)`` > 0; None for white noise, when S is orthonormal.
    """

    transform: Transform
    colour: Tensor | None = None

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return self.transform.shape

    @property
    def mode_shape(self) -> Shape:  # type: ignore[override]
        return self.transform.shape

    def synthesis(self, u: Tensor) -> Tensor:
        return self.transform.inverse(u if self.colour is None else self.colour * u)

    def adjoint(self, x: Tensor) -> Tensor:
        u = self.transform.forward(x)
        return u if self.colour is None else self.colour * u

    def analysis(self, x: Tensor) -> Tensor:
        u = self.transform.forward(x)
        return u if self.colour is None else u / self.colour

    def analysis_adjoint(self, u: Tensor) -> Tensor:
        """``S^-H u``."""
        return self.transform.inverse(u if self.colour is None else u / self.colour)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        colour = None if self.colour is None else self.colour.to(device=device, dtype=dtype)
        return replace(self, transform=self.transform.to(device, dtype), colour=colour)

    def marginal_variances(self, variances: Tensor) -> Tensor:
        if self.colour is None:
            return self.transform.squared_inverse(variances)
        power = self.colour**2
        return self.transform.squared_inverse(power * variances) / self.transform.squared_inverse(power)

    def mean_square(self, variances: Tensor) -> Tensor:
        return (variances if self.colour is None else self.colour**2 * variances).flatten(1).mean(1)

    def odd(self) -> list[Tensor]:
        """For every axis which modes ``(*shape)`` are odd about the middle of the box (periodic: about its start).

        Empty for bases without that symmetry.
        """
        found = []
        for axis, n in enumerate(self.shape):
            index = torch.arange(n, device="cpu")
            if self.transform.name in ("cosine", "sine"):
                odd = index % 2 == 1
            elif self.transform.name == "fourier":  # 1, cos 1, sin 1, cos 2, ...
                odd = (index % 2 == 0) & (index > 0)
            else:
                return []
            found.append(odd.view(-1, *([1] * (len(self.shape) - axis - 1))).expand(self.shape))
        return found

    @property
    def log_det(self) -> float:
        return 0.0 if self.colour is None else float(self.colour.double().log().sum())

    @property
    def orthonormal(self) -> bool:
        return self.colour is None
