"""Conjugate gradients over a batch: one step length per row, real or complex, rows frozen when they are done.

Also the per-row inner product and norm that such solvers are made of, and `expand`, which turns a number per row into
something that multiplies a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_BENT = 0.05  # cosine of two residuals beyond which the map is not taken for Hermitian

Map = Callable[[Tensor], Tensor]
Pair = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class CGInfo:
    """What a solve did.

    ``iterations`` run for the batch; ``residual`` (rows,) relative to the right side; ``image`` of the solution where
    ``apply`` returns pairs and was called.
    """

    iterations: int
    residual: Tensor
    image: Tensor | None = None


def inner(u: Tensor, v: Tensor) -> Tensor:
    """``Re <u, v>`` per row over all other axes: (rows, ...), (rows, ...) -> (rows,) real."""
    product: Tensor = torch.linalg.vecdot(u.flatten(1), v.flatten(1))
    return product.real if product.is_complex() else product


def norm(u: Tensor) -> Tensor:
    """``||u||`` per row, (rows,) float64: the squares of what single precision holds may leave its range."""
    wide = torch.complex128 if u.is_complex() else torch.float64
    length: Tensor = torch.linalg.vector_norm(u.flatten(1), dim=1, dtype=wide)
    return length


def direction(u: Tensor) -> Tensor:
    """``u / ||u||`` per row; a row of zeros stays so."""
    length = norm(u)
    return u / expand(torch.where(length > 0, length, 1.0).to(u.real.dtype), u)


def expand(row: Tensor, like: Tensor) -> Tensor:
    """(rows,) -> (rows, 1, ..., 1) with the number of axes of ``like``."""
    return row.view(-1, *([1] * (like.ndim - 1)))


def conjugate_gradients(
    apply: Map | Pair,
    rhs: Tensor,
    *,
    start: Tensor | None = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
    max_iter: int = 200,
    check_every: int | None = None,
    precondition: Map | None = None,
    trusted: int | None = None,
    least: float = 0.0,
) -> tuple[Tensor, CGInfo]:
    """Solve ``apply(x) = rhs`` for a Hermitian positive definite ``apply`` acting on each row by itself.

    ``rhs`` is (rows, ...), real or complex, in any units; inner products are Re<u, v> over all axes but the first. A
    row stops at ``||r|| <= max(rtol ||rhs||, atol)`` and is left untouched from there on, so its answer does not depend
    on the other rows. A zero right side gives zero; a row that is or becomes NaN or infinite ends as NaN and holds
    nobody up.
    ``trusted``: for an ``apply`` that may not be Hermitian, as derivatives of networks: a row takes so many steps, and
    goes on only while its residual is smaller than the right side and orthogonal to the first one, as those of a
    Hermitian map are (until rounding ends that in long solves, which then stop early: no harm to who asks for this).
    ``least``: what all eigenvalues of ``apply`` reach. A row whose next direction shows less (a derivative that is not
    Hermitian, or noise of rounding) ends before it: that step would be too long by as much as one likes.
    ``apply`` may return a pair: its product, and another linear map of the same vector that it needed on the way.
    `CGInfo.image` is that map of the solution, put together from its steps: no further product.
    Whether all rows are done is read every ``check_every`` iterations (default: every one on a CPU, every tenth
    elsewhere, because a read stalls a GPU).

    Hestenes & Stiefel 1952; the preconditioned form is Golub & Van Loan, Algorithm 11.5.1.
    """
    if rhs.numel() == 0:
        return rhs.clone(), CGInfo(iterations=0, residual=rhs.real.new_zeros(len(rhs)))
    every = check_every or (1 if rhs.device.type == "cpu" else 10)
    unit = expand(_unit(rhs), rhs)
    rhs = rhs / unit
    x, r = torch.zeros_like(rhs), rhs
    image: Tensor | None = None
    if start is not None:
        x = start / unit
        q, image = _product(apply, x)
        r = rhs - q
    size = inner(rhs, rhs)
    floor = (atol / unit.view(-1)) ** 2 if atol else torch.zeros_like(size)
    goal = torch.where(size > 0, torch.maximum((rtol**2) * size, floor), torch.inf)  # zero and NaN rows are done
    first = r
    z = z0 = r if precondition is None else precondition(r)
    p, rz = z, inner(r, z)
    rr = rz if precondition is None else inner(r, r)
    iterations = 0
    bent = torch.zeros_like(size, dtype=torch.bool)
    for i in range(max_iter):
        if i % every == 0 and not bool((rr > goal).any()):
            break
        iterations += 1
        active = rr > goal
        q, seen = _product(apply, p)
        pq = inner(p, q)
        if least:
            weak = pq < least * inner(p, p)
            active, goal = active & ~weak, torch.where(weak, torch.inf, goal)
        step = torch.where(active & (pq > 0), rz / pq, 0.0)
        x = x + expand(step, x) * p
        if seen is not None:
            image = expand(step, seen) * seen + (0 if image is None else image)
        r = r - expand(step, x) * q
        z = r if precondition is None else precondition(r)
        rz_next = inner(r, z)
        beta = torch.where(active & (rz > 0), rz_next / rz, 0.0)
        p = torch.where(expand(active, x), z + expand(beta, x) * p, p)
        rz = torch.where(active, rz_next, rz)
        rr = torch.where(active, rz_next if precondition is None else inner(r, r), rr)
        if trusted is not None:
            bent = bent | (inner(z, first).square() > _BENT**2 * rz * inner(z0, first))  # shows at the second step
            if i + 1 >= trusted:
                goal = torch.where(bent | (rr > size), torch.inf, goal)
    empty = torch.zeros_like(size).masked_fill(size != 0, torch.nan)
    residual = torch.where(size > 0, (rr / size).clamp_min(0).sqrt(), empty)
    good = (size > 0) & torch.isfinite(residual)

    def kept(v: Tensor) -> Tensor:
        return torch.where(expand(good, v), v * expand(unit.view(-1), v), expand(empty, v))

    image = None if image is None else kept(image)
    return kept(x), CGInfo(iterations=iterations, residual=residual, image=image)


def _product(apply: Map | Pair, p: Tensor) -> tuple[Tensor, Tensor | None]:
    found = apply(p)
    return found if isinstance(found, tuple) else (found, None)


def _unit(rhs: Tensor) -> Tensor:
    """(rows,): a power of two near the largest entry, so that squares stay in range and the scaling is exact."""
    largest = rhs.flatten(1).abs().amax(1)
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)


def default_rtol(dtype: torch.dtype) -> float:
    """Where guidance stops its solves unless told: 1e-5 in single precision, 1e-12 in double.

    Not for accuracy, which 1e-3 would do for: a row's answer must not depend on its neighbours, torch's kernels change
    the last bits with the batch, and conjugate gradients that stop early turn a last bit into an error of rtol's size.
    """
    return 1e-12 if dtype in (torch.float64, torch.complex128) else 1e-5
