"""Student's t as the distribution of coefficients: a mixture of normals over their precision, by quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import numbers
from invsolve.core.validation import check_number
from invsolve.errors import invalid, invalid_type
from invsolve.priors.exact.coefficients import ScaleMixture, check_parameters, scaled
from invsolve.priors.exact.interpolation import Table
from invsolve.priors.exact.quantiles import student_transport
from invsolve.priors.exact.scale_mixtures import TABLE_FROM, make_table, tabulated


@final
@dataclass(frozen=True, eq=False)
class Student(ScaleMixture):
    """Coefficients ``scale`` times Student's t; standard deviation ``scale sqrt(dof / (dof - 2))``.

    Parameters
    ----------
    scale : float or Tensor, shape (*shape)
        > 0, in the units of the signal; one for all coefficients or one each.
    dof : float
        Degrees of freedom, above 2 (the variance is infinite below) and at most 100.

    Raises
    ------
    InputError, InputTypeError
        If an argument is out of its range.

    Notes
    -----
    A normal distribution whose precision is Gamma distributed: the mixture over the logarithm of the precision, by the
    trapezoidal rule, which converges exponentially for it (to 1e-10 of the density, with 190 nodes at dof = 3 and 700
    at 100).
    """

    scale: float | Tensor
    dof: float

    def __post_init__(self) -> None:
        if isinstance(self.dof, Tensor) and self.dof.ndim:
            raise invalid_type("Student", "dof", "a number", self.dof)
        dof = check_number("Student", "dof", self.dof)
        if not 2 < dof <= 100:
            raise invalid("Student", "dof", "above 2 (the variance is infinite below) and at most 100", dof)
        check_parameters("Student", self)

    def parts(self, like: Tensor) -> tuple[Tensor, Tensor]:
        log_weights, variances = _student_nodes(self.dof)
        scale = torch.as_tensor(self.scale, dtype=like.dtype, device=like.device)
        view = (-1, *([1] * like.ndim))
        return (
            torch.as_tensor(log_weights, device=like.device).view(view),
            torch.as_tensor(variances, device=like.device).view(view) * scale**2,
        )

    def moments(self, u: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Everything depends on u / scale and sigma / scale alone: one table for every value of the latter. Not on a
        # GPU, where the look at sigma would wait for the device, and not where a graph is recorded.
        graph = torch.is_grad_enabled() and (u.requires_grad or sigma.requires_grad)
        if u.numel() < TABLE_FROM or u.device.type != "cpu" or sigma.numel() != 1 or graph:
            return super().moments(u, sigma)
        scale = numbers(self.scale, dtype=torch.float64)
        values, which = torch.unique(scale, return_inverse=True)
        if len(values) * TABLE_FROM > u.numel():
            return super().moments(u, sigma)
        tables = [_student_moments(self.dof, float(sigma) / float(value)) for value in values]
        if any(table is None for table in tables):
            return super().moments(u, sigma)
        which = which.expand(u.shape[1:])
        out = [torch.empty_like(u) for _ in range(3)]
        for k, (value, table) in enumerate(zip(values.tolist(), tables, strict=True)):
            assert table is not None
            here = (slice(None), which == k) if len(values) > 1 else ...
            log, mean, variance = tabulated(table, u[here] / value, float(sigma) / value)
            for full, part in zip(out, (log - math.log(value), value * mean, value**2 * variance), strict=True):
                full[here] = part
        return out[0], out[1], out[2]

    def log_prob(self, c: Tensor) -> Tensor:
        scale = torch.as_tensor(self.scale, dtype=c.dtype, device=c.device)
        dof = self.dof
        constant = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - 0.5 * math.log(math.pi * dof)
        return constant - torch.log(scale) - (dof + 1) / 2 * torch.log1p((c / scale) ** 2 / dof)

    def sample(self, z: Tensor, w: Tensor) -> Tensor:
        from scipy.stats import gamma  # the quantile of the precision, from a uniform number

        precision = gamma.ppf(torch.special.ndtr(w.double()).cpu().numpy(), self.dof / 2, scale=2 / self.dof)
        root = torch.as_tensor(precision, device=z.device).clamp_min(1e-300).rsqrt()
        return numbers(self.scale, dtype=torch.float64, device=z.device) * z * root.to(z.dtype)

    def transport(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return scaled(self.scale, *student_transport(z, self.dof))

    @property
    def variance(self) -> Tensor:
        return numbers(self.scale, dtype=torch.float64) ** 2 * self.dof / (self.dof - 2)


@cache
def _student_nodes(dof: float) -> tuple[Any, Any]:
    """Log weights and variances of the parts: precision p = exp(g), g on a grid.

    The density of g is ~ p^(dof/2) e^(-dof p / 2). The data narrow the distribution of g to a std of about
    sqrt(2 / (dof + 1)) around -2 ln|u|: nodes lie 0.45 of that apart, down to a precision of e^-46, where coefficients
    are 1e10 scales large.
    """
    half = dof / 2
    high = math.log(1 + 12 / math.sqrt(half) + 40 / half)
    g = np.arange(-2 * math.log(1e9) - 60 / (dof + 1), high, 0.45 * math.sqrt(1 / (half + 0.5)))
    log_density = half * (g - np.exp(g))
    log_density -= log_density.max()
    return log_density - math.log(np.exp(log_density).sum()), np.exp(-g)


@lru_cache(maxsize=64)
def _student_moments(dof: float, ratio: float) -> Table | None:
    log_weights, variances = (torch.from_numpy(v) for v in _student_nodes(dof))
    return make_table(log_weights, variances, ratio)
