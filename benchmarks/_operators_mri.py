"""The operators of MRI beside finufft, mri-nufft, torchkbnufft, mrpro and deepinv: a part of `operators.py`.

256 x 256 pixels. Rounds of all methods are interleaved, and the least time of each counts: other work on the machine only
ever adds time. A peer that is not installed has a row that says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from _tables import ruled
from _timing import clock, interleaved
from torch import Tensor

import invsolve as iv
from invsolve.operators.mri import radial

SIZE, SPOKES, SAMPLES = 256, 402, 512
ROUNDS = 4
EXACT = 200  # samples at which the exact sum is formed


class Maps(NamedTuple):
    """What is measured of a method: from images of coils ``(coils, H, W)`` to their samples, back, and both at once."""

    forward: Callable[[Tensor], Any] | None
    adjoint: Callable[[Tensor], Any] | None
    normal: Callable[[Tensor], Any] | None = None


# --- non-uniform transforms: by the trajectory in radians a pixel and the number of coils -------------------------------
def invsolve(omega: Tensor, coils: int, tol: float) -> Maps:
    """With maps: it multiplies by them and adds up the coils, which the peers here do not."""
    A = iv.operators.NonCartesianMRI(omega, (SIZE, SIZE), maps=torch.ones(coils, SIZE, SIZE), tol=tol)
    return Maps(lambda x: A(x[:1])[0], lambda y: A.adjoint(y[None]), lambda x: A.normal(x[:1]))


def finufft(omega: Tensor, coils: int, eps: float) -> Maps:
    """Plans with their points set, for all coils at once; the normal operator is forward and adjoint."""
    import finufft as library

    plans = []
    for kind, sign in ((2, -1), (1, 1)):
        plan = library.Plan(kind, (SIZE, SIZE), coils, eps, sign, dtype="complex64", nthreads=torch.get_num_threads())
        plan.setpts(*(np.ascontiguousarray(v, dtype=np.float32) for v in omega.numpy().T))
        plans.append(plan)
    to, back = plans

    def forward(x: Tensor) -> Tensor:
        return torch.from_numpy(to.execute(x.numpy())) / SIZE

    return Maps(forward, lambda y: back.execute(y.numpy()), lambda x: back.execute(to.execute(x.numpy())))


def mrinufft(omega: Tensor, coils: int) -> Maps:
    """On finufft, at 1e-4."""
    from mrinufft import get_operator

    make = get_operator("finufft")
    # In cycles a pixel; without maps, for so many coils.
    A = make((omega / (2 * math.pi)).float().numpy(), (SIZE, SIZE), n_coils=coils, squeeze_dims=True, eps=1e-4)
    return Maps(lambda x: torch.from_numpy(A.op(x.numpy())) * (A.norm_factor / SIZE), lambda y: A.adj_op(y.numpy()))


def torchkbnufft(omega: Tensor, coils: int) -> Maps:
    """By tables, with six neighbours, oversampled by two; its normal operator by Toeplitz."""
    import torchkbnufft as library

    at = omega.mT.float().contiguous()
    to, back = library.KbNufft((SIZE, SIZE)), library.KbNufftAdjoint((SIZE, SIZE))
    kernel = library.calc_toeplitz_kernel(at, (SIZE, SIZE))
    toeplitz = library.ToepNufft()
    return Maps(lambda x: to(x[None], at)[0] / SIZE, lambda y: back(y[None], at), lambda x: toeplitz(x[None], kernel))


def mrpro(omega: Tensor, coils: int) -> Maps:
    """`NonUniformFastFourierOp`, which takes cycles over the field of view."""
    from mrpro.data import SpatialDimension
    from mrpro.operators import NonUniformFastFourierOp

    k = omega.float() / (2 * math.pi) * SIZE
    size = SpatialDimension(1, SIZE, SIZE)
    A = NonUniformFastFourierOp(
        direction=("y", "x"), recon_matrix=size, encoding_matrix=size,
        traj=torch.stack([torch.zeros(len(k)), *k.mT]).view(3, 1, 1, 1, -1)[:, None],
    )  # fmt: skip
    return Maps(lambda x: A(x[None, :, None])[0].reshape(coils, -1), lambda y: A.adjoint(y[None, :, None, None]))


METHODS: dict[str, Callable[[Tensor, int], Maps]] = {
    "invsolve, 5e-4": partial(invsolve, tol=5e-4),
    "invsolve, 6e-5": partial(invsolve, tol=1e-4),
    "invsolve, 1e-5": partial(invsolve, tol=1e-5),
    "finufft, 1e-3": partial(finufft, eps=1e-3),
    "finufft, 1e-4": partial(finufft, eps=1e-4),
    "finufft, 1e-6": partial(finufft, eps=1e-6),
    "mri-nufft": mrinufft,
    "torchkbnufft": torchkbnufft,
    "mrpro": mrpro,
}


def exact(omega: Tensor, x: Tensor) -> Tensor:
    """The sum itself, ``(coils, EXACT)``."""
    n = torch.arange(SIZE, dtype=torch.float64) - SIZE // 2
    rows, columns = (torch.exp(-1j * omega[:EXACT, a, None] * n) for a in (0, 1))
    return torch.einsum("my,cyx,mx->cm", rows, x.to(torch.complex128), columns) / SIZE


def nonuniform(coils: int, threads: int, names: list[str]) -> list[dict[str, Any]]:
    omega = radial(SPOKES, SAMPLES, angles="golden")
    # The first are those of the exact sum: from everywhere.
    omega = omega[
        torch.randperm(len(omega), generator=torch.Generator().manual_seed(0))[:EXACT].tolist()
        + list(range(len(omega) - EXACT))
    ]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, SIZE, SIZE, dtype=torch.complex64, generator=rng).expand(coils, -1, -1).contiguous()
    y = torch.randn(coils, len(omega), dtype=torch.complex64, generator=rng)
    want, made, notes, build, error = exact(omega, x), {}, {}, {}, {}
    for name in names:
        started = clock(threads)
        try:
            maps = METHODS[name](omega, coils)
            assert maps.forward is not None and maps.adjoint is not None
            found = maps.forward(x)
        except (ImportError, RuntimeError, TypeError, ValueError, AttributeError) as reason:
            notes[name] = f"not measured: {type(reason).__name__}: {reason}".splitlines()[0][:80]
            continue
        build[name] = clock(threads) - started
        error[name] = float((found[:, :EXACT] - want).norm() / want.norm())
        maps.adjoint(y)
        if maps.normal is not None:
            maps.normal(x)
        made[name] = maps
    calls: list[Callable[[], object]] = []
    for maps in made.values():
        for call, value in zip(maps, (x, y, x), strict=True):
            calls.append(partial(call, value) if call is not None else lambda: None)
    best = interleaved(calls, ROUNDS, [2] * len(calls), threads)
    out = []
    for name in names:
        row = {
            "case": f"radial, {coils} coils" if coils > 1 else "radial, 1 coil",
            "batch": 1,
            "threads": threads,
            "method": name,
        }
        if name in notes:
            out.append(
                row
                | dict.fromkeys(("forward", "adjoint", "normal", "build", "error"), math.nan)
                | {"note": notes[name]}
            )
        else:
            i = 3 * list(made).index(name)
            milliseconds = [1000 * seconds for seconds in best[i : i + 3]]
            normal = milliseconds[2] if made[name].normal is not None else math.nan
            out.append(
                row | {
                    "forward": milliseconds[0], "adjoint": milliseconds[1], "normal": normal,
                    "build": build[name], "error": error[name], "note": "",
                }
            )  # fmt: skip
        print(out[-1], flush=True)
    return out


# --- Cartesian ----------------------------------------------------------------------------------------------------------
def cartesian(batch: int, threads: int) -> list[dict[str, Any]]:
    """Eight coils, every fourth column and twenty in the middle."""
    coils = 8
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(coils, SIZE, SIZE, dtype=torch.complex64, generator=rng)
    maps = maps / maps.abs().square().sum(0).sqrt()
    mask = torch.zeros(1, SIZE, dtype=torch.bool)
    mask[:, ::4] = mask[:, SIZE // 2 - 10 : SIZE // 2 + 10] = True
    x = torch.randn(batch, SIZE, SIZE, dtype=torch.complex64, generator=rng)
    y = torch.randn(batch, coils, SIZE, SIZE, dtype=torch.complex64, generator=rng)
    A = iv.operators.MRI(mask, (SIZE, SIZE), maps=maps)
    made = {"invsolve": (partial(A, x), partial(A.adjoint, y), partial(A.normal, x))}
    notes = {}
    try:
        from deepinv.physics import MultiCoilMRI

        physics = MultiCoilMRI(
            mask=mask.float().expand(SIZE, -1)[None, None], coil_maps=maps[None], img_size=(2, SIZE, SIZE)
        )
        pairs, data = (
            torch.view_as_real(x).movedim(-1, 1).contiguous(),
            torch.view_as_real(y).movedim(-1, 1).contiguous(),
        )
        assert torch.allclose(torch.view_as_real(A.normal(x)).movedim(-1, 1), physics.A_adjoint_A(pairs), atol=1e-4)
        made["deepinv"] = (
            partial(physics.A, pairs),
            partial(physics.A_adjoint, data),
            partial(physics.A_adjoint_A, pairs),
        )
    except ImportError as reason:
        notes["deepinv"] = f"not measured: {reason}"
    for calls in made.values():
        for call in calls:
            call()
    best = interleaved([call for calls in made.values() for call in calls], 2 * ROUNDS, [2] * 3 * len(made), threads)
    out = []
    for i, name in enumerate(made):
        times = dict(
            zip(("forward", "adjoint", "normal"), (1000 * s / batch for s in best[3 * i : 3 * i + 3]), strict=True)
        )
        out.append(
            {"case": "Cartesian, 8 coils", "batch": batch, "threads": threads, "method": name}
            | times
            | {"build": math.nan, "error": math.nan, "note": ""}
        )
        print(out[-1], flush=True)
    return out


def rows(threads: int, quick: bool = False) -> list[dict[str, Any]]:
    eight = nonuniform(8, threads, list(METHODS)[:5] if quick else list(METHODS))
    one = [] if quick else nonuniform(1, threads, ["invsolve, 5e-4", "invsolve, 6e-5", "finufft, 1e-4"])
    return eight + one + [row for batch in ((1,) if quick else (1, 8)) for row in cartesian(batch, threads)]


LEGEND = f"""## Magnetic resonance imaging

