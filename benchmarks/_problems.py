"""Linear-Gaussian problems whose posterior is known exactly, as frozen objects in float64.

Every problem states an operator, data, a noise level and a Gaussian prior; mean and covariance of the posterior follow
in closed form. Scores are taken on *components*: the entries of a real signal, the real and then the imaginary parts
of a complex one. One problem may hold several data items, each with its own posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from invsolve.operators import MRI, LinearOperator, Mask, Matrix, Subsample
from invsolve.priors import GaussianPrior


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """``data = operator(x) + noise * N(0, I)`` with ``x ~ N(mean, covariance)``; float64 throughout.

    ``data`` ``(items, *out_shape)``; ``mean`` ``(*shape)``, real or complex; ``covariance`` ``(n, n)``, for complex
    signals that of the real and of the imaginary part each; ``noise`` is the std per real component.
    ``unit_interval``: the signal lives in [0, 1], the range that some samplers assume. ``unit``: the factor by which
    its units differ from the usual ones.
    """

    name: str
    text: str
    operator: LinearOperator
    data: Tensor
    noise: float
    mean: Tensor
    covariance: Tensor
    unit_interval: bool = False
    unit: float = 1.0
    samples: int = 4096  # drawn by the methods that are cheap enough
    peer_samples: int = 1024  # by peers of about 100 evaluations
    slow_samples: int = 256  # by peers of about 1000 evaluations

    @property
    def items(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mean.shape)

    @property
    def parts(self) -> int:
        """Real components per entry."""
        return 2 if self.mean.is_complex() else 1

    @property
    def size(self) -> int:
        """Components of the signal."""
        return self.parts * self.mean.numel()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the signal for peers that know images only; its entries are the components."""
        height, width = self.shape if len(self.shape) == 2 else (1, self.mean.numel())
        return self.parts, height, width

    @property
    def std(self) -> float:
        """Root mean prior variance of a component."""
        return math.sqrt(float(self.covariance.diagonal().mean()))

    @property
    def prior_mean(self) -> Tensor:
        """``(size,)``."""
        return components(self.mean[None], 1)[0]

    def prior(self, dtype: torch.dtype = torch.float32) -> GaussianPrior:
        """The prior as users state it."""
        return GaussianPrior(mean=self.mean, covariance=self.covariance).to(dtype=dtype)

    @cached_property
    def dense(self) -> list[tuple[Tensor, Tensor]]:
        """For every item the real matrix ``(m, size)`` of the data that exist, and those data ``(m,)``."""
        n, parts = self.mean.numel(), self.parts
        basis = torch.eye(n, dtype=torch.float64).view(n, *self.shape).to(self.mean.dtype)
        if parts == 2:
            basis = torch.cat([basis, 1j * basis])
        out = []
        for item in range(self.items):
            operator = self.operator
            if operator.batch is not None:
                operator = operator.take(torch.full((len(basis),), item))
            matrix = components(operator(basis), 1).mT
            y = components(self.data[item][None], 1)[0]
            seen = matrix.abs().amax(1) > 0  # entries that no signal reaches are not data
            out.append((matrix[seen], y[seen]))
        return out

    @cached_property
    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean ``(items, size)`` and covariance ``(items, size, size)``: ``K = C A^T (A C A^T + s^2 I)^-1``."""
        prior = torch.block_diag(*[self.covariance] * self.parts)
        means, covariances = [], []
        for matrix, y in self.dense:
            cross = prior @ matrix.mT
            gain = torch.linalg.solve(matrix @ cross + self.noise**2 * torch.eye(len(y), dtype=y.dtype), cross.mT).mT
            means.append(self.prior_mean + gain @ (y - matrix @ self.prior_mean))
            covariances.append(prior - gain @ cross.mT)
        return torch.stack(means), torch.stack(covariances)

    @property
    def posterior_std(self) -> Tensor:
        """``(items, size)``."""
        return self.posterior[1].diagonal(dim1=1, dim2=2).sqrt()

    def exact_draws(self, n: int, seed: int) -> Tensor:
        """``(n, items, size)`` independent draws of the posterior."""
        rng = torch.Generator().manual_seed(seed)
        mean, covariance = self.posterior
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp_min(0).sqrt()[:, None, :]
        z = torch.randn(self.items, n, self.size, generator=rng, dtype=torch.float64)
        return (mean[:, None] + z @ root.mT).transpose(0, 1)


def components(x: Tensor, lead: int) -> Tensor:
    """The real components of ``x`` (entries, or real then imaginary parts), its axes after ``lead`` flattened."""
    flat = x.flatten(lead)
    return torch.cat([flat.real, flat.imag], dim=-1) if flat.is_complex() else flat


def _distances(side: int) -> Tensor:
    """Distances in pixels between the pixels of a square image, ``(side^2, side^2)``."""
    axis = torch.arange(side, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    return torch.cdist(points, points)


def _field(name: str, text: str, *, mean: float, std: float) -> Case:
    """The 16x16 problems A and B: a smooth field of which about half of the pixels are seen, with noise 0.1."""
    rng, side = torch.Generator().manual_seed(0), 16
    correlation = torch.exp(-_distances(side).square() / (2 * 2.0**2)) + 1e-4 * torch.eye(side**2, dtype=torch.float64)
    covariance = std**2 * correlation
    x = mean + torch.randn(2, side**2, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(covariance).mT
    e = 0.1 * torch.randn(2, side, side, generator=rng, dtype=torch.float64)
    mask = torch.rand(side, side, generator=rng) < 0.5
    y = mask * (x.view(2, side, side) + e)
    return Case(
        name=name,
        text=text,
        operator=Mask(mask=mask),
        data=y,
        noise=0.1,
        covariance=covariance,
        mean=torch.full((side, side), mean, dtype=torch.float64),
        unit_interval=mean == 0.5,
        peer_samples=1024,
        slow_samples=512,
    )


def problem_a() -> Case:
    text = "image-like: 16x16 field, mean 0.5, std 0.15, half of the pixels seen with noise 0.1, 2 items"
    return _field("A", text, mean=0.5, std=0.15)


def problem_b() -> Case:
    return _field("B", "as A with mean 0, std 1, noise 0.1: data outside [0, 1]", mean=0.0, std=1.0)


def _scalar(name: str, variance: float) -> Case:
    one = torch.ones(1, 1, dtype=torch.float64)
    return Case(
        name=name,
        text=f"scalar, prior N(0, {variance:g}), y = 1, noise 0.5",
        operator=Matrix(matrix=one),
        data=one,
        noise=0.5,
        mean=torch.zeros(1, dtype=torch.float64),
        covariance=variance * one,
        samples=65_536,
        peer_samples=65_536,
        slow_samples=16_384,
    )


def problem_a1() -> Case:
    return _scalar("A1", 1.0)


def problem_a4() -> Case:
    return _scalar("A4", 4.0)


def problem_pair() -> Case:
    return Case(
        name="pair",
        text="two numbers of correlation 0.8, the first seen as 1.5 with noise 0.1",
        operator=Matrix(matrix=torch.tensor([[1.0, 0.0]], dtype=torch.float64)),
        data=torch.tensor([[1.5]], dtype=torch.float64),
        noise=0.1,
        mean=torch.zeros(2, dtype=torch.float64),
        covariance=torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64),
        samples=65_536,
        peer_samples=65_536,
        slow_samples=16_384,
    )


def problem_c() -> Case:
    index = torch.arange(32)
    y = torch.sin(2 * torch.pi * index[::2].double() / 32)
    covariance = 0.9 ** (index[:, None] - index[None, :]).abs().double()
    text = "32 numbers of correlation 0.9^|i-j|, the even ones seen with noise 0.1 (the data are a sine)"
    return Case(
        name="C",
        text=text,
        operator=Subsample(index=index[::2], in_shape=(32,)),
        data=y[None],
        noise=0.1,
        mean=torch.zeros(32, dtype=torch.float64),
        covariance=covariance,
        samples=16_384,
        peer_samples=8192,
        slow_samples=4096,
    )


def problem_g64() -> Case:
    grid = torch.arange(64, dtype=torch.float64)
    r = math.sqrt(3) * (grid[:, None] - grid[None, :]).abs() / 6
    covariance = (1 + r) * torch.exp(-r)
    root, kept, data = torch.linalg.cholesky(covariance), [], []
    for seed in range(4):
        rng = torch.Generator().manual_seed(seed)
        keep = torch.randperm(64, generator=rng)[:32].sort().values
        x = root @ torch.randn(64, generator=rng, dtype=torch.float64)
        kept.append(keep)
        data.append(x[keep] + 0.1 * torch.randn(32, generator=rng, dtype=torch.float64))
    text = "64 numbers, Matern 3/2 of length 6, 32 random ones seen with noise 0.1, 4 items with their own 32"
    return Case(
        name="G64",
        text=text,
        operator=Subsample(index=torch.stack(kept), in_shape=(64,)),
        data=torch.stack(data),
        noise=0.1,
        mean=torch.zeros(64, dtype=torch.float64),
        covariance=covariance,
        peer_samples=1024,
        slow_samples=512,
    )


def problem_mri() -> Case:
    """Columns of k-space: the 4 in the centre and 3 of the other 12."""
    rng, side = torch.Generator().manual_seed(0), 16
    others = torch.tensor([*range(6), *range(10, side)])
    columns = torch.zeros(side, dtype=torch.bool)
    columns[6:10] = True
    columns[others[torch.randperm(len(others), generator=rng)[:3]]] = True
    operator = MRI(in_shape=(side, side), mask=columns[None])
    covariance = torch.exp(-_distances(side) / 4)
    mean = torch.full((side, side), 1.0 + 0.5j, dtype=torch.complex128)
    z = torch.complex(*torch.randn(2, 2, side**2, generator=rng, dtype=torch.float64).unbind())
    x = mean + (z @ torch.linalg.cholesky(covariance).mT.to(z.dtype)).view(2, side, side)
    e = 0.1 * torch.complex(*torch.randn(2, 2, side, side, generator=rng, dtype=torch.float64).unbind())
    text = "complex 16x16 field, 7 of 16 columns of k-space, noise 0.1 per real component, 2 items"
    return Case(
        name="MRI",
        text=text,
        operator=operator,
        data=operator(x) + columns * e,
        noise=0.1,
        mean=mean,
        covariance=covariance,
        peer_samples=512,
        slow_samples=256,
    )


def rescaled(case: Case, factor: float, name: str) -> Case:
    """The same problem in units ``factor`` times smaller: all its numbers are ``factor`` times larger."""
    return replace(
        case,
        name=name,
        text=f"{case.name} in other units: every number {factor:g} times larger",
        data=factor * case.data,
        noise=factor * case.noise,
        mean=factor * case.mean,
        covariance=factor**2 * case.covariance,
        unit_interval=False,
        unit=factor,
    )


PROBLEMS: dict[str, Callable[[], Case]] = {
    "A": problem_a,
    "B": problem_b,
    "A1": problem_a1,
    "A4": problem_a4,
    "pair": problem_pair,
    "C": problem_c,
    "G64": problem_g64,
    "MRI": problem_mri,
    "A250": lambda: rescaled(problem_a(), 250.0, "A250"),
}
