"""Generalised minimal residuals over a batch: for maps that are not symmetric, such as derivatives of networks."""

from __future__ import annotations

import torch
from torch import Tensor

from invsolve.cg import CGInfo, Map, expand, norm


def gmres(apply: Map, rhs: Tensor, *, rtol: float = 1e-6, max_iter: int = 20) -> tuple[Tensor, CGInfo]:
    """Solve ``apply(x) = rhs`` for any real-linear ``apply`` acting on each row by itself, without restarts.

    ``rhs`` is (rows, ...), real or complex, in any units; inner products are Re<u, v> over all axes but the first. Of
    all x in the Krylov space of so many products, the one of least residual: unlike that of conjugate gradients it
    never grows. A row stops at ``||r|| <= rtol ||rhs||``, or where its space is exhausted, and takes no further part.
    A zero right side gives zero; a row that is or becomes NaN or infinite ends as NaN and holds nobody up. All
    ``max_iter + 1`` directions are kept.

    Saad & Schultz 1986, SIAM J. Sci. Stat. Comput. 7(3); orthogonalised twice, for single precision.
    """
    rows = len(rhs)
    if rhs.numel() == 0:
        return rhs.clone(), CGInfo(iterations=0, residual=rhs.real.new_zeros(rows))
    size = norm(rhs)
    usable = (size > 0) & size.isfinite()
    v = torch.where(expand(usable, rhs), rhs / expand(torch.where(usable, size, 1.0).to(rhs.real.dtype), rhs), 0.0)
    basis = [v]
    hessenberg = torch.zeros(rows, max_iter + 1, max_iter, dtype=torch.float64, device=rhs.device)
    target = torch.zeros(rows, max_iter + 1, dtype=torch.float64, device=rhs.device)
    target[:, 0] = usable.double()
    weights = torch.zeros(rows, max_iter, dtype=torch.float64, device=rhs.device)
    residual, active = usable.double(), usable.clone()
    iterations = 0
    for j in range(max_iter):
        if not bool(active.any()):
            break
        iterations += 1
        w = apply(basis[j])
        wide = torch.stack(basis, 1).flatten(2)
        for _ in range(2):
            part = torch.linalg.vecdot(wide, w.flatten(1)[:, None]).real  # Re<v_i, w>
            hessenberg[:, : j + 1, j] += part.double()
            w = w - (part.to(w.dtype)[:, None] @ wide)[:, 0].view(w.shape)
        length = norm(w)
        hessenberg[:, j + 1, j] = length
        finite = hessenberg[:, :, j].isfinite().all(1)
        # A column of a row that is done stays out of its least squares.
        hessenberg[:, :, j] = torch.where((active & finite)[:, None], hessenberg[:, :, j], 0.0)
        found = torch.linalg.pinv(hessenberg[:, : j + 2, : j + 1]) @ target[:, : j + 2, None]
        gap = (target[:, : j + 2] - (hessenberg[:, : j + 2, : j + 1] @ found)[..., 0]).norm(dim=1)
        weights[:, : j + 1] = torch.where(active[:, None], found[..., 0], weights[:, : j + 1])
        residual = torch.where(active, torch.where(finite, gap, torch.nan), residual)
        exhausted = length <= torch.finfo(rhs.real.dtype).eps * hessenberg[:, :, j].norm(dim=1)
        active = active & finite & (residual > rtol) & ~exhausted
        going = active & (length > 0)
        scale = torch.where(going, length, 1.0).to(rhs.real.dtype)
        basis.append(torch.where(expand(going, w), w / expand(scale, w), 0.0))
    x = torch.zeros_like(rhs)
    for j in range(iterations):
        x = x + expand((weights[:, j] * size).to(rhs.real.dtype), x) * basis[j]
    failed = ~(size.isfinite() & residual.isfinite())
    x = torch.where(expand(failed, x), torch.nan, x)
    return x, CGInfo(iterations=iterations, residual=torch.where(failed, torch.nan, residual).to(rhs.real.dtype))
