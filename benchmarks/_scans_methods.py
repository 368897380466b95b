"""What `scans.py` runs: total variation, deepinv's DPIR with BM3D, and guidance with a learned prior."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import final

import torch
from _scans_cases import Case, linear
from torch import Tensor

import invsolve as iv
from invsolve.baselines import total_variation, tune_weight

TV_WEIGHTS = tuple(0.05 * 1.8**k for k in range(9))
TV_ITERATIONS = 200


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Images or samples ``(n, items, H, W)`` in the units of the truth, and CPU seconds of one."""

    samples: Tensor
    seconds: float


def stds(problem: iv.Problem) -> Tensor:
    """The noise of every item, root mean square over its data, ``(items,)``."""
    assert isinstance(problem.noise, iv.noise.Gaussian)
    std = torch.as_tensor(problem.noise.std, dtype=torch.float32, device="cpu")
    return std.expand(len(problem.data), *(1 for _ in problem.data.shape[1:])).flatten(1).square().mean(1).sqrt()


def gain(problem: iv.Problem) -> float:
    """The root mean square of what a pixel of size 1 adds to all data: the unit of weights."""
    A = linear(problem)
    kind = torch.complex64 if A.in_kind == "complex" else torch.float32
    probe = torch.randn(4, *A.in_shape, dtype=kind, generator=torch.Generator().manual_seed(0), device="cpu")
    operator = problem.take(torch.tensor([0])).operator
    clean = torch.cat([operator(row[None]) for row in probe])
    return float((clean.abs().square().flatten(1).sum(1).mean() / probe[0].numel()).sqrt())


def tv(problem: iv.Problem, *, weight: float) -> Tensor:
    """``weight`` in units of what the noise is in the gradient of the misfit."""
    out = []
    for b, std in enumerate(stds(problem).tolist()):
        one = problem.take(torch.tensor([b]))
        w = weight * std * gain(one)
        out.append(total_variation(linear(one), one.data, weight=w, iterations=TV_ITERATIONS))
    return torch.cat(out)


def tuned_tv(case: Case, other: Case) -> tuple[Found, float]:
    """Total variation with the weight of least error on ``other``."""
    singles = [other.gaussian.take(torch.tensor([b])) for b in range(len(other.truth))]
    std = float(stds(other.gaussian).mean())

    def solver(A: iv.operators.LinearOperator, y: Tensor, /, *, weight: float) -> Tensor:
        return other.image_of_gaussian(tv(iv.Problem(A, y, noise=std), weight=weight))

    found = tune_weight(
        solver, [(linear(p), p.data, other.truth[b : b + 1]) for b, p in enumerate(singles)], TV_WEIGHTS
    )
    if found.at_edge:
        print(f"TV weight {found.weight:.3g} lies at the edge of what was tried")
    started = time.process_time()
    image = case.image_of_gaussian(tv(case.gaussian, weight=found.weight))
    return Found(samples=image[None], seconds=(time.process_time() - started) / len(case.truth)), found.weight


def dpir(case: Case, items: int) -> Found | None:
    """deepinv's `DPIR` of the first ``items``, with BM3D in place of the network that it would download; None without
    the package bm3d.

    The operator is scaled to a norm of 1 and images to [0, 1], as its parameters expect: by the range of the truth, in
    its favour.
    """
    try:
        import bm3d  # noqa: F401
        import deepinv
    except ImportError:
        return None
    out, started = [], time.process_time()
    for b in range(items):
        one = case.gaussian.take(torch.tensor([b]))
        A, truth = linear(one), case.truth[b]
        low = 0.0 if truth.is_complex() else float(truth.min())
        size = float(truth.abs().max() if truth.is_complex() else truth.max() - low)
        norm = largest_singular_value(A)
        base = torch.full((1, *A.in_shape), low, dtype=truth.dtype, device="cpu")
        physics = deepinv.physics.LinearPhysics(
            A=lambda x, A=A, norm=norm, **_: A(x[:, 0])[:, None] / norm,
            A_adjoint=lambda z, A=A, norm=norm, **_: A.adjoint(z[:, 0])[:, None] / norm,
        )
        denoiser = deepinv.models.BM3D()
        if truth.is_complex():
            denoiser = deepinv.models.ComplexDenoiserWrapper(denoiser, mode="real_imag")
        y, sigma = (one.data - A(base)) / (norm * size), float(stds(one)[0]) / (norm * size)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            image = deepinv.optim.DPIR(sigma=sigma, denoiser=denoiser)(y[:, None], physics)[:, 0]
        out.append(image * size + base)
    image = case.image_of_gaussian(torch.cat(out))
    return Found(samples=image[None], seconds=(time.process_time() - started) / items)


def largest_singular_value(A: iv.operators.LinearOperator) -> float:
    """The operator's norm, by thirty power iterations."""
    kind = torch.complex64 if A.in_kind == "complex" else torch.float32
    x = torch.randn(1, *A.in_shape, dtype=kind, generator=torch.Generator().manual_seed(0), device="cpu")
    size = 1.0
    for _ in range(30):
        x = A.adjoint(A(x / x.norm()))
        size = float(x.norm())
    return size**0.5


def ours(case: Case, prior: iv.priors.Prior, n: int, *, chunk: int = 4) -> Found:
    """``n`` samples of `MMPS()`, what ``strategy="auto"`` runs on signals this large."""
    started, parts = time.process_time(), []
    total = len(case.truth)
    for first in range(0, total, chunk):
        some = case.problem.take(torch.arange(first, min(first + chunk, total)))
        result = iv.solve(some, prior, strategy=iv.strategies.MMPS(), num_samples=n, seed=first, throw=False)
        parts.append(result.samples)
    samples = case.image(torch.cat(parts, 1))
    return Found(samples=samples, seconds=(time.process_time() - started) / (n * total))