{SIZE} x {SIZE} pixels, complex64. Radial: {SPOKES} spokes at the golden angle, {SAMPLES} samples each. Milliseconds of an image
(of all its coils), the least of {2 * ROUNDS} calls in interleaved rounds: of the CPU on one thread, of the wall on two. **ratio**:
how many times faster than finufft at 1e-4, or than deepinv, in the same rounds; below 1: slower. **error**: relative, of the
forward map against the exact sum at {EXACT} samples. **build**: seconds until the first answer.

Ours multiplies by coil maps and adds the coils up; the peers transform the images of the coils. Names say the accuracy that was
asked for. The normal operator of finufft is forward and adjoint, those of ours and torchkbnufft are convolutions.
Cartesian: a mask of columns, eight coils.
"""


def table(found: list[dict[str, Any]]) -> str:
    head = ["case", "batch", "threads", "method", "forward, ms", "ratio", "adjoint, ms", "ratio", "normal, ms", "ratio"]
    lines = [[*head, "error", "build, s"]]
    for r in found:
        where = [r["case"], str(r["batch"]), str(r["threads"]), r["method"]]
        if r["note"]:
            lines.append([*where, r["note"], *[""] * 7])
            continue
        same = [b for b in found if all(b[k] == r[k] for k in ("case", "batch", "threads"))]
        base = next((b for b in same if b["method"] in ("finufft, 1e-4", "deepinv") and not b["note"]), None)
        cells = []
        for name in ("forward", "adjoint", "normal"):
            known = not math.isnan(r[name])
            cells += [f"{r[name]:.2f}" if known else "", f"{base[name] / r[name]:.2g}" if known and base else ""]
        last = [
            f"{r['error']:.1e}" if not math.isnan(r["error"]) else "",
            f"{r['build']:.2f}" if not math.isnan(r["build"]) else "",
        ]
        lines.append([*where, *cells, *last])
    return ruled(lines)
