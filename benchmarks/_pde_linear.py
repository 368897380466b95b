"""Poisson and Helmholtz problems of the literature, and their posteriors in closed form by plain linear algebra.

The field f has the spectrum ``9 (k^2 + 9)^-2`` (cosines of the unit square, no mean) on n x n nodes; u solves ``Laplace u
+ k^2 u = f`` by the five-point formula, 0 on the nodes of the boundary, k = 0 or 1. Of u ("inverse") or f ("forward")
500 random nodes are seen, the same for all items; what is asked is the other one. Helmholtz has f = 0 on the boundary,
which the prior is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

import invsolve as iv
from invsolve.core.transforms import Transform
from invsolve.priors.fields.bases import laplace_eigenvalues

D = torch.float64
SENSORS = 500
_known: dict[tuple[str, str, int, float | None], Tensor] = {}
WAVENUMBER = {"poisson": 0.0, "helmholtz": 1.0}


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearCase:
    """One equation and direction, ``items`` fields, seen through one set of sensors."""

    equation: str
    direction: str  # "inverse": u is seen, f asked; "forward": f is seen, u asked
    noise: float  # relative to the root mean square of the clean data
    n: int = 128
    items: int = 4
    seed: int = 0
    dtype: torch.dtype = D

    @property
    def name(self) -> str:
        return f"{self.equation} {self.direction}"

    # --- the equation -------------------------------------------------------------------------------------------------
    @cached_property
    def _inside(self) -> Transform:
        return Transform(name="sine", shape=(self.n - 2,) * 2, dtype=self.dtype)

    @cached_property
    def _symbol(self) -> Tensor:
        j = torch.arange(1, self.n - 1, dtype=D)
        h = 1 / (self.n - 1)
        one = 4 / h**2 * torch.sin(math.pi * h * j / 2).square()
        return (WAVENUMBER[self.equation] ** 2 - one[:, None] - one).to(self.dtype)

    def solve(self, f: Tensor) -> Tensor:
        """U of f, both ``(rows, n, n)``; symmetric."""
        inner = self._inside
        u = inner.inverse(inner.forward(f[:, 1:-1, 1:-1].contiguous()) / self._symbol)
        return torch.nn.functional.pad(u, (1, 1, 1, 1))

    def source(self, x: Tensor) -> Tensor:
        """F of the random field x."""
        if self.equation == "poisson":
            return x
        return torch.nn.functional.pad(x[:, 1:-1, 1:-1], (1, 1, 1, 1))

    def seen(self, x: Tensor) -> Tensor:
        """The field of which there are data."""
        return self.solve(x) if self.direction == "inverse" else self.source(x)

    def asked(self, x: Tensor) -> Tensor:
        """The field that is asked for; this map and `seen` are symmetric."""
        return self.source(x) if self.direction == "inverse" else self.solve(x)

    # --- the problem --------------------------------------------------------------------------------------------------
    @cached_property
    def sensors(self) -> Tensor:
        g = torch.Generator().manual_seed(1000 + self.seed)
        return torch.randperm(self.n**2, generator=g)[:SENSORS]

    @cached_property
    def operator(self) -> iv.operators.Operator:
        shape, at = (self.n, self.n), self.sensors

        def spread(y: Tensor) -> Tensor:
            field = torch.zeros(len(y), self.n**2, dtype=y.dtype)
            field[:, at] = y
            return self.seen(field.view(-1, *shape))

        return iv.operators.from_callable(
            lambda x: self.seen(x).flatten(1)[:, at],
            shape,
            (len(at),),
            kind="linear",
            adjoint=spread,
            dtype=self.dtype,
        )

    @cached_property
    def prior(self) -> iv.priors.GaussianFieldPrior:
        return field_prior(self.n, 3.0, self.dtype)

    @cached_property
    def truth(self) -> Tensor:
        """The random fields ``(items, n, n)``, float64."""
        return field_prior(self.n, 3.0, D).sample(self.items, seed=self.seed).to(self.dtype)

    @cached_property
    def data(self) -> Tensor:
        clean = self.operator(self.truth)
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.seed), dtype=D)
        return clean + (self.std * noise).to(clean.dtype)

    @cached_property
    def std(self) -> float:
        clean = self.operator(self.truth).double()
        return self.noise * float(clean.square().mean().sqrt())

    # --- the answer ---------------------------------------------------------------------------------------------------
    def exact(self, kappa: float | None = 3.0) -> tuple[Tensor, Tensor]:
        """Mean ``(items, n, n)`` and std ``(n, n)`` of what is asked, under a field of this kappa (None: white)."""
        one = self if self.dtype == D else LinearCase(**(vars_of(self) | {"dtype": D}))
        eye = torch.zeros(SENSORS, self.n**2, dtype=D)
        eye[torch.arange(SENSORS), self.sensors] = 1.0
        rows = one.seen(eye.view(-1, self.n, self.n))  # A, a field for each datum
        cover = covariance(self.n, kappa)
        crossed = cover(rows)
        gram = rows.flatten(1) @ crossed.flatten(1).mT
        chol = torch.linalg.cholesky(gram + self.std**2 * torch.eye(SENSORS, dtype=D))
        crossed = one.asked(crossed)
        weights = torch.cholesky_solve(self.data.double().mT, chol).mT
        mean = torch.einsum("bm,mij->bij", weights, crossed)
        gained = torch.linalg.solve_triangular(chol, crossed.flatten(1), upper=False).square().sum(0)
        left = (one._variances(kappa) - gained.view(self.n, self.n)).clamp_min(0)
        return mean, left.sqrt()

    def _variances(self, kappa: float | None) -> Tensor:
        """Of the entries of what is asked, before the data."""
        key = (self.equation, self.direction, self.n, kappa)
        if key not in _known:
            _known[key] = self._formed_variances(kappa)
        return _known[key]

    def _formed_variances(self, kappa: float | None) -> Tensor:
        root, total = covariance(self.n, kappa, root=True), torch.zeros(self.n, self.n, dtype=D)
        for i in range(0, self.n**2, 512):
            count = min(512, self.n**2 - i)
            unit = torch.zeros(count, self.n**2, dtype=D)
            unit[torch.arange(count), torch.arange(i, i + count)] = 1.0
            total += self.asked(root(unit.view(-1, self.n, self.n))).square().sum(0)
        return total


def vars_of(case: LinearCase) -> dict[str, object]:
    return {name: getattr(case, name) for name in ("equation", "direction", "noise", "n", "items", "seed", "dtype")}


def field_prior(n: int, kappa: float, dtype: torch.dtype = D) -> iv.priors.GaussianFieldPrior:
    """``kappa^2 (k^2 + kappa^2)^-2`` without its mean; diffusion noise that is a rougher field of mean variance 1."""
    size = float((laplace_eigenvalues("neumann", (512, 512), (1.0, 1.0)) + 100).pow(-1.5).sum())
    return iv.priors.GaussianFieldPrior(
        (n, n),
        iv.priors.Spectrum(lambda k2: torch.where(k2 > 0, kappa**2 * (k2 + kappa**2) ** -2.0, 0.0)),
        noise_spectrum=iv.priors.Spectrum(lambda k2: (k2 + 100) ** -1.5 / size),
        dtype=dtype,
    )


def covariance(n: int, kappa: float | None, *, root: bool = False):  # type: ignore[no-untyped-def]
    """The map ``C`` (or, of coefficients, ``C^1/2``) on fields ``(rows, n, n)``, of `field_prior` or white."""
    transform = Transform(name="cosine", shape=(n, n), dtype=D)
    k2 = laplace_eigenvalues("neumann", (n, n), (1.0, 1.0))
    if kappa is None:
        v = torch.full_like(k2, 0.292**2)
    else:
        v = n**2 * torch.where(k2 > 0, kappa**2 * (k2 + kappa**2) ** -2.0, 0.0)
    if root:
        return lambda u: transform.inverse(v.sqrt() * u)
    return lambda x: transform.inverse(v * transform.forward(x))
