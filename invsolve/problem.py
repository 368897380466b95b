"""The frozen bundle that a solve works on: operator, data, noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Self, final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.arrays import as_tensor, one_variable
from invsolve.core.coordinates import Coordinates
from invsolve.core.fingerprint import fingerprint
from invsolve.core.grid import Grid
from invsolve.core.notebook import TextInNotebook
from invsolve.core.ownership import kept, replaced
from invsolve.core.torch_state import Defined
from invsolve.core.validation import Shape, check_finite, check_kind, check_shape, kind_dtype
from invsolve.errors import invalid, invalid_type
from invsolve.noise import Gaussian, Noise
from invsolve.noise.convert import noise_for_data, refuse_impossible_data
from invsolve.noise.rounding import drowned
from invsolve.operators.axes import Axes
from invsolve.operators.base import LinearOperator, Operator
from invsolve.operators.family import Family
from invsolve.operators.inputs import data_repair, not_an_operator


@final
@dataclass(frozen=True, eq=False, repr=False)
class Problem(TextInNotebook, Defined):
    """A measurement: ``data = noise(operator(x))``, everything but the prior; what `solve` works on.

    Parameters
    ----------
    operator : Operator
        The forward map A from the signal to the clean measurement.
    data : Tensor, ndarray, DataArray, list or path, shape (batch, *operator.out_shape) or (*operator.out_shape)
        The measurement y, finite, and possible under the noise: counts are whole numbers. Without a batch axis it is
        one measurement, and results have none either. The operator is cast to the precision of a tensor; numpy, xarray,
        lists and the path of a .npy file are converted to that of the operator, float32 without one, or float64 where
        the noise is smaller than 16 spacings of such numbers.
    noise : Noise or float
        An `iv.noise` model or a positive number, the std of Gaussian noise in the units of the data; for complex data
        per real component.
    dims : sequence of str, optional
        Names of the signal's axes, for xarray; by default those of a DataArray with the shape of the signal, unless the
        operator is known to have its data elsewhere (MRI, CT, diffraction).
    coords : mapping, optional
        Coordinates along axes of the signal and the batch, by name, as xarray takes them: numbers, text, dates; by
        default those of the DataArray along the axes whose names are taken from it.
    batch_dim : str
        The name of the batch axis in datasets; that of a DataArray with a batch axis, else "item".
    units : str
        The unit of the signal; "" by default.
    grid : Grid, optional
        The size of its pixels in mm, and where it is in the patient: `iv.open` fills it in, `prior.on(problem)` and
        `Result.save` to NIfTI and DICOM use it.

    Attributes
    ----------
    batched : bool
        False for one measurement without a batch axis; ``data`` itself always has one.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be, or operator, data and noise do not fit together.

    Examples
    --------
    >>> import invsolve as iv
    >>> problem = iv.Problem(iv.operators.Matrix(matrix=torch.eye(2)), torch.tensor([1.0, 2.0]), noise=0.1)
    >>> problem.data.shape, problem.batched, problem.noise.std
    (torch.Size([1, 2]), False, 0.1)
    """

    _takes_arrays = False

    operator: Operator
    data: Tensor
    noise: Noise
    dims: tuple[str, ...] | None = field(default=None, kw_only=True)
    units: str = field(default="", kw_only=True)
    coords: Coordinates = field(default_factory=dict, kw_only=True)
    batch_dim: str = field(default="", kw_only=True)
    grid: Grid | None = field(default=None, kw_only=True)
    batched: bool = field(default=True, init=False)

    if TYPE_CHECKING:  # what is accepted; `__post_init__` makes of it what the fields say

        def __init__(
            self,
            operator: Operator,
            data: Any,
            noise: Noise | Tensor | float,
            *,
            dims: Iterable[str] | None = None,
            units: str = "",
            coords: Mapping[str, Any] | None = None,
            batch_dim: str = "",
            grid: Grid | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        self._check("Problem", "operator", "data")

    def _check(self, owner: str, a: str, y_name: str) -> None:
        """Check and convert the fields, for a caller ``owner`` who calls operator and data ``a`` and ``y_name``."""
        if not isinstance(self.operator, Operator):
            raise not_an_operator(owner, a, self.operator)
        A = self.operator
        device = A.device or torch.device("cpu")
        given = one_variable(owner, y_name, self.data)
        y = precise(owner, y_name, given, self.noise, dtype=A.dtype or torch.float32, device=device)
        batched = tuple(y.shape) != tuple(A.out_shape)
        y = y if batched else y[None]
        y = check_shape(owner, y_name, y, A.out_shape, data_repair(A, tuple(y.shape)) if batched else "")
        check_kind(owner, y_name, y, A.out_kind)
        if A.dtype is not None and A.dtype != (real := kind_dtype(y.dtype, "real")):
            A = in_precision(A, real)
            object.__setattr__(self, "operator", A)
        if A.device is not None and A.device != y.device:
            repair = f"Move it: {y_name}.to({a}.device)."
            raise invalid(owner, y_name, f"on the operator's device, {A.device}", y.device, repair)
        if A.batch is not None and A.batch != len(y):
            raise invalid(owner, y_name, f"of {A.batch} rows, one for each item of the operator", len(y))
        if len(y) == 0:
            raise invalid(owner, y_name, "of at least one row", 0)
        y = _measured(owner, y_name, y, A, a)
        axes = Axes.of(owner, A, given, len(y), dims=self.dims, coords=self.coords, batch_dim=self.batch_dim)
        for name in ("dims", "coords", "batch_dim"):
            object.__setattr__(self, name, getattr(axes, name))
        if self.grid is not None:
            _check_grid(owner, self.grid, tuple(A.in_shape))
        object.__setattr__(self, "data", kept(y.detach()) if isinstance(self.data, Tensor) else y)
        object.__setattr__(self, "batched", batched)
        noise = noise_for_data(owner, self.noise, out_shape=A.out_shape, batch=len(y), dtype=y.dtype, device=y.device)
        refuse_impossible_data(owner, y_name, noise, y, A.observed)
        object.__setattr__(self, "noise", noise)

    # --- what a solver asks ------------------------------------------------------------------------------------------
    @property
    def shape(self) -> Shape:
        """The shape of the signal."""
        return tuple(self.operator.in_shape)

    @property
    def signal_dtype(self) -> torch.dtype:
        """The signal's dtype: the data's precision, the operator's kind."""
        return kind_dtype(self.data.dtype, self.operator.in_kind)

    @property
    def linear(self) -> bool:
        """True if the operator is a `LinearOperator`."""
        return isinstance(self.operator, LinearOperator)

    @property
    def shared(self) -> bool:
        """True if every row has the same operator and noise, so that factorisations can be shared."""
        return self.operator.batch is None and not self.noise.per_item

    @property
    def num_data(self) -> Tensor:
        """How many real values were observed, (batch,): a complex datum counts twice."""
        each = 2 if self.data.is_complex() else 1
        observed = self.operator.observed
        if observed is None:
            return torch.full((len(self.data),), each * prod(self.operator.out_shape), device=self.data.device)
        return each * observed.expand(self.data.shape).flatten(1).sum(1)

    def whiten(self, r: Tensor) -> Tensor:
        """``G^-1/2 r`` with zeros where nothing was observed; the noise must be Gaussian."""
        return self._gaussian.whiten(r, self.operator.observed)

    def unwhiten_adjoint(self, w: Tensor) -> Tensor:
        """The adjoint of `whiten`."""
        return self._gaussian.unwhiten_adjoint(w, self.operator.observed)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Log p(y | x) per row, ``x`` ``(batch, *shape)``."""
        return self.noise.log_prob(self.data, self.operator(x), self.operator.observed)

    def chi2(self, x: Tensor) -> Tensor:
        """chi^2 per datum of ``x`` ``(batch, *shape)``, (batch,): about 1 for a right model; NaN without data."""
        white = self.noise.residual(self.data, self.operator(x), self.operator.observed)
        return white.abs().square().flatten(1).sum(1) / self.num_data

    def gaussianised(self, clean: Tensor) -> Self:
        """The same rows with Gaussian noise, of a std for every datum, that stands for the noise near ``clean``.

        ``clean`` ``(batch, *out_shape)``, the operator's output. Data and std are those of `Noise.gaussian_at`: the
        gradient of log p at ``clean``, and its Fisher information, are unchanged. Gaussian noise stays as it is.
        """
        return self.surrogate(clean)[0]

    def surrogate(self, clean: Tensor) -> tuple[Self, Tensor]:
        """`gaussianised`, and the peak (rows,), float64, of its log density that makes it log p itself at ``clean``."""
        observed = self.operator.observed
        if isinstance(self.noise, Gaussian):
            return self, self.noise.log_prob(self.data, self.data, observed).double()
        data, std, peak = self.noise.gaussian_at(self.data, clean, observed)
        dtype = self.data.dtype
        return self._with(data=data.to(dtype), noise=Gaussian.of_rows(std.to(kind_dtype(dtype, "real")))), peak

    def with_unit_noise(self) -> Self:
        """The same rows with Gaussian noise of std 1: whitening then leaves out what is not observed, no more."""
        return self._with(noise=Gaussian(std=1.0))

    def take(self, index: Tensor) -> Self:
        """The problem of the rows ``index``."""
        places = np.asarray(index.cpu()) if self.coords else None
        coords = self.coords if places is None else {k: c.taken(self.batch_dim, places) for k, c in self.coords.items()}
        grid = (
            self.grid
            if self.grid is None or len(self.grid.slices) != len(self.data)
            else self.grid.take(index.tolist())
        )
        parts = {"operator": self.operator.take(index), "data": self.data[index], "noise": self.noise.take(index)}
        return self._with(**parts, coords=coords, grid=grid)

    def _with(self, **values: object) -> Self:
        """With these fields, which need no second check."""
        other = object.__new__(type(self))
        for name, value in (vars(self) | values).items():
            object.__setattr__(other, name, value)
        return other

    def replaced(self, *, operator: Operator, noise: Noise) -> Self:
        """The same data with another operator, of the same shapes, and another noise."""
        other = replaced(self, operator=operator, noise=noise)
        object.__setattr__(other, "batched", self.batched)
        return other

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same problem moved and cast."""
        real = dtype or kind_dtype(self.data.dtype, "real")
        data = self.data.to(device=device, dtype=kind_dtype(real, "complex" if self.data.is_complex() else "real"))
        moved = replaced(self, operator=self.operator.to(device, dtype), data=data)
        object.__setattr__(moved, "batched", self.batched)
        return moved

    def __repr__(self) -> str:
        return f"Problem({self.operator!r}, y {tuple(self.data.shape)}, {type(self.noise).__name__})"

    def __str__(self) -> str:
        """What the problem assumes, in a few lines."""
        count = sorted(set(self.num_data.tolist()))
        numbers = f"{count[0]}" if len(count) == 1 else f"{count[0]} to {count[-1]}"
        lines = [repr(self), f"  data: {numbers} real numbers per item, {len(self.data)} item(s), {self.data.dtype}"]
        if self.data.is_complex():
            lines.append("  complex data: the noise std is per real component, E|n|^2 = 2 std^2")
        if isinstance(self.noise, Gaussian) and isinstance(self.noise.std, float) and not self.noise.discrepancy:
            lines.append(
                f"  Gaussian noise of std {self.noise.std:.4g}; "
                "posterior samples of a right model have chi^2 per datum near 1"
            )
        if not isinstance(self.noise, Gaussian):
            lines.append(f"  {self.noise!r}")
        if isinstance(self.noise, Gaussian) and self.noise.unknown:
            laws = ", ".join(f"{name}, {law}" for name, law in self.noise.scalars.items())
            lines.append(f"  Gaussian noise of unknown {laws}: inferred for every item with the signal")
        if isinstance(self.operator, Family):
            laws = ", ".join(f"{name} {law}" for name, law in self.operator.unknown.items())
            lines.append(f"  unknown in the operator: {laws}: inferred for every item with the signal")
        return "\n".join(lines)

    @property
    def _gaussian(self) -> Gaussian:
        if not isinstance(self.noise, Gaussian):
            raise invalid_type(
                "Problem",
                "noise",
                "iv.noise.Gaussian for a whitened residual",
                self.noise,
                "Use problem.gaussianised(clean), or problem.noise.residual(y, clean).",
            )
        return self.noise


