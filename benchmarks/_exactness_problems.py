"""Problems beyond Gaussian priors and linear operators, each with a gold standard that no sampler of ours made.

    from _exactness_problems import certificate_problems, mixture_problems, nonlinear_problems, sparse_problems

Each is a list of frozen `Known` problems, built in a moment; ``problem.gold`` is computed when it is asked for and kept
in `_gold.folder()`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from _gold import D, Gold, cached, digest
from _gold_curved import Curved, funnel, hmc, plane, product
from _gold_mixture import mixture_gold
from _gold_sparse import Law, all_supports, basis, gibbs
from mixtures import random_mixture
from torch import Tensor

import invsolve as iv
from invsolve.operators.base import Operator
from invsolve.priors.base import Prior

VERSION = 3  # of the gold standards: raise it when their code changes
SUPPORTS = 5  # of those of spike-slab laws


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """``data = operator(x) + noise * N(0, I)``, ``x ~ prior``; one datum, float64, signals of ``d`` real numbers.

    ``matrix`` and ``real_data``: the same problem with real data, for linear operators. ``modes`` maps signals
    ``(n, *shape)`` to the share of each mode in them ``(n, K)``; the gold standard has their true weights.
    """

    name: str
    part: str  # mixtures, sparse, nonlinear
    text: str
    operator: Operator
    data: Tensor
    noise: float
    prior: Prior
    make: Callable[[], Gold]
    truth: Tensor | None = None  # the signal behind the data, (d,)
    matrix: Tensor | None = None
    real_data: Tensor | None = None
    modes: Callable[[Tensor], Tensor] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.prior.shape)

    @property
    def d(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def gold(self) -> Gold:
        """Over the flattened signal."""
        return self.make()


# --- mixtures --------------------------------------------------------------------------------------------------------
def mixture(name: str, d: int, k: int, seed: int, part: str = "mixtures") -> Known:
    prior, operator, y, noise = random_mixture(d, k, seed)

    def make() -> Gold:
        return mixture_gold(prior.weights, prior.means, prior.covariances, operator.matrix, y, noise, seed)

    return Known(
        name=name,
        part=part,
        text=f"{k} modes in {d} dimensions, {len(y)} data, noise {noise:g}",
        operator=operator,
        data=y,
        noise=noise,
        prior=prior,
        make=make,
        matrix=operator.matrix,
        real_data=y,
        modes=lambda x: prior.responsibilities(x, 1e-3),
    )


def mixture_problems() -> list[Known]:
    """30 random mixtures, 2 to 32 dimensions, 1 to 4 modes."""
    sizes = (2, 3, 4, 6, 8, 12, 16, 20, 24, 32)
    return [
        mixture(f"mix-{d}d-{k}", d, k, 100 * round_ + i)
        for round_ in range(3)
        for i, d in enumerate(sizes)
        for k in [1 + (i + round_) % 4]
    ]


# --- sparse ----------------------------------------------------------------------------------------------------------
LAWS: dict[str, Law] = {
    "laplace": Law(family="laplace", scale=math.sqrt(0.5)),
    "student3": Law(family="student", scale=math.sqrt(1 / 3), dof=3.0),
    "student5": Law(family="student", scale=math.sqrt(3 / 5), dof=5.0),
    "spike-slab": Law(family="spike-slab", scale=2.0, spike=0.1, weight=0.25),
    "exact zeros": Law(family="spike-slab", scale=2.0, spike=0.0, weight=0.25),
}  # all of variance about 1: of spike-slab, 1 or 1.01


def coefficients(law: Law) -> iv.priors.Laplace | iv.priors.Student | iv.priors.SpikeSlab:
    """The law as the package has it."""
    if law.family == "laplace":
        return iv.priors.Laplace(scale=law.scale)
    if law.family == "student":
        return iv.priors.Student(scale=law.scale, dof=law.dof)
    return iv.priors.SpikeSlab(weight=law.weight, slab=law.scale, spike=law.spike)


def _draw(law: Law, n: int, rng: torch.Generator) -> Tensor:
    z, u = torch.randn(n, generator=rng, dtype=D), torch.rand(n, generator=rng, dtype=D)
    if law.family == "laplace":
        return -law.scale * torch.sign(z) * torch.log1p(-u)
    if law.family == "student":
        chi = torch.randn(n, int(law.dof), generator=rng, dtype=D).square().mean(1)
        return law.scale * z / chi.sqrt()
    return z * torch.where(u < law.weight, law.scale, law.spike)


def seen(task: str, shape: tuple[int, ...], rng: torch.Generator) -> tuple[Operator, Tensor]:
    """The operator of a task, and as a real matrix ``(m, n)`` (complex data: real parts, then imaginary parts)."""
    n = math.prod(shape)
    eye = torch.eye(n, dtype=D)
    if task == "denoising":
        return iv.operators.Mask(mask=torch.ones(shape, dtype=torch.bool)), eye
    if task == "inpainting":
        index = torch.randperm(n, generator=rng)[: n // 2].sort().values
        return iv.operators.Subsample(index=index, in_shape=shape), eye[index]
    if task == "deconvolution":  # a periodic Gaussian of std 1, cut at 3
        one = torch.exp(-(torch.arange(-3, 4, dtype=D) ** 2) / 2)
        one /= one.sum()
        matrix, kernel = torch.ones(1, 1, dtype=D), torch.ones((), dtype=D)
        for size in shape:
            along = sum(w * torch.eye(size, dtype=D).roll(k - 3, 0) for k, w in enumerate(one))
            matrix, kernel = torch.kron(matrix, along), kernel[..., None] * one
        return iv.operators.Blur(kernel=kernel, in_shape=shape), matrix
    # partial Fourier: 3/8 of the frequencies of a half plane, of which the lowest are always there
    ij = torch.cartesian_prod(*[torch.arange(size) for size in shape]).view(n, len(shape))
    phase = sum(torch.outer(ij[:, a], ij[:, a]).double() / size for a, size in enumerate(shape))
    fourier = torch.polar(torch.full_like(phase, n**-0.5), -2 * math.pi * phase)
    opposite = (-ij) % torch.tensor(shape) @ torch.tensor([math.prod(shape[a + 1 :]) for a in range(len(shape))])
    half = (torch.arange(n) <= opposite).nonzero()[:, 0]  # one of every pair k, -k
    others = 3 + torch.randperm(len(half) - 3, generator=rng)[: 3 * len(half) // 8 - 3]
    rows = half[torch.cat([torch.arange(3), others])]
    matrix = fourier[rows]
    real = torch.cat([matrix.real, matrix.imag])
    if len(shape) == 1:
        return iv.operators.Matrix(matrix=matrix, in_kind="real"), real

    def transform(x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=(1, 2), norm="ortho").flatten(1)[:, rows]

    def adjoint(v: Tensor) -> Tensor:
        full = v.new_zeros(len(v), n)
        full[:, rows] = v
        return torch.fft.ifftn(full.view(-1, *shape), dim=(1, 2), norm="ortho").real

    operator = iv.operators.from_callable(
        transform, in_shape=shape, out_shape=(len(rows),), kind="linear", adjoint=adjoint, out_kind="complex"
    )
    return operator, real


def sparse(
    law: str, transform: str, task: str, shape: tuple[int, ...], noise: float, seed: int, effort: float = 1.0
) -> Known:
    """A sparse signal of unit variance seen with ``noise``, which is 1 / the signal-to-noise ratio per coefficient."""
    rng = torch.Generator().manual_seed(seed)
    operator, matrix = seen(task, shape, rng)
    T = basis(transform, shape)
    x = _draw(LAWS[law], len(T), rng) @ T
    y = matrix @ x + noise * torch.randn(len(matrix), generator=rng, dtype=D)
    data = torch.complex(*y.chunk(2)) if task == "partial Fourier" else y.view(operator.out_shape)
    size = "x".join(map(str, shape))
    name = f"{law} {transform} {task} {size}".replace(" ", "-")
    tempered = task in ("inpainting", "partial Fourier")  # some coefficients explain the data as well as others
    version = SUPPORTS if LAWS[law].family == "spike-slab" else VERSION
    key = digest(version, LAWS[law], T, matrix, y, noise, effort)

    def make() -> Gold:
        if LAWS[law].family == "spike-slab" and len(T) <= 16:
            return all_supports(matrix, y, noise, T, LAWS[law], seed=seed)
        return cached(
            name, key, lambda: gibbs(matrix, y, noise, T, LAWS[law], seed=seed, effort=effort, tempered=tempered)
        )

    prior = iv.priors.SparsePrior(shape=shape, coefficients=coefficients(LAWS[law]), transform=transform, dtype=D)
    return Known(
        name=name,
        part="sparse",
        text=f"{law}, {transform}, {task}, {size}, noise {noise:g}",
        operator=operator,
        data=data,
        noise=noise,
        prior=prior,
        truth=x,
        matrix=matrix,
        real_data=y,
        make=make,
    )


def sparse_problems() -> list[Known]:
    """14 problems of 64 numbers: every law with every task, both transforms, signals and images.

    Student's law has 5 degrees of freedom where the data leave coefficients alone: with 3, their fourth moment is
    infinite and the std of samples says nothing.
    """
    line, image = (64,), (8, 8)
    return [
        sparse("laplace", "dct", "denoising", line, 0.2, 1),
        sparse("laplace", "haar", "deconvolution", image, 0.1, 2),
        sparse("laplace", "dct", "inpainting", image, 0.1, 3),
        sparse("laplace", "haar", "partial Fourier", line, 0.05, 4),
        sparse("student3", "haar", "denoising", image, 0.2, 5),
        sparse("student5", "dct", "deconvolution", line, 0.05, 6),
        sparse("student5", "haar", "inpainting", line, 0.1, 7),
        sparse("student5", "dct", "partial Fourier", image, 0.1, 8),
        sparse("spike-slab", "dct", "denoising", image, 0.2, 9),
        sparse("spike-slab", "haar", "deconvolution", line, 0.1, 10),
        sparse("spike-slab", "dct", "inpainting", line, 0.2, 11),
        sparse("spike-slab", "haar", "partial Fourier", image, 0.1, 12),
        sparse("exact zeros", "dct", "deconvolution", image, 0.1, 13),
        sparse("exact zeros", "haar", "inpainting", image, 0.2, 14),
    ]


# --- non-linear ------------------------------------------------------------------------------------------------------
def pressure(u: Tensor, sensors: Tensor) -> Tensor:
    """``-(exp(u) p')' = 1`` on [0, 1], p = 0 at both ends, at the faces ``sensors`` (1 to n-1) of n cells.

    ``u`` ``(rows, n)`` is constant in every cell. The flux is ``exp(u) p' = c - x``, so p is a sum of
    ``(c - x_mid) h exp(-u)`` over the cells, exactly, with c such that p(1) = 0.
    """
    n = u.shape[1]
    middle = (torch.arange(n, dtype=u.dtype, device=u.device) + 0.5) / n
    resistance = torch.exp(-u) / n
    c = (resistance * middle).sum(1, keepdim=True) / resistance.sum(1, keepdim=True)
    p = ((c - middle) * resistance).cumsum(1)
    return p[:, sensors.to(u.device) - 1]


def elliptic(d: int, count: int, noise: float, length: float, std: float, seed: int, sweeps: int = 800) -> Known:
    """The log-conductivity of ``d`` cells from the pressure at ``count`` faces; ``noise`` relative to the largest
    pressure of u = 0, 1/8."""
    rng = torch.Generator().manual_seed(seed)
    at = (torch.arange(d, dtype=D) + 0.5) / d
    r = math.sqrt(3) * (at[:, None] - at).abs() / length
    covariance = std**2 * ((1 + r) * torch.exp(-r) + 1e-6 * torch.eye(d, dtype=D))
    mean, root = torch.zeros(d, dtype=D), torch.linalg.cholesky(covariance)
    sensors = torch.linspace(1, d - 1, count, dtype=D).round().long()
    u = root @ torch.randn(d, generator=rng, dtype=D)
    sigma = noise / 8
    y = pressure(u[None], sensors)[0] + sigma * torch.randn(count, generator=rng, dtype=D)
    name = f"elliptic-{d}-{count}-{noise:g}-s{seed}"
    curved = Curved(f=lambda x: pressure(x, sensors), y=y, noise=sigma, mean=mean, root=root)
    key = digest(VERSION, covariance, sensors, y, sigma, sweeps)
    return Known(
        name=name,
        part="nonlinear",
        text=f"elliptic, {d} cells, {count} sensors, noise {100 * noise:g} %, field std {std:g}",
        operator=iv.operators.from_callable(lambda x: pressure(x, sensors), in_shape=(d,), out_shape=(count,)),
        data=y,
        noise=sigma,
        prior=iv.priors.GaussianPrior(mean=mean, covariance=covariance),
        truth=u,
        make=lambda: cached(name, key, lambda: hmc(curved, seed=seed, sweeps=sweeps)),
    )


def phase(d: int, m: int, noise: float, weight: float, seed: int, sweeps: int = 800) -> Known:
    """``|A x|^2``, real: x and -x fit alike, and the mean of the prior gives the mode of x about ``weight``."""
    rng = torch.Generator().manual_seed(seed)
    A = torch.randn(m, d, generator=rng, dtype=D) / math.sqrt(d)
    x = torch.randn(d, generator=rng, dtype=D)
    across = torch.randn(d, generator=rng, dtype=D)
    across -= (across @ x) / (x @ x) * x
    odds = math.log(weight / (1 - weight))
    mean = odds / 2 * x / (x @ x) + 0.3 * across / across.norm()  # log N(x; mean, I) - log N(-x; mean, I) = 2 mean.x
    y = (A @ x).square() + noise * torch.randn(m, generator=rng, dtype=D)

    def intensity(v: Tensor) -> Tensor:
        return (v @ A.to(v).mT).square()

    name = f"phase-{d}-{m}-{weight:g}-s{seed}"
    curved = Curved(f=intensity, y=y, noise=noise, mean=mean, root=torch.eye(d, dtype=D), even=True)
    key = digest(VERSION, A, y, noise, mean, sweeps)

    def modes(v: Tensor) -> Tensor:
        first = (v @ x > 0).to(v.dtype)
        return torch.stack([first, 1 - first], 1)

    def make() -> Gold:
        gold = cached(name, key, lambda: hmc(curved, seed=seed, sweeps=sweeps))
        # the weight of x over {x, -x}, averaged: no draw's own sign enters
        odds = 2 * gold.samples @ mean * torch.sign(gold.samples @ x)
        first = torch.sigmoid(odds).mean()
        return Gold(**{**vars(gold), "weights": torch.stack([first, 1 - first])})

    return Known(
        name=name,
        part="nonlinear",
        text=f"phase retrieval, {d} real, {m} intensities, noise {noise:g}, weight {weight:g}",
        operator=iv.operators.from_callable(intensity, in_shape=(d,), out_shape=(m,)),
        data=y,
        noise=noise,
        prior=iv.priors.GaussianPrior(mean=mean, covariance=torch.eye(d, dtype=D)),
        truth=x,
        make=make,
        modes=modes,
    )


def _rotation(d: int, rng: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=rng, dtype=D))[0]


def banana(d: int, bend: float, noise: float, seed: int, *, turned: bool = True) -> Known:
    """``y_i = z_{2i+1} - bend z_{2i}^2``, ``z = R^T x``: independent pairs, in a rotated frame unless d = 2."""
    rng = torch.Generator().manual_seed(seed)
    R = _rotation(d, rng) if turned else torch.eye(d, dtype=D)
    z = torch.randn(d, generator=rng, dtype=D)
    y = z[1::2] - bend * z[::2] ** 2 + noise * torch.randn(d // 2, generator=rng, dtype=D)

    def bent(x: Tensor) -> Tensor:
        u = x @ R.to(x)
        return u[:, 1::2] - bend * u[:, ::2] ** 2

    def make() -> Gold:
        centre = torch.zeros(2, dtype=D)
        parts = [plane(lambda p, v=v: (p[:, 1] - bend * p[:, 0] ** 2 - v) ** 2 / (2 * noise**2), centre) for v in y]  # type: ignore[misc]
        return product(parts, R, seed)

    name = f"banana-{d}-{bend:g}-{noise:g}-s{seed}"
    return Known(
        name=name,
        part="nonlinear",
        text=f"banana, {d} numbers, bend {bend:g}, noise {noise:g}",
        operator=iv.operators.from_callable(bent, in_shape=(d,), out_shape=(d // 2,)),
        data=y,
        noise=noise,
        prior=iv.priors.GaussianPrior(mean=torch.zeros(d, dtype=D), covariance=torch.eye(d, dtype=D)),
        truth=R @ z,
        make=lambda: cached(name, digest(VERSION, R, y, bend, noise), make),
    )


def funnel_problem(d: int, noise: float, seed: int, *, turned: bool = True) -> Known:
    """``y_i = exp(z_0 / 2) z_i``, ``z = R^T x``."""
    rng = torch.Generator().manual_seed(seed)
    R = _rotation(d, rng) if turned else torch.eye(d, dtype=D)
    z = torch.randn(d, generator=rng, dtype=D)
    y = torch.exp(z[0] / 2) * z[1:] + noise * torch.randn(d - 1, generator=rng, dtype=D)

    def scaled(x: Tensor) -> Tensor:
        u = x @ R.to(x)
        return torch.exp(u[:, :1] / 2) * u[:, 1:]

    name = f"funnel-{d}-{noise:g}-s{seed}"
    return Known(
        name=name,
        part="nonlinear",
        text=f"funnel, {d} numbers, noise {noise:g}",
        operator=iv.operators.from_callable(scaled, in_shape=(d,), out_shape=(d - 1,)),
        data=y,
        noise=noise,
        prior=iv.priors.GaussianPrior(mean=torch.zeros(d, dtype=D), covariance=torch.eye(d, dtype=D)),
        truth=R @ z,
        make=lambda: cached(name, digest(VERSION, R, y, noise), lambda: funnel(y, noise, R, seed)),
    )


def nonlinear_problems() -> list[Known]:
    """12 problems of 2 to 64 numbers."""
    return [
        elliptic(64, 16, 0.02, 0.3, 1.0, 21),
        elliptic(64, 32, 0.01, 0.2, 1.0, 22),
        elliptic(64, 24, 0.01, 0.2, 1.5, 23),
        phase(16, 64, 0.2, 0.7, 31),
        phase(16, 64, 0.1, 0.9, 32),
        phase(16, 48, 0.3, 0.7, 33),
        banana(2, 1.0, 0.1, 41, turned=False),
        banana(4, 1.0, 0.3, 42),
        banana(8, 0.5, 0.1, 43),
        funnel_problem(2, 0.3, 51, turned=False),
        funnel_problem(6, 0.3, 52),
        funnel_problem(10, 0.1, 53),
    ]
