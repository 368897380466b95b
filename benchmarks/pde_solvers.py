"""Flow through a medium of 12:3 or 1e4:1: iterations, and forward map and gradient beside other solvers.

    python benchmarks/pde_solvers.py            # a few minutes on one thread; writes docs/pde-solvers.md and .csv
    python benchmarks/pde_solvers.py --quick    # small grids, prints only

Cells, u = 0 on the walls, double precision, residual 1e-8. Seconds of the CPU, the least of interleaved rounds. pyamg and
torch-sla take part where they are installed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from _tables import ruled, save
from _timing import interleaved
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

import invsolve as iv
from invsolve.core.conjugate_gradients import conjugate_gradients
from invsolve.operators.pde.multigrid import Faces, Multigrid

D, ROWS, RTOL = torch.float64, 4, 1e-8


@dataclass(frozen=True, kw_only=True)
class Row:
    """One solver on one grid."""

    contrast: float
    n: int
    method: str
    iterations: int  # 0: none are counted
    forward: float  # microseconds a unknown, of the CPU
    gradient: float  # with the forward map
    error: float  # of u against splu, relative


def medium(n: int, contrast: float) -> Tensor:
    """The sign of a smooth Gaussian field, the same field on every grid."""
    rng = torch.Generator().manual_seed(0)
    k, x = torch.arange(128, dtype=D), (torch.arange(n, dtype=D) + 0.5) / n
    scale = 1 / (math.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    scale[0, 0] = 0
    modes = torch.cos(math.pi * k * x[:, None])
    field = modes @ (torch.randn(ROWS, 128, 128, dtype=D, generator=rng) * scale) @ modes.mT
    return torch.where(field > 0, 12.0, 12.0 / contrast).to(D)


def sparse(faces: Faces, row: int) -> csr_matrix:
    """The matrix of a row."""
    n, m = faces.shape
    number = np.arange(n * m).reshape(n, m)
    diagonal = faces.diagonal()[row].numpy().ravel()
    i, j, v = [number.ravel()], [number.ravel()], [diagonal]
    pairs = ((number[:-1], number[1:]), (number[:, :-1], number[:, 1:]))
    inner = (faces.along[0][row, 1:-1], faces.along[1][row, :, 1:-1])
    for (p, q), g in zip(pairs, inner, strict=True):
        i += [p.ravel(), q.ravel()]
        j += [q.ravel(), p.ravel()]
        v += [-g.numpy().ravel()] * 2
    return csr_matrix((np.concatenate(v), (np.concatenate(i), np.concatenate(j))), shape=(n * m, n * m))


def rows_of(n: int, contrast: float, rounds: int) -> list[Row]:
    """All solvers on one grid."""
    a, grid = medium(n, contrast), iv.CartesianGrid((n, n))
    A = iv.operators.Darcy(grid, rtol=RTOL)
    direct = iv.operators.Darcy(grid, solver="direct")
    f = torch.full((ROWS, n, n), grid.cell, dtype=D)
    truth = direct(a)
    faces = A.faces(a)
    counted = conjugate_gradients(faces.apply, f, rtol=RTOL, precondition=Multigrid(faces, grid.spacing))[1].iterations

    def gradient(solve: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def run() -> Tensor:
            leaf = a.clone().requires_grad_()
            return torch.autograd.grad(solve(leaf).square().sum(), leaf)[0]

        return run

    steps: list[int] = []

    def unrolled(p: Tensor) -> Tensor:
        made = A.faces(p)
        diagonal = made.diagonal()
        u, info = conjugate_gradients(made.apply, f, rtol=RTOL, max_iter=5000, precondition=lambda r: r / diagonal)
        steps[:] = [info.iterations]
        return u

    def by_splu(p: Tensor) -> Tensor:
        made = A.faces(p.detach())
        options = {"SymmetricMode": True}
        found = [
            splu(sparse(made, i).tocsc(), permc_spec="MMD_AT_PLUS_A", options=options).solve(f[i].numpy().ravel())
            for i in range(ROWS)
        ]
        return torch.from_numpy(np.stack(found)).view_as(f)

    ways: list[tuple[str, int, Callable[[Tensor], Tensor], bool]] = [
        ("invsolve, multigrid", counted, A, True),
        ("invsolve, direct", 0, direct, True),
        ("scipy splu", 0, by_splu, False),
    ]
    if n <= 63:  # every step is kept for the gradient: gigabytes beyond
        unrolled(a)
        ways.append(("diagonal preconditioner, unrolled", steps[0], unrolled, True))
    if find_spec("pyamg"):
        import pyamg

        taken: list[float] = []

        def by_pyamg(p: Tensor) -> Tensor:
            made, found = A.faces(p.detach()), []
            for i in range(ROWS):
                levels = pyamg.ruge_stuben_solver(sparse(made, i))
                found.append(levels.solve(f[i].numpy().ravel(), tol=RTOL, accel="cg", residuals=taken))
            return torch.from_numpy(np.stack(found)).view_as(f)

        by_pyamg(a)
        ways.append(("pyamg, Ruge-Stuben + CG", len(taken) - 1, by_pyamg, False))
    if find_spec("torch_sla"):
        import torch_sla

        def by_torch_sla(p: Tensor) -> Tensor:
            made, found = A.faces(p), []
            for i in range(ROWS):
                inner = [made.along[0][i, 1:-1].flatten(), made.along[1][i, :, 1:-1].flatten()]
                entries = torch.cat([made.diagonal()[i].flatten(), *(-g for g in inner for _ in range(2))])
                found.append(torch_sla.spsolve(entries, *sparse_order(n), (n * n, n * n), f[i].flatten()))
            return torch.stack(found).view_as(f)

        ways.append(("torch-sla", 0, by_torch_sla, True))
    out = []
    for name, iterations, solve, differentiable in ways:
        try:
            error = float((solve(a).detach() - truth).norm() / truth.norm())
            calls = [lambda s=solve: s(a), *([gradient(solve)] if differentiable else [])]
            times = interleaved(calls, rounds, [1] * len(calls), 1)
        except Exception as problem:  # a peer that fails is a row, too
            print(f"{name}: {type(problem).__name__}: {problem}")
            continue
        each = [1e6 * t / (ROWS * n * n) for t in times] + [math.nan]
        out.append(
            Row(
                contrast=contrast,
                n=n,
                method=name,
                iterations=iterations,
                forward=each[0],
                gradient=each[1],
                error=error,
            )
        )
    return out


def sparse_order(n: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the entries in the order of `sparse`."""
    number = torch.arange(n * n, device="cpu").view(n, n)
    i, j = [number.flatten()], [number.flatten()]
    for p, q in ((number[:-1], number[1:]), (number[:, :-1], number[:, 1:])):
        i += [p.flatten(), q.flatten()]
        j += [q.flatten(), p.flatten()]
    return torch.cat(i), torch.cat(j)


def main() -> None:
    """Run it; the module says what it shows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (32,) if arguments.quick else (32, 63, 126, 256)
    rows = [row for c in (4.0, 1e4) for n in sizes for row in rows_of(n, c, 1 if n > 126 else 2)]
    head = ["contrast", "grid", "method", "iterations", "forward, us an unknown", "with gradient", "error"]
    lines = [head] + [
        [
            f"{r.contrast:g}",
            f"{r.n}^2",
            r.method,
            str(r.iterations or ""),
            f"{r.forward:.2f}",
            "" if math.isnan(r.gradient) else f"{r.gradient:.2f}",
            f"{r.error:.0e}",
        ]
        for r in rows
    ]
    text = "# Solvers of flow through a medium\n\n" + __doc__.split("\n\n")[2].strip() + "\n\n" + ruled(lines)
    text = text.replace("\n\nCells", "\n\nWritten by `python benchmarks/pde_solvers.py`, four media at once. Cells")
    print(text)
    if not arguments.quick:
        save(arguments.out, "pde-solvers", text, rows)


if __name__ == "__main__":
    main()
