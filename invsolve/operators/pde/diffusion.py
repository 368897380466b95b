"""Flow through a medium, ``-div(a grad u) = f``: the coefficient of the medium to the potential, or pressure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.conjugate_gradients import conjugate_gradients, expand
from invsolve.core.validation import Shape, check_choice, check_finite, check_number, check_positive
from invsolve.errors import invalid, invalid_type
from invsolve.operators.base import Operator
from invsolve.operators.pde.linear_solve import Solve, solve_linear
from invsolve.operators.pde.lost_rows import lose, warn_lost
from invsolve.operators.pde.modes import check_grid
from invsolve.operators.pde.multigrid import Faces, Multigrid
from invsolve.operators.pde.sparse_factors import DirectSolve

Wall = float | Literal["no flow"]
_MEANS = ("harmonic", "arithmetic")
_WHERE = ("points", "points and walls")
_MAX_ITER = 300
_NEAR = 30.0  # times rtol: a residual with which a row counts as solved


@final
@dataclass(frozen=True, eq=False, repr=False)
class Darcy(Operator):
    """The coefficient a of a medium to the solution u of ``-div(a grad u) = f``: conductivity to potential or pressure.

    Finite volumes of second order: what flows between neighbours is the difference of u times the mean of a. Solved for
    all rows at once by conjugate gradients with a multigrid preconditioner, whose number of iterations hardly depends
    on the grid; derivatives take one more solve each.

    Parameters
    ----------
    grid : CartesianGrid
        ``points="centers"`` (cells of constant a) or ``"interior"`` (nodes between walls that hold u), 1 to 3 axes.
    source : float or Tensor, shape (*grid.shape) or (items, *grid.shape)
        f at the points. A well that injects q into a cell is ``q / grid.cell`` there.
    log : bool
        True if the signal is log a, which may be any number; False if it is a, > 0.
    mean : {"harmonic", "arithmetic"}
        Of a between neighbours. Harmonic is right for cells of different media, arithmetic for a smooth a at nodes.
    walls : float, "no flow", or a pair of these for each axis
        The value that a wall holds, or that nothing flows through it; of an axis the first wall and the last. For
        ``"interior"`` numbers only.
    coefficient : {"points", "points and walls"}
        Where the signal has values: at the points of the grid, the walls having that of their neighbours; or, for
        ``"interior"``, also on the walls, one more at both ends of each axis.
    solver : {"multigrid", "direct"}
        "direct" factorises the matrix of each row in double precision (scipy), and uses the factors again for the
        adjoint: for contrasts beyond about 1e5.
    rtol : float, optional
        Where a row of conjugate gradients stops, relative to its right side: 1e-6 in single and 1e-12 in double
        precision unless given.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, no wall holds u, or a signal holds a <= 0.

    Notes
    -----
    Rows whose a is not finite (or ``exp`` of which leaves its range), or that conjugate gradients do not solve in 300
    iterations, are NaN.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> A = Darcy(iv.CartesianGrid((3, 5)), log=True)
    >>> A
    Darcy((3, 5) -> (3, 5), real)
    >>> u = A(torch.zeros(1, 3, 5))  # of a = 1
    >>> bool((u > 0).all())
    True
    """

    grid: CartesianGrid
    _: KW_ONLY
    source: float | Tensor = 1.0
    log: bool = False
    mean: Literal["harmonic", "arithmetic"] = "harmonic"
    walls: Wall | Sequence[tuple[Wall, Wall]] = 0.0
    coefficient: Literal["points", "points and walls"] = "points"
    solver: Literal["multigrid", "direct"] = "multigrid"
    rtol: float | None = None

    def __post_init__(self) -> None:
        owner = "Darcy"
        grid = check_grid(owner, self.grid)
        if grid.points == "periodic":
            raise invalid(owner, "grid", 'of points="centers" or "interior", with walls', "points='periodic'")
        if not isinstance(self.log, bool):
            raise invalid_type(owner, "log", "True or False", self.log)
        check_choice(owner, "mean", self.mean, _MEANS)
        check_choice(owner, "coefficient", self.coefficient, _WHERE)
        check_choice(owner, "solver", self.solver, ("multigrid", "direct"))
        if self.coefficient == "points and walls" and grid.points != "interior":
            raise invalid(
                owner, "coefficient", "'points' for points='centers', whose walls have none", self.coefficient
            )
        if self.rtol is not None:
            check_positive(owner, "rtol", self.rtol)
        object.__setattr__(self, "walls", _checked_walls(owner, self.walls, grid))
        if isinstance(self.source, (int, float)) and not isinstance(self.source, bool):
            object.__setattr__(self, "source", check_number(owner, "source", self.source))
            return
        source = check_finite(owner, "source", real_parameter(owner, "source", self.source))
        if source.shape not in (grid.shape, (len(source), *grid.shape)):
            shapes = f"{grid.shape} or (items, {', '.join(map(str, grid.shape))})"
            raise invalid(owner, "source", f"a number or of shape {shapes}", tuple(source.shape))
        object.__setattr__(self, "source", source)

    def _item_axes(self) -> dict[str, int]:
        return {"source": len(self.grid.shape)}

    @property
    def in_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid; with the walls, two more along each axis."""
        more = 2 if self.coefficient == "points and walls" else 0
        return tuple(n + more for n in self.grid.shape)

    @property
    def out_shape(self) -> Shape:  # type: ignore[override]
        """The shape of the grid."""
        return self.grid.shape

    def _apply(self, x: Tensor) -> Tensor:
        a = x.exp() if self.log else x
        if not self.log and bool((low := a.detach() <= 0).any()):
            repair = "log=True takes log a, which may be any number."
            raise invalid("Darcy", "x", "> 0 everywhere: a is a conductivity", a.detach()[low][0].item(), repair)
        lost = ~((a.detach() > 0) & (a.detach() < torch.inf)).flatten(1).all(1)  # NaN, or exp has left its range
        a = torch.where(expand(lost, a), 1.0, a)
        faces = self.faces(a)
        f = (
            self.source
            if isinstance(self.source, Tensor)
            else torch.tensor(self.source, dtype=x.dtype, device=x.device)
        )
        f = (f * self.grid.cell).expand(len(x), *self.grid.shape) + self._from_walls(faces)
        return lose(solve_linear(a, f, self._solver(), lambda p, u: self.faces(p).apply(u)), lost)

    def faces(self, a: Tensor) -> Faces:
        """The conductances between neighbours for ``a`` ``(rows, *in_shape)``: mean of a, times area over distance."""
        grid, along = self.grid, []
        for k, h in enumerate(grid.spacing):
            own = a
            if self.coefficient == "points and walls":
                for other, n in enumerate(grid.shape):
                    own = own if other == k else own.narrow(other + 1, 1, n)
            left, right = own.narrow(k + 1, 0, own.shape[k + 1] - 1), own.narrow(k + 1, 1, own.shape[k + 1] - 1)
            inner = 2 * left * right / (left + right) if self.mean == "harmonic" else (left + right) / 2
            if self.coefficient == "points":
                near = 2.0 if grid.points == "centers" else 1.0  # a wall is half a cell away
                held = [0.0 if wall == "no flow" else near for wall in self._wall_pairs[k]]
                ends = own.narrow(k + 1, 0, 1) * held[0], own.narrow(k + 1, own.shape[k + 1] - 1, 1) * held[1]
                inner = torch.cat([ends[0], inner, ends[1]], k + 1)
            along.append(inner * (grid.cell / h**2))
        return Faces(tuple(along))

    @property
    def _wall_pairs(self) -> tuple[tuple[Wall, Wall], ...]:
        return self.walls  # type: ignore[return-value]  # once made

    def _from_walls(self, faces: Faces) -> Tensor | float:
        """What flows in from walls that hold another value than 0."""
        total: Tensor | float = 0.0
        for k, (pair, g) in enumerate(zip(self._wall_pairs, faces.along, strict=True), 1):
            n = self.grid.shape[k - 1]
            for value, place in zip(pair, (0, n), strict=True):
                if value not in ("no flow", 0.0):
                    entry = torch.zeros(n, dtype=g.dtype, device=g.device)
                    entry[min(place, n - 1)] = float(value)
                    total = total + g.narrow(k, place, 1) * entry.view(-1, *([1] * (g.ndim - 1 - k)))
        return total

    def _solver(self) -> Solve:
        """With what it keeps of one coefficient: levels, or factors, which serve the adjoint too."""
        kept: list[Any] = []

        def solve(a: Tensor, f: Tensor) -> Tensor:
            if not kept or kept[0].shape != a.shape or not torch.equal(kept[0], a):
                faces = self.faces(a)
                faces = Faces(tuple(g.contiguous() for g in faces.along))
                made = DirectSolve(faces) if self.solver == "direct" else Multigrid(faces, self.grid.spacing)
                kept[:] = [a, faces, made]
            _, faces, made = kept
            if isinstance(made, DirectSolve):
                return made(f)
            rtol = self.rtol or (1e-12 if f.dtype == torch.float64 else 1e-6)
            u, info = conjugate_gradients(faces.apply, f, rtol=rtol, max_iter=_MAX_ITER, precondition=made)
            if info.iterations < _MAX_ITER:
                return u
            bad = info.residual > _NEAR * rtol
            if bool(bad.any()):
                which = f"that were not solved to rtol={rtol:.0e} in {_MAX_ITER} iterations"
                warn_lost("Darcy", which, 'solver="direct" takes any contrast; a larger rtol may do.')
            return lose(u, bad)

        return solve


def _checked_walls(owner: str, walls: Any, grid: CartesianGrid) -> tuple[tuple[Wall, Wall], ...]:
    axes = len(grid.shape)
    if isinstance(walls, (str, int, float)) and not isinstance(walls, bool):
        walls = ((walls, walls),) * axes
    if not isinstance(walls, Sequence) or isinstance(walls, str):
        raise invalid_type(owner, "walls", 'a number, "no flow", or a pair of these for each axis', walls)
    if len(walls) != axes or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in walls):
        raise invalid(owner, "walls", f"a pair (first, last) for each of {axes} axes", walls)
    made = tuple(
        tuple("no flow" if isinstance(w, str) and w == "no flow" else check_number(owner, "walls", w) for w in pair)
        for pair in walls
    )
    still = [w == "no flow" for pair in made for w in pair]
    if grid.points == "interior" and any(still):
        raise invalid(
            owner, "walls", "numbers for points='interior'", "no flow", 'Cells, points="centers", may end without flow.'
        )
    if all(still):
        raise invalid(owner, "walls", "such that one at least holds u, which is else free by a constant", "no flow")
    return made  # type: ignore[return-value]
