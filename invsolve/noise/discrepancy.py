"""Model error as a part of the noise: what an operator that is not the truth leaves in the data."""

from __future__ import annotations

import abc
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from math import prod
from typing import Any, ClassVar, NoReturn, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.cartesian_grid import CartesianGrid
from invsolve.core.distributions import Distribution
from invsolve.core.matern import matern_correlation
from invsolve.core.ownership import Owner
from invsolve.core.torch_state import Defined
from invsolve.core.validation import check_finite, check_positive
from invsolve.errors import invalid, invalid_type

_OWNER = "Discrepancy"


class ModelError(Defined, Owner, abc.ABC):
    """An error of the operator that `Gaussian` noise takes as a part: ``noise + error``."""

    _said: ClassVar[str] = "iv.noise.Discrepancy(...)"  # in messages

    @property
    def white(self) -> bool:
        """Whether the errors of different data are independent."""
        return False

    @property
    def unknown(self) -> dict[str, Distribution]:
        """What is to be inferred of it, by name."""
        return {}

    @property
    @abc.abstractmethod
    def size(self) -> int | None:
        """The number of data that it is for; None: any."""

    @abc.abstractmethod
    def covariance(self, m: int) -> Tensor:
        """Of m data, ``(m, m)`` float64 on the CPU, with numbers for what is unknown, by name."""

    def __radd__(self, other: object) -> NoReturn:
        repair = f"iv.noise.Gaussian({other!r}) + {self._said}." if isinstance(other, (int, float)) else ""
        name = type(self).__name__
        raise invalid_type(name, "noise + error", "with Gaussian noise, iv.noise.Gaussian", other, repair)


@final
@dataclass(frozen=True, eq=False, repr=False)
class Discrepancy(ModelError):
    """Model error: a Gaussian field over the data, or an independent number a datum, that is added to Gaussian noise.

    ``iv.noise.Gaussian(std) + iv.noise.Discrepancy(...)``: no solver is the truth. The error of a discretisation, of a
    coefficient or of a boundary is the same when a measurement is repeated, smooth along sensors and times, and not
    part of the noise that the instrument states; left out, the posterior is too narrow around the wrong signal. The sum
    is Gaussian noise with the sum of the covariances, for every strategy that takes Gaussian noise.

    Parameters
    ----------
    std : float or Distribution
        > 0, in the units of the data; a distribution is inferred with the signal,
        ``result["noise.discrepancy.std"]``.
    length : float or Distribution, optional
        Correlation length, > 0, in the unit of ``points``: where the correlation has fallen to about 0.14. White unless
        given. A distribution is inferred, ``result["noise.discrepancy.length"]``.
    points : CartesianGrid, Tensor, array or list, shape (m,) or (m, d), optional
        Where (or when) the m flattened data were taken; needed with a length.
    smoothness : float
        nu of the Matern family, > 0; 1/2 is rough.

    Raises
    ------
    InputError, InputTypeError
        For numbers that are not positive, and for a length without points or points without a length.

    References
    ----------
    Kennedy & O'Hagan 2001, Bayesian calibration of computer models, JRSS B 63(3), 425-464, doi
    10.1111/1467-9868.00294; Kaipio & Somersalo 2007, Statistical inverse problems: discretization, model reduction and
    inverse crimes, J. Comput. Appl. Math. 198(2), 493-504, doi 10.1016/j.cam.2005.09.027.

    Examples
    --------
    >>> import invsolve as iv
    >>> times = [0.0, 0.1, 0.2, 0.3]
    >>> noise = iv.noise.Gaussian(0.01) + iv.noise.Discrepancy(0.05, length=0.2, points=times)
    >>> noise.covariance.shape
    torch.Size([4, 4])
    """

    std: float | Distribution
    _: KW_ONLY
    length: float | Distribution | None = None
    points: Tensor | CartesianGrid | None = None
    smoothness: float = 1.5

    def __post_init__(self) -> None:
        for name in ("std", "length", "smoothness"):
            if (value := getattr(self, name)) is not None or name != "length":
                object.__setattr__(self, name, _positive(name, value))
        if isinstance(self.smoothness, Distribution):
            raise invalid_type(_OWNER, "smoothness", "a number", self.smoothness)
        if (self.length is None) != (self.points is None):
            given = "no points" if self.points is None else "points without a length"
            want = "given with the points of the data, or both left out for white errors"
            raise invalid(_OWNER, "length", want, given)
        if self.points is not None and not isinstance(self.points, CartesianGrid):
            points = check_finite(_OWNER, "points", real_parameter(_OWNER, "points", self.points))
            if points.ndim not in (1, 2) or not points.numel():
                raise invalid(_OWNER, "points", "of shape (m,) or (m, d)", tuple(points.shape))
            object.__setattr__(self, "points", points.double())

    @property
    def white(self) -> bool:
        """Whether the errors of different data are independent."""
        return self.length is None

    @property
    def unknown(self) -> dict[str, Distribution]:
        """What is to be inferred of it, by name: "std", "length"."""
        values = {"std": self.std, "length": self.length}
        return {name: value for name, value in values.items() if isinstance(value, Distribution)}

    @property
    def size(self) -> int | None:
        """The number of data that it is for; None: any."""
        if isinstance(self.points, CartesianGrid):
            return prod(self.points.shape)
        return None if self.points is None else len(self.points)

    def covariance(self, m: int, *, std: float | None = None, length: float | None = None) -> Tensor:
        """Of m data, ``(m, m)`` float64 on the CPU, with these numbers in the place of unknown ones."""
        std = self.std if std is None else std  # type: ignore[assignment]
        assert isinstance(std, float)
        if self.white:
            return std**2 * torch.eye(m, dtype=torch.float64, device="cpu")
        if length is None and not isinstance(self.length, Distribution):
            return std**2 * self._correlation
        assert length is not None
        return std**2 * matern_correlation(self._distances, length, self.smoothness)

    def __repr__(self) -> str:
        correlated = "" if self.white else f", length={self.length!r}, smoothness={self.smoothness:g}"
        return f"Discrepancy({self.std!r}{correlated})"

    @cached_property
    def _distances(self) -> Tensor:
        points: Any = self.points
        if isinstance(points, CartesianGrid):
            points = torch.stack([axis.flatten() for axis in points.mesh()], -1)
        points = points.cpu().view(len(points), -1)
        distances: Tensor = torch.linalg.vector_norm(points[:, None] - points, dim=-1)
        return distances

    @cached_property
    def _correlation(self) -> Tensor:
        assert isinstance(self.length, float)
        return matern_correlation(self._distances, self.length, self.smoothness)


def _positive(name: str, value: Any) -> float | Distribution:
    if not isinstance(value, Distribution):
        return check_positive(_OWNER, name, value)
    if value.support[0] < 0:
        given = f"{value} with support from {value.support[0]:g}"
        raise invalid(_OWNER, name, "a distribution of positive numbers", given, "Use iv.LogNormal or iv.LogUniform.")
    return value
