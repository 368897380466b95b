"""Additive Gaussian noise: what a number given to `solve` means."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from invsolve.core.arrays import real_parameter, several
from invsolve.core.distributions import Distribution
from invsolve.core.random import DrawLike
from invsolve.core.validation import Shape, check_finite, check_positive, kind_dtype
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.noise.base import Noise, spoken
from invsolve.noise.discrepancy import ModelError


@final
@dataclass(frozen=True, eq=False)
class Gaussian(Noise):
    """Additive Gaussian noise: ``y = clean + n``, ``n ~ N(0, G)``; give ``std`` or ``covariance``.

    ``noise + other`` is the sum of independent noises, and that with a model error where ``other`` is a `Discrepancy`
    or what `surrogate_error` measured.

    Parameters
    ----------
    std : float, Distribution, Tensor, array or list, shape (*out_shape) or (items, *out_shape), optional
        > 0, in the units of the data: one for all; one per entry; or one per item, where the trailing axes may be 1.
        For complex data it is that of a real component: E|n|^2 = 2 std^2. One that is not known is a distribution,
        ``iv.LogNormal(median=0.1, factor=3)``: `solve` infers it for every item together with the signal
        (``result["noise.std"]``). Such a noise has no whitened residual and no density until `at` gives it a number.
    covariance : Tensor, array or list, shape (m, m), optional
        G, symmetric positive definite, over the m flattened data. For complex data it is the covariance of the real and
        of the imaginary part, which are independent.
    discrepancy : tuple of Discrepancy or SurrogateError
        Model errors of which a number is not known; ``+`` puts them here, and those that are known into G.

    Raises
    ------
    InputError, InputTypeError
        If both or neither are given, a std is not positive, or the covariance not symmetric positive definite; of a
        sum, if it has no one covariance for all items.

    Examples
    --------
    >>> Gaussian(0.1).std
    0.1
    """

    std: float | Tensor | Distribution | None = None
    _: KW_ONLY
    covariance: Tensor | None = None
    discrepancy: tuple[ModelError, ...] = ()
    _chol: Tensor | None = field(default=None, init=False, repr=False)  # lower Cholesky factor of the covariance
    per_item: bool = field(default=False, init=False, repr=False)  # std carries an item axis; set by `check`

    def __post_init__(self) -> None:
        if (self.std is None) == (self.covariance is None):
            given = "neither" if self.std is None else "both"
            repair = "One that is not known has a distribution: std=iv.LogNormal(median=0.1, factor=3)."
            raise invalid("Gaussian", "std", "given, or `covariance`, not both", given, "" if self.std else repair)
        if several(self.std):
            object.__setattr__(self, "std", real_parameter("Gaussian", "std", self.std))
        if isinstance(self.std, Tensor):
            check_finite("Gaussian", "std", self.std)
            if bool((self.std <= 0).any()):
                raise invalid("Gaussian", "std", "positive", float(self.std.min()))
            if self.std.ndim == 0:
                object.__setattr__(self, "std", float(self.std))
        elif isinstance(self.std, Distribution):
            if self.std.support[0] < 0:
                given = f"{self.std} with support from {self.std.support[0]:g}"
                raise invalid("Gaussian", "std", "a distribution of positive numbers", given, "Use iv.LogNormal.")
        elif self.std is not None:
            object.__setattr__(self, "std", check_positive("Gaussian", "std", self.std))
        if self.covariance is not None:
            covariance = real_parameter("Gaussian", "covariance", self.covariance)
            object.__setattr__(self, "covariance", covariance)
            object.__setattr__(self, "_chol", None if self.discrepancy else _cholesky(covariance))
        if self.discrepancy:
            self._check_discrepancy()

    @property
    def unknown(self) -> bool:
        """True if a number of it is a distribution: a hyperparameter, to be inferred."""
        return bool(self.scalars)

    @property
    def scalars(self) -> dict[str, Distribution]:
        """What is to be inferred, by name: "std", "discrepancy.std", "discrepancy.length", "discrepancy2.std", ..."""
        found = {"std": self.std} if isinstance(self.std, Distribution) else {}
        for name, part in self._named.items():
            found |= {f"{name}.{key}": law for key, law in part.unknown.items()}
        return found

    def __add__(self, other: object) -> Gaussian:
        """The noise of which this and ``other``, a `Gaussian` or a model error, are independent parts."""
        if isinstance(other, ModelError):
            return self._sum(self.covariance, self.std, (*self.discrepancy, other))
        if not isinstance(other, Gaussian):
            return NotImplemented
        if isinstance(self.std, Distribution) or isinstance(other.std, Distribution):
            repair = "Of two levels the data say one: give one of them as an iv.noise.Discrepancy."
            raise invalid("Gaussian", "std", "a number in a sum of noises", "a distribution", repair)
        parts = (*self.discrepancy, *other.discrepancy)
        _same_data(self, other)
        if other.covariance is None:
            self, other = other, self
        if self.covariance is not None and other.covariance is not None:
            return Gaussian._sum(self.covariance + other.covariance, None, parts)
        if other.covariance is not None:
            return Gaussian._sum(_plus(other.covariance, self.std), None, parts)
        assert isinstance(self.std, (float, Tensor)) and isinstance(other.std, (float, Tensor))
        return Gaussian._sum(None, _root_sum(self.std, other.std), parts)

    def __radd__(self, other: object) -> Gaussian:
        """``Discrepancy(...) + noise``, which is ``noise + Discrepancy(...)``; so with a measured error."""
        return self + other if isinstance(other, ModelError) else NotImplemented

    @staticmethod
    def _sum(
        covariance: Tensor | None, std: float | Tensor | Distribution | None, parts: tuple[ModelError, ...]
    ) -> Gaussian:
        """With these model errors: in G as soon as all is known."""
        if isinstance(std, Distribution) or any(part.unknown for part in parts):
            return Gaussian(std, covariance=covariance, discrepancy=parts)
        return _known(covariance, std, [(part, {}) for part in parts])

    def known(self, values: Mapping[str, float]) -> Gaussian:
        """With numbers for all `scalars`, by name."""
        std = values.get("std", self.std)
        parts = [(p, {k: values[f"{name}.{k}"] for k in p.unknown}) for name, p in self._named.items()]
        return _known(self.covariance, std, parts)

    @property
    def _named(self) -> dict[str, ModelError]:
        return {"discrepancy" if i == 1 else f"discrepancy{i}": part for i, part in enumerate(self.discrepancy, 1)}

    def _check_discrepancy(self) -> None:
        for part in self.discrepancy:
            if not isinstance(part, ModelError):
                raise invalid_type("Gaussian", "discrepancy", "a tuple of iv.noise.Discrepancy", part)
        _known_size(self.covariance, self.std, self.discrepancy)

    @classmethod
    def of_rows(cls, std: Tensor) -> Gaussian:
        """With a ``std`` ``(rows, *out_shape)`` that nothing looks at: in loops a look would stall."""
        noise = object.__new__(cls)
        for name, value in {"std": std, "covariance": None, "discrepancy": (), "_chol": None, "per_item": True}.items():
            object.__setattr__(noise, name, value)
        return noise

    def at(self, std: float | Tensor) -> Gaussian:
        """The noise with this std: a number, or a tensor as for ``std``."""
        return Gaussian(std=std)

    # --- whitening: what linear-Gaussian solvers use --------------------------------------------------------------
    def whiten(self, r: Tensor, observed: Tensor | None = None) -> Tensor:
        """``G^-1/2 r`` ``(rows, *out_shape)``; unobserved entries become 0."""
        if self._chol is not None:
            if observed is not None:
                raise invalid(
                    "Gaussian",
                    "covariance",
                    "used with fully observed data",
                    "an operator with missing entries",
                    "Keep the observed entries with Subsample, and the covariance of those.",
                )
            white: Tensor = torch.linalg.solve_triangular(self._chol.to(r.dtype), r.flatten(1).mT, upper=False)
            return white.mT.reshape(r.shape)
        std = self._row_std(r)
        if r.is_complex():  # part by part: torch would divide complex by complex, which takes four times as long
            out = torch.view_as_complex(torch.view_as_real(r.resolve_conj()) / std.unsqueeze(-1))
        else:
            out = r / std
        return out if observed is None else out * observed

    def unwhiten_adjoint(self, r: Tensor, observed: Tensor | None = None) -> Tensor:
        """``G^-H/2 r``: the adjoint of `whiten`."""
        if self._chol is not None:
            back: Tensor = torch.linalg.solve_triangular(self._chol.to(r.dtype).mT, r.flatten(1).mT, upper=True)
            return back.mT.reshape(r.shape)
        return self.whiten(r, observed)

    def apply_covariance(self, r: Tensor) -> Tensor:
        """``G r``."""
        if self._chol is not None:
            chol = self._chol.to(r.dtype)
            return (r.flatten(1) @ chol @ chol.mT).reshape(r.shape)
        return self._row_std(r) ** 2 * r

    # --- the distribution ---------------------------------------------------------------------------------------------
    def log_prob(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        white = self.whiten(y - clean, observed).flatten(1)
        size = white.abs().square().sum(1)
        components = 2 if y.is_complex() else 1
        if self._chol is not None:
            half_logdet = self._chol.diagonal().log().sum().to(size.dtype).expand(len(y))
            number: Tensor | float = float(white.shape[1])
        else:
            keep = torch.ones_like(y.real) if observed is None else observed.expand(y.shape).to(y.real.dtype)
            logs = math.log(self.std) if isinstance(self.std, float) else self._row_std(y).log()
            half_logdet = (keep * logs).flatten(1).sum(1)
            number = keep.flatten(1).sum(1)
        return -0.5 * size - components * (half_logdet + 0.5 * math.log(2 * math.pi) * number)

    def log_prob_each(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor | None:
        if self._chol is not None or y.is_complex():
            return None
        log = -0.5 * (self.whiten(y - clean).square() + math.log(2 * math.pi)) - self._row_std(y).log()
        return log if observed is None else torch.where(observed, log, 0.0)

    def grad(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.curvature(clean - y, clean, observed)

    def curvature(self, v: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.unwhiten_adjoint(self.whiten(v, observed), observed)

    def residual(self, y: Tensor, clean: Tensor, observed: Tensor | None = None) -> Tensor:
        return self.whiten(y - clean, observed)

    def sample(self, clean: Tensor, draw: DrawLike, *, step: int = 0, index: int = 0) -> Tensor:
        z = draw.normal(tuple(clean.shape[1:]), clean.dtype, step=step, index=index)
        if self._chol is not None:
            return clean + (z.flatten(1) @ self._chol.to(z.dtype).mT).reshape(z.shape)
        return clean + self._row_std(clean) * z

    def check(
        self, out_shape: Shape, batch: int, dtype: torch.dtype, device: torch.device, *, owner: str | None = None
    ) -> Self:
        real = kind_dtype(dtype, "real")
        if self.discrepancy:
            m = _known_size(self.covariance, self.std, self.discrepancy)
            if m not in (None, math.prod(out_shape)):
                want = f"with the points of all {math.prod(out_shape)} data of an item"
                raise invalid(*spoken(self, "discrepancy", owner), want, f"points of {m}")
            if isinstance(self.std, Tensor) and tuple(self.std.shape) != out_shape:
                want, given = f"of shape {out_shape} beside a discrepancy", tuple(self.std.shape)
                raise invalid(*spoken(self, "std", owner), want, given, "Items with a std of their own: one at a time.")
            return self
        if isinstance(self.std, Tensor):
            shape, ndim = tuple(self.std.shape), len(out_shape)
            per_item = self.std.ndim == ndim + 1 and shape[0] == batch
            per_item = per_item and all(a in (1, b) for a, b in zip(shape[1:], out_shape, strict=True))
            if shape != out_shape and not per_item:
                shapes = f"a number, or a tensor of shape {out_shape} or {(batch, *out_shape)}"
                repair = f"One number for each item has shape {(batch, *[1] * ndim)}."
                raise invalid(*spoken(self, "std", owner), shapes, shape, repair)
            return self._with(std=self.std.to(device, real), per_item=per_item and shape != out_shape)
        if self.covariance is not None:
            size = math.prod(out_shape)
            if tuple(self.covariance.shape) != (size, size):
                want = f"of shape {(size, size)}"
                raise invalid(*spoken(self, "covariance", owner), want, tuple(self.covariance.shape))
            return self._with(covariance=self.covariance.to(device), _chol=_cholesky(self.covariance).to(device))
        return self

    def take(self, index: Tensor) -> Self:
        if self.per_item and isinstance(self.std, Tensor):
            return self._with(std=self.std[index.to(self.std.device)])
        return self

    def _with(self, **values: object) -> Self:
        """A copy with these fields, which were checked before."""
        out = copy.copy(self)
        for name, value in values.items():
            object.__setattr__(out, name, value)
        return out

    def _row_std(self, like: Tensor) -> Tensor:
        if self.discrepancy:
            names = {name: f"{law.median:.3g}" for name, law in self.scalars.items()}
            raise UnsupportedError(
                f"Gaussian: {', '.join(names)} not known, so there is no whitened residual and no density. Give "
                f"numbers: noise.known({{{', '.join(f'{name!r}: {value}' for name, value in names.items())}}})."
            )
        assert self.std is not None  # the constructor: std or covariance
        if isinstance(self.std, Distribution):
            raise UnsupportedError(
                f"Gaussian: the std is not known ({self.std}), so there is no whitened residual and no density. "
                "Give it a number: noise.at(std), for example at its median."
            )
        if isinstance(self.std, float):
            # Filled there: a copy from the host would stall a GPU.
            return torch.full((), self.std, dtype=kind_dtype(like.dtype, "real"), device=like.device)
        return self.std


def _known(
    covariance: Tensor | None,
    std: float | Tensor | Distribution | None,
    parts: Sequence[tuple[ModelError, Mapping[str, float]]],
) -> Gaussian:
    """The Gaussian noise of a sum with all its numbers."""
    assert not isinstance(std, Distribution)
    m = _known_size(covariance, std, [part for part, _ in parts])
    if m is None or (covariance is None and all(part.white for part, _ in parts)):
        for part, values in parts:
            assert std is not None
            std = _root_sum(std, values.get("std", part.std))  # type: ignore[attr-defined]
        return Gaussian(std)
    total = torch.zeros(m, m, dtype=torch.float64, device="cpu") if covariance is None else covariance.double().cpu()
    total = total if std is None else _plus(total, std)
    for part, values in parts:
        total = total + part.covariance(m, **values)
    return Gaussian(covariance=total)


def _same_data(a: Gaussian, b: Gaussian) -> None:
    """Refuse a sum over different numbers of data, which torch might broadcast."""
    sizes = [len(noise.covariance) for noise in (a, b) if noise.covariance is not None]
    stds = [noise.std for noise in (a, b) if isinstance(noise.std, Tensor)]
    if sizes:
        fit = len({*sizes, *(std.numel() for std in stds)}) == 1
    else:  # of all items, or of each
        ends = {tuple(std.shape[std.ndim - min(std.ndim for std in stds) :]) for std in stds}
        fit = len(ends) <= 1
    if not fit:
        shapes = [tuple((noise.covariance if noise.std is None else noise.std).shape) for noise in (a, b)]  # type: ignore[union-attr]
        raise invalid("Gaussian", "noise + other", "of the same data", f"shapes {shapes[0]} and {shapes[1]}")


def _known_size(covariance: Tensor | None, std: object, parts: Sequence[ModelError]) -> int | None:
    """For how many data these parts are; None: any. Refuses such as are for different numbers."""
    counts = sorted({part.size for part in parts if part.size is not None})
    if len(counts) > 1:
        raise invalid("Gaussian", "discrepancy", "of the same data", f"points of {' and '.join(map(str, counts))}")
    sizes = {"points": counts[0]} if counts else {}
    if covariance is not None:
        sizes["covariance"] = len(covariance)
    if isinstance(std, Tensor) and any(not part.white for part in parts):
        sizes["std"] = std.numel()
    if len(set(sizes.values())) > 1:
        given = ", ".join(f"{name} of {size}" for name, size in sizes.items())
        repair = "A std for every item cannot go with errors that data share." if "std" in sizes else ""
        raise invalid("Gaussian", "discrepancy", "of as many data as the noise", given, repair)
    return next(iter(sizes.values()), None)


def _root_sum(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    total = a**2 + b**2
    return total.sqrt() if isinstance(total, Tensor) else math.sqrt(total)


def _plus(covariance: Tensor, std: float | Tensor | Distribution | None) -> Tensor:
    """The covariance with that of independent noise of this std, a number or one a datum."""
    assert std is not None and not isinstance(std, Distribution)
    variances = torch.as_tensor(std, dtype=covariance.dtype, device=covariance.device).flatten().square()
    return covariance + torch.diag(variances.expand(len(covariance)))


def _cholesky(covariance: Tensor) -> Tensor:
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise invalid("Gaussian", "covariance", "a square matrix (m, m)", tuple(covariance.shape))
    check_finite("Gaussian", "covariance", covariance)
    if covariance.numel() == 0:
        return covariance
    gap = float((covariance - covariance.mT).abs().max())
    if gap > 1e-5 * float(covariance.abs().max()):
        raise invalid("Gaussian", "covariance", "symmetric", f"an asymmetry of {gap:.3g}", "Pass (C + C.T) / 2.")
    factor, info = torch.linalg.cholesky_ex(covariance.double())
    if int(info):
        given = f"a matrix whose leading minor of order {int(info)} is not"
        raise invalid("Gaussian", "covariance", "positive definite", given)
    chol: Tensor = factor
    return chol
