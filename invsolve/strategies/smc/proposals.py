"""What SMC does between two resamplings: twist, density, the step to the next level, and moves; in blocks of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import to_real
from invsolve.priors.capabilities import HasDensity, IsGaussian
from invsolve.problem import Problem
from invsolve.strategies.base import Run
from invsolve.strategies.guidance.guided import BoundGuidance
from invsolve.strategies.smc.coordinates import Coordinates, Jacobian
from invsolve.strategies.smc.kernels import Kernel
from invsolve.strategies.smc.twisted import BareLocal, DenseLocal, DiagonalLocal, Local

_LADDER = 0.5  # moves go up by a variance of a^2 2^(j / 2), j = `reach` of an item
_FIRST = 1  # of the draws of a step: 0 is its own noise, then four for every move

Form = Literal["diagonal", "dense", "bare"]
_LOCALS: dict[str, Callable[..., Local]] = {"diagonal": DiagonalLocal.of, "dense": DenseLocal.of, "bare": BareLocal.of}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """What all levels share. Per item: ``jacobian``; per row: ``guidance``, ``grid``."""

    coordinates: Coordinates
    form: Form
    grid: Tensor  # (N+1,) or (items or rows, N+1), float64, CPU
    jacobian: Jacobian | None  # None: the operator is linearised at every D
    fixed_noise: bool  # Gaussian; else the Jacobian is that of the operator alone, scaled at every D
    guidance: BoundGuidance | None  # whose D_y the steps go to; None: the one that belongs to the twist
    batch: int  # items
    block_bytes: int = 2**25  # matrices at a time: rows are run in blocks, which also keeps them in a CPU's cache

    @property
    def row_bytes(self) -> int:
        """Of the matrices of one row, about."""
        n = self.coordinates.size
        if self.jacobian is not None:
            m = self.jacobian.matrix.shape[-2]
        else:
            m = n  # at most, once rotated
        each = {"diagonal": 2 * m * n + 5 * m * m, "dense": 6 * n * n + 3 * m * n, "bare": 4 * m * n + 3 * m * m}
        shared = self.form == "diagonal" and isinstance(self.coordinates.prior, IsGaussian) and self.fixed_noise
        if shared and self.jacobian is not None and len(self.jacobian.matrix) == 1:
            return 8 * 16 * (n + m)
        return 8 * (each[self.form] + 16 * n)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """Particles at level a with their step to b drawn."""

    x: Tensor  # (rows, *shape)
    density: Tensor  # (rows,): log density of the noisy signals where it is known, else 0
    twist: Tensor  # (rows,): log twist
    move: Tensor  # (rows, n): at level b, in u
    increment: Tensor  # (rows,): log weight of the step, without the targets at a and b

    def target(self, exponent: Tensor) -> Tensor:
        """Log of the density times a power of the twist, ``exponent`` (rows,)."""
        return self.density + exponent * self.twist

    def take(self, index: Tensor) -> Ready:
        return Ready(**{name: value[index] for name, value in vars(self).items()})

    def put(self, index: Tensor, other: Ready) -> Ready:
        """``other`` in the rows ``index``."""
        new = vars(other)
        return Ready(**{name: value.index_copy(0, index, new[name]) for name, value in vars(self).items()})

    @staticmethod
    def joined(parts: list[Ready]) -> Ready:
        return Ready(**{name: torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])})


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Level:
    """The step from level a to b of a run, for all its rows; the ``last`` one, from any level, ends without noise."""

    run: Run
    setting: Setting
    density: HasDensity | None  # the prior, if it knows its own: weights are then exact at any step size
    i: int
    a: Tensor  # () or (rows,), on the device
    b: Tensor
    last: bool
    z: Tensor  # (rows, n): the step's own noise

    @classmethod
    def of(cls, run: Run, setting: Setting, density: HasDensity | None, i: int, *, last: bool) -> Self:
        a, b = (setting.grid[..., j].to(run.problem.data.device) for j in (i, -1 if last else i + 1))
        return cls(
            run=run, setting=setting, density=density, i=i, a=a, b=b, last=last, z=to_real(run.normal(i)).double()
        )

    # --- twist, density and step --------------------------------------------------------------------------------------
    def ready(self, x: Tensor, rows: Tensor) -> Ready:
        """For particles ``x`` that stand in ``rows``."""
        parts = [self._ready(x[k], rows[k]) for k in self._blocks(len(rows))]
        return parts[0] if len(parts) == 1 else Ready.joined(parts)

    def _ready(self, x: Tensor, rows: Tensor) -> Ready:
        problem, a, b, z = self._problem(rows), self._of(self.a, rows), self._of(self.b, rows), self.z[rows]
        coordinates = self.setting.coordinates
        u = coordinates.analysis(x)
        local = self._local(problem, x, u, a, rows)
        twist = local.log_twist
        density = torch.zeros_like(twist) if self.density is None else self._log_density(x, u, rows)
        if self.last:
            move = local.guided(u, b).draw(z)
            exact = problem.linear and self.setting.fixed_noise
            increment = torch.zeros_like(twist)
            if not (exact or self.setting.form == "bare"):
                increment = local.log_likelihood_ratio(problem, coordinates, move)
            return Ready(x=x, density=density, twist=twist, move=move, increment=increment)
        kernel = self._kernel(local, problem, x, u, b, rows)
        move = kernel.draw(z)
        if self.density is not None:
            back = log_white(u - move, a**2 - b**2)
        else:
            back = local.unguided(u, b).log_prob(move)
        increment = back - kernel.log_prob_of(z)
        return Ready(x=x, density=density, twist=twist, move=move, increment=increment)

    # --- moves --------------------------------------------------------------------------------------------------------
    def moved(self, ready: Ready, rows: Tensor, reach: Tensor, exponent: Tensor, number: int) -> tuple[Ready, Tensor]:
        """One Metropolis move of the particles in ``rows``: noise up to a level a', then a guided step back to a.

        ``reach`` (rows,), integers, the same for all particles of an item: ``a'^2 = a^2 (1 + 2^(reach / 2))``. Leaves
        ``density * twist^exponent`` of level a invariant: x' at level a' is a Gibbs draw in the distribution extended
        by the forward noising, and the step back from x', whose Gaussian does not depend on x, is an independence
        proposal for x given x'. Returns the particles (where accepted with new steps), and what was accepted (rows,).
        """
        accepted = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        first = _FIRST + 4 * number
        draws = [to_real(self.run.normal(self.i, index=first + k)).double()[rows] for k in (0, 1)]
        normal = self.run.draws.normal((1,), torch.float64, step=self.i + 1, index=first + 2)[rows, 0]
        log_uniform = torch.special.log_ndtr(normal)
        for value in sorted(set(reach.tolist())):
            chosen = (reach == value).nonzero()[:, 0]
            for block in self._blocks(len(chosen)):
                k = chosen[block]
                old = ready.take(k)
                new, kernels = self._proposed(old.x, rows[k], 2.0 ** (_LADDER * value), draws[0][k], draws[1][k])
                log_ratio = new.target(exponent[k]) - old.target(exponent[k]) + kernels
                # A comparison with NaN is False: never accepted, nor is what the target does not know.
                yes = (log_uniform[k] < log_ratio) & torch.isfinite(new.target(exponent[k]))
                accepted[k] = yes
                ready = ready.put(k[yes], new.take(yes.nonzero()[:, 0]))
        return ready, accepted

    def uniform(self, number: int) -> Tensor:
        """One uniform number for every row, beside those of move ``number``."""
        normal = self.run.draws.normal((1,), torch.float64, step=self.i + 1, index=_FIRST + 4 * number + 3)
        uniform: Tensor = torch.special.ndtr(normal[:, 0])
        return uniform

    def _proposed(self, x: Tensor, rows: Tensor, growth: float, up: Tensor, down: Tensor) -> tuple[Ready, Tensor]:
        """What a move proposes, and the log ratio of the kernels, backwards over forwards."""
        problem, a, coordinates = self._problem(rows), self._of(self.a, rows), self.setting.coordinates
        u = coordinates.analysis(x)
        high, variance = a * (1 + growth) ** 0.5, a**2 * growth
        v = u + variance.sqrt().view(-1, 1) * up
        x_high = coordinates.synthesis(v)
        local = self._local(problem, x_high, v, high, rows)
        kernel = self._kernel(local, problem, x_high, v, a, rows, level=high)
        w = kernel.draw(down)
        new = self._ready(coordinates.synthesis(w), rows)
        forwards = log_white(v - u, variance) + kernel.log_prob_of(down)
        backwards = log_white(v - w, variance) + kernel.log_prob(u)
        return new, backwards - forwards

    # --- rows ---------------------------------------------------------------------------------------------------------
    def _local(self, problem: Problem, x: Tensor, u: Tensor, level: Tensor, rows: Tensor) -> Local:
        jacobian = self.setting.jacobian
        if jacobian is not None:
            jacobian = jacobian.take(rows % self.setting.batch)
        return _LOCALS[self.setting.form](problem, self.setting.coordinates, jacobian, x, u, level)

    def _kernel(
        self, local: Local, problem: Problem, x: Tensor, u: Tensor, b: Tensor, rows: Tensor, level: Tensor | None = None
    ) -> Kernel:
        if self.setting.guidance is None:
            return local.guided(u, b)
        t = (self._of(self.a, rows) if level is None else level).to(self.run.prior.dtype)
        bound = self.setting.guidance if len(rows) == self.run.rows else self.setting.guidance.take(rows)
        value, _ = bound(x, t.view(-1, *([1] * (x.ndim - 1))) if t.ndim else t)
        return local.unguided(u, b, self.setting.coordinates.analysis(value))

    def _log_density(self, x: Tensor, u: Tensor, rows: Tensor) -> Tensor:
        assert self.density is not None
        if isinstance(self.setting.coordinates.prior, IsGaussian):
            return self.setting.coordinates.log_density(u, self._of(self.a, rows))
        return log_density(self.density, x, self._of(self.setting.grid[..., self.i], rows.cpu()))

    def _problem(self, rows: Tensor) -> Problem:
        return self.run.problem if len(rows) == self.run.rows else self.run.problem.take(rows)

    def _of(self, values: Tensor, rows: Tensor) -> Tensor:
        return values[rows] if values.ndim else values

    def _blocks(self, count: int) -> list[slice]:
        size = max(1, self.setting.block_bytes // self.setting.row_bytes)
        return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def log_density(prior: HasDensity, x: Tensor, level: Tensor) -> Tensor:
    """``log p_t(x)``, (rows,); ``level`` () or (rows,), on the CPU."""
    if not level.ndim:
        return prior.log_prob(x, float(level)).double()
    out = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for value in set(level.tolist()):
        here = (level == value).nonzero()[:, 0].to(x.device)
        out[here] = prior.log_prob(x[here], value).double()
    return out


def log_white(away: Tensor, variance: Tensor) -> Tensor:
    """Log N(away; 0, variance) per row, without ``(2 pi)^(-n/2)``; ``variance`` () or (rows,)."""
    return -0.5 * (away.square().sum(1) / variance + away.shape[1] * variance.log())
