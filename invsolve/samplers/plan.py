"""A sampler and a grid, ready to run: the coefficients are computed and converted once, not in the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from invsolve.core.validation import real_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.samplers.base import Denoise, Level, Noise, Sampler, SamplerState
from invsolve.samplers.grids import check_grid

_Step = tuple[tuple[Level, Level], Sequence[Level]]
_Kind = tuple[torch.device, torch.dtype, int]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A sampler on a grid, with the coefficients of all its steps; `Plan.make` computes them.

    Parameters
    ----------
    sampler : Sampler
        How noise is removed.
    grid : Tensor, shape (N + 1,) or (rows, N + 1)
        Noise levels, float64 on the CPU, decreasing to 0: shared by all rows, or a grid for every row.
    table : Tensor, shape (N, K) or (rows, N, K)
        What ``sampler.plan(grid)`` gives, float64 on the CPU.

    Examples
    --------
    >>> from invsolve.samplers import Euler, log_grid
    >>> plan = Plan.make(Euler(), log_grid(10.0, 0.1, 3))
    >>> state = plan.sampler.init(torch.tensor([[10.0]]))
    >>> for i in range(plan.num_steps):
    ...     state = plan.step(lambda x, level: 0.5 * x, state, i, noise=lambda index: torch.zeros(1, 1))
    >>> state.x
    tensor([[1.5125]])
    """

    sampler: Sampler
    grid: Tensor  # float64, CPU
    table: Tensor  # (N, K) or (rows, N, K), float64, CPU
    _cache: dict[_Kind, list[_Step]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def make(cls, sampler: Sampler, grid: Tensor) -> Plan:
        """Check the grid and compute the coefficients of all steps.

        Parameters
        ----------
        sampler : Sampler
            How noise is removed, such as ``UniPC()``.
        grid : Tensor, shape (N + 1,) or (rows, N + 1)
            Noise levels, see `check_grid`.

        Returns
        -------
        Plan

        Raises
        ------
        InputError, InputTypeError
            If one of them is not what it should be.
        """
        if not isinstance(sampler, Sampler):
            raise invalid_type("Plan", "sampler", "a Sampler, such as invsolve.samplers.UniPC()", sampler)
        grid = check_grid("Plan", "grid", grid)
        return cls(sampler=sampler, grid=grid, table=sampler.plan(grid))

    @property
    def num_steps(self) -> int:
        """Steps N of the grid."""
        return self.grid.shape[-1] - 1

    @property
    def evaluations(self) -> int:
        """Denoiser evaluations of the whole walk, per row."""
        return self.sampler.evaluations(self.num_steps)

    def take(self, index: Tensor | Sequence[int] | slice) -> Plan:
        """The plan of some rows; itself when the grid is shared."""
        if self.grid.ndim == 1:
            return self
        rows = index.cpu() if isinstance(index, Tensor) else index
        return replace(self, grid=self.grid[rows], table=self.table[rows])

    def step(self, denoise: Denoise, state: SamplerState, i: int, noise: Noise) -> SamplerState:
        """Step ``i`` of ``range(num_steps)``; ``noise(index)`` gives unit diffusion noise ``(rows, *shape)``."""
        levels, c = self._shared[i] if self.grid.ndim == 1 else self._per_row(state.x)[i]
        return self.sampler.step(denoise, state, levels, c, noise)

    @cached_property
    def _shared(self) -> list[_Step]:
        levels, rows = self.grid.tolist(), self.table.tolist()
        return [((levels[i], levels[i + 1]), row) for i, row in enumerate(rows)]

    def _per_row(self, x: Tensor) -> list[_Step]:
        """Every step's numbers as ``(rows, 1, ..., 1)`` beside ``x``; what is zero in every row is the float 0.0."""
        kind = (x.device, real_dtype(x.dtype), x.ndim)
        if len(x) != len(self.grid):
            want = f"of {len(self.grid)} rows, as the grid"
            raise invalid("Plan", "state.x", want, f"{len(x)} rows", "Use plan.take(index).")
        if kind not in self._cache:
            # One copy to the device; the pieces are views of it.
            both = torch.cat((self.grid[:, :-1, None], self.grid[:, 1:, None], self.table), dim=-1).permute(1, 2, 0)
            zero = (both == 0).all(dim=-1).tolist()
            moved = both.to(kind[0], kind[1]).view(*both.shape, *([1] * (x.ndim - 1)))
            steps: list[_Step] = []
            for numbers, zeros in zip(moved, zero, strict=True):
                values: list[Level] = [0.0 if z else v for v, z in zip(numbers, zeros, strict=True)]
                steps.append(((values[0], values[1]), values[2:]))
            self._cache[kind] = steps
        return self._cache[kind]
