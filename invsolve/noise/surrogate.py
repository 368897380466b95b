"""What a surrogate leaves out, measured on fields of the prior: a mean and a covariance of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter
from invsolve.core.ownership import made
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_finite, check_int
from invsolve.errors import InputError, OperatorError, invalid, invalid_type
from invsolve.noise.discrepancy import ModelError
from invsolve.operators.base import Operator

_OWNER = "surrogate_error"
_ROWS = 32  # fields at a time
_LEAST = 8  # draws: below, nothing is known of a variance


class Sampled(Protocol):
    """What is needed of a prior."""

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Draws ``(n, *shape)``."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class SurrogateError(ModelError):
    """The error of an approximate operator as a part of Gaussian noise; made by `surrogate_error`.

    Parameters
    ----------
    mean : Tensor, shape (*out_shape)
        What the surrogate misses on average, in units, precision and place of the data. It is no part of the noise:
        give ``y - mean`` to `solve`, or take `about_zero`.
    covariance_matrix : Tensor, shape (m, m)
        Of the error about ``mean``, over the m flattened data; float64.
    count : int
        From how many fields.
    shrinkage : float
        0 to 1: how much of the correlations was given up, because so few fields cannot tell them from none.

    Raises
    ------
    InputError
        If the covariance is not ``(m, m)``.
    """

    _said: ClassVar[str] = "error"

    mean: Tensor
    covariance_matrix: Tensor
    count: int
    shrinkage: float

    def __post_init__(self) -> None:
        if tuple(self.covariance_matrix.shape) != (m := self.mean.numel(), m):
            raise invalid("SurrogateError", "covariance_matrix", f"of shape {(m, m)}", self.covariance_matrix.shape)

    @property
    def std(self) -> Tensor:
        """Of the error of each datum about its mean, ``(*out_shape)``."""
        return self.covariance_matrix.diagonal().sqrt().view(self.mean.shape)

    @property
    def size(self) -> int:
        """The number of data that it is for."""
        return self.mean.numel()

    def covariance(self, m: int) -> Tensor:
        """``covariance_matrix``."""
        return self.covariance_matrix.double().cpu()

    def about_zero(self) -> SurrogateError:
        """The error about 0 instead of its mean, for data that are not shifted: wider by the square of the mean."""
        e = self.mean.flatten().to(self.covariance_matrix)
        total = self.covariance_matrix + torch.outer(e, e)
        return SurrogateError(torch.zeros_like(self.mean), total, self.count, self.shrinkage)

    def __repr__(self) -> str:
        mean, std = (float(v.double().square().mean().sqrt()) for v in (self.mean, self.std))
        sizes = f"mean {mean:.3g}, std {std:.3g} (root mean squares)"
        return f"SurrogateError({tuple(self.mean.shape)}, {sizes}, {self.count} fields)"


@in_defined_state
def surrogate_error(
    surrogate: Operator,
    exact: Operator | Tensor,
    prior: Sampled | Tensor,
    *,
    count: int | None = None,
    seed: int = 0,
) -> SurrogateError:
    """Measure ``exact(x) - surrogate(x)`` on fields x of the prior, as a model error: ``noise + error``.

    A trained network in the place of a solver is wrong by more than the noise of a good instrument, in the same way for
    all data: without this part of the noise the posterior is too narrow around the wrong field. Put the observation
    into both: ``observe @ network`` and ``observe @ solver``.

    Parameters
    ----------
    surrogate : Operator
        What `solve` will be given; real data.
    exact : Operator or Tensor, shape (count, *out_shape)
        The map that it stands for, evaluated ``count`` times; or its values for the fields in ``prior``.
    prior : Prior or Tensor, shape (count, *in_shape)
        Where the fields come from; or the fields, which the surrogate must not have been trained on.
    count : int, optional
        How many fields, at least 8; 200 by default, or all of those given.
    seed : int
        Of the draws.

    Returns
    -------
    SurrogateError
        Solve with ``y - error.mean`` and ``noise + error``.

    Raises
    ------
    InputError, InputTypeError
        If an argument is not what it should be.
    OperatorError
        If an operator gives NaN or infinity for a field of the prior.

    See Also
    --------
    invsolve.operators.from_neuralop : A trained network as an operator.
    invsolve.noise.Discrepancy : An error that cannot be measured, of a size that may be inferred.

    Notes
    -----
    The error is taken to be Gaussian and independent of x. The variances are those of the sample, the correlations are
    shrunk towards none by the share that is optimal for so many fields (Schaefer & Strimmer); the covariance is
    ``1 + 1 / count`` times that, because the mean is known from ``count`` fields only. It is dense: for up to a few
    thousand data.

    References
    ----------
    Kaipio & Somersalo 2007, Statistical inverse problems: discretization, model reduction and inverse crimes, J.
    Comput. Appl. Math. 198(2), 493-504, doi 10.1016/j.cam.2005.09.027; Schaefer & Strimmer 2005, A shrinkage approach
    to large-scale covariance matrix estimation, Stat. Appl. Genet. Mol. Biol. 4(1), 32.

    Examples
    --------
    >>> import invsolve as iv, torch
    >>> exact = iv.operators.Matrix(torch.eye(3))
    >>> surrogate = iv.operators.Matrix(torch.eye(3) * 0.9)
    >>> error = surrogate_error(surrogate, exact, iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3)))
    >>> noise = iv.noise.Gaussian(0.01) + error
    >>> bool((noise.covariance.diagonal().sqrt() - 0.1).abs().max() < 0.02)
    True
    """
    if not isinstance(surrogate, Operator):
        raise invalid_type(_OWNER, "surrogate", "an iv.operators.Operator", surrogate)
    if surrogate.batch is not None:
        raise invalid(_OWNER, "surrogate", "one operator for all fields", f"one with {surrogate.batch} items")
    if surrogate.out_kind == "complex":
        raise invalid(_OWNER, "surrogate", "an operator with real data", "one with complex data")
    x = _fields(prior, count, seed)
    of_exact, approximate = _values(exact, x, surrogate), _evaluated("surrogate", surrogate, x)
    errors = of_exact - approximate.double().cpu()
    mean = errors.mean(0)
    covariance, shrinkage = shrunk_covariance((errors - mean).flatten(1))
    return made(SurrogateError, mean.to(approximate), (1 + 1 / len(x)) * covariance, len(x), shrinkage)


def shrunk_covariance(centred: Tensor) -> tuple[Tensor, float]:
    """Of rows ``(n, m)`` less their mean: sample variances, correlations shrunk; and the share that they lost."""
    n = len(centred)
    std = (centred.square().sum(0) / (n - 1)).sqrt()
    z = centred / torch.where(std > 0, std, 1.0)
    products = z.mT @ z
    correlation = products / (n - 1)
    # The variance of each r_ij, from that of the n products of which it is the mean.
    uncertainty = n / (n - 1) ** 3 * (z.square().mT @ z.square() - products.square() / n)
    off = ~torch.eye(len(products), dtype=torch.bool, device=products.device)
    signal = float(correlation.square()[off].sum())
    share = min(max(float(uncertainty[off].sum()) / signal, 0.0), 1.0) if signal > 0 else 0.0
    correlation = torch.where(off, (1 - share) * correlation, correlation)
    return std[:, None] * correlation * std, share


def _fields(prior: Sampled | Tensor, count: int | None, seed: int) -> Tensor:
    if count is not None:
        check_int(_OWNER, "count", count, minimum=_LEAST)
    if callable(sample := getattr(prior, "sample", None)):
        drawn: Tensor = sample(count or 200, seed=check_int(_OWNER, "seed", seed))
        return drawn
    if not hasattr(prior, "__array__"):
        raise invalid_type(_OWNER, "prior", "a prior with `sample`, or a tensor of fields", prior)
    x = check_finite(_OWNER, "prior", real_parameter(_OWNER, "prior", prior))
    if not x.ndim or len(x) < (count or _LEAST):
        raise invalid(_OWNER, "prior", f"of at least {count or _LEAST} fields", f"shape {tuple(x.shape)}")
    return x if count is None else x[:count]


def _values(exact: Operator | Tensor, x: Tensor, surrogate: Operator) -> Tensor:
    """Of the exact operator for these fields, ``(count, *out_shape)``, float64 on the CPU."""
    out = tuple(surrogate.out_shape)
    if isinstance(exact, Operator):
        if tuple(exact.in_shape) != tuple(surrogate.in_shape) or tuple(exact.out_shape) != out:
            shapes = f"{tuple(surrogate.in_shape)} -> {out}"
            given = f"{tuple(exact.in_shape)} -> {tuple(exact.out_shape)}"
            raise invalid(_OWNER, "exact", f"an operator {shapes}, as the surrogate", given)
        return _evaluated("exact", exact, x).double().cpu()
    if not hasattr(exact, "__array__"):
        raise invalid_type(_OWNER, "exact", "an operator, or a tensor of its values", exact)
    y = check_finite(_OWNER, "exact", real_parameter(_OWNER, "exact", exact))
    if tuple(y.shape) != (want := (len(x), *out)):
        raise invalid(_OWNER, "exact", f"of shape {want}, a row for each field", tuple(y.shape))
    return y.double().cpu()


def _evaluated(name: str, A: Operator, x: Tensor) -> Tensor:
    rows = []
    with torch.no_grad():
        for start in range(0, len(x), _ROWS):
            y = A(x[start : start + _ROWS].to(A.device, A.dtype or x.dtype))
            try:
                rows.append(check_finite(_OWNER, f"{name}(x)", y))
            except InputError as error:
                raise OperatorError(f"{error} x is a field of the prior.") from None
    return torch.cat(rows)


__all__ = ["SurrogateError", "surrogate_error"]