def precise(owner: str, name: str, value: object, noise: object, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Data as a tensor: arrays in ``dtype``, or in double precision where its rounding would drown the noise."""
    if isinstance(value, Tensor) or dtype == torch.float64:
        return as_tensor(owner, name, value, dtype=dtype, device=device)
    wide = as_tensor(owner, name, value, dtype=torch.float64, device=device)
    if drowned(noise, wide, dtype) is not None:
        return wide
    return wide.to(kind_dtype(dtype, "complex" if wide.is_complex() else "real"))


def _measured(owner: str, name: str, y: Tensor, A: Operator, a: str) -> Tensor:
    """Data ``(batch, *out_shape)`` that are finite: 0 for what is not and was not measured, an error for the rest."""
    bad = ~torch.isfinite(y)
    if A.observed is not None and bool(bad.any()):
        y = torch.where(bad & ~A.observed, torch.zeros_like(y), y)
    kind = ", kind='complex'" if y.is_complex() else ""
    repair = (
        f"If they are missing, say so: iv.operators.Mask(np.isfinite({name}), in_shape={tuple(A.out_shape)}{kind})"
        f" @ {a} takes {name} as it is."
    )
    return check_finite(owner, name, y, repair)


def in_precision(A: Operator, dtype: torch.dtype) -> Operator:
    """The operator in the real precision ``dtype``: a kernel in double precision beside data in single, or a prior."""
    if A.dtype is None or A.dtype == dtype:
        return A
    cast = A.to(dtype=dtype)
    if cast.dtype not in (None, dtype):
        name = type(A).__name__
        raise invalid_type(name, "to(dtype)", f"able to cast it to {dtype}, the precision of the data", str(cast.dtype))
    return cast


def checked_problem(owner: str, A: object, y: object, *, noise: object, named: object = None) -> Problem:
    """``Problem(A, y, noise=noise, ...)`` whose errors name ``owner`` and its arguments ``A`` and ``y``.

    ``named``: what the data were before they were converted, with the names of its axes.
    """
    problem = object.__new__(Problem)
    axes = Axes() if named is None or not isinstance(A, Operator) else Axes.of_data(A, named)
    fields = {"operator": A, "data": y, "noise": noise, "units": "", "grid": None, **vars(axes)}
    for name, value in fields.items():
        object.__setattr__(problem, name, value)
    problem._check(owner, "A", "y")
    return problem


def data_fingerprint(problem: Problem) -> str:
    """A hash of the data that exist: what was not observed may hold anything."""
    observed = problem.operator.observed
    if observed is None:
        return fingerprint(problem.data)
    observed = observed.expand(problem.data.shape)
    if bool(observed.all()):
        return fingerprint(problem.data)
    return fingerprint((torch.where(observed, problem.data, 0), observed.contiguous()))


def _check_grid(owner: str, grid: object, shape: Shape) -> None:
    if not isinstance(grid, Grid):
        raise invalid_type(owner, "grid", "an iv.Grid", grid)
    if len(grid.voxel_size) != len(shape):
        raise invalid(owner, "grid", f"of {len(shape)} lengths, one for each axis of the signal", grid.voxel_size)
