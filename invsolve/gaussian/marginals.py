"""What is known of every entry of the signal without samples: mean, standard deviation and quantiles."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, final

import torch
from torch import Tensor

from invsolve.core.torch_state import Defined

Known = Literal["closed form", "ensemble", "lattice"]

LARGEST = 2**21  # values that a result may keep for its quantiles: 16 MiB
_HALVINGS = 64  # of a bracket: more than double precision has digits


class Marginals(Defined, abc.ABC):
    """The distributions of single entries.

    Attributes
    ----------
    mean : Tensor, shape ([batch,] *shape)
        Real or complex.
    std : Tensor, shape ([batch,] *shape), or None
        Real; of a complex entry the square root of the mean of ``|x - mean|^2``. None where it is too large to form.
    has_quantiles : bool
        Whether quantiles are known too.
    known : {"closed form", "ensemble", "lattice"}
        By what: a formula; all draws of an ensemble, of which the samples are some; an integral over a lattice.
    """

    mean: Tensor
    std: Tensor | None

    has_quantiles: bool = True
    known: Known = "closed form"

    @abc.abstractmethod
    def quantile(self, level: float) -> Tensor:
        """The quantile of a level in (0, 1), ``([batch,] *shape)``, where there are any."""

    @abc.abstractmethod
    def only_item(self) -> Marginals:
        """Of a batch of one item, without its axis."""

    @abc.abstractmethod
    def selected(self, choose: Callable[[Tensor], Tensor]) -> Marginals:
        """Of some entries: ``choose`` takes ``(..., *shape)``, and gives some entries of it."""

    def through(self, function: Callable[[Tensor], Tensor]) -> Marginals | None:
        """Of ``f(x)`` for an increasing f of every entry alone, in float64; None where that is not known."""
        return None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Moments(Marginals):
    """Mean and standard deviation, and no more."""

    mean: Tensor
    std: Tensor | None
    known: Known = "closed form"

    @property
    def has_quantiles(self) -> bool:  # type: ignore[override]
        """False."""
        return False

    def quantile(self, level: float) -> Tensor:
        raise NotImplementedError

    def only_item(self) -> Self:
        return self.selected(lambda v: v[0])

    def selected(self, choose: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, mean=choose(self.mean), std=None if self.std is None else choose(self.std))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LatticeMarginals(Marginals):
    """A number whose distribution was integrated over a lattice.

    ``values`` and ``levels`` ``([batch,] K)``: increasing values, and the probability of what lies below each; between
    them a normal distribution.
    """

    mean: Tensor
    std: Tensor
    values: Tensor
    levels: Tensor

    known = "lattice"

    @classmethod
    def of(cls, points: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> Self:
        """By values at equally spaced coordinates and their probabilities, ``(K_b,)`` each of every item.

        The integral up to a value is that of the trapezoid rule, corrected by the slope of the density there.
        """
        mean = torch.stack([weight @ value for value, weight in points])
        var = torch.stack([weight @ (value - m).square() for (value, weight), m in zip(points, mean, strict=True)])
        most = max(len(value) for value, _ in points)
        values, levels = mean.new_empty(len(points), most), mean.new_ones(len(points), most)
        for b, (value, weight) in enumerate(points):
            padded = torch.nn.functional.pad(weight, (1, 1))
            below = weight.cumsum(0) - weight / 2 - (padded[2:] - padded[:-2]) / 24
            values[b], values[b, : len(value)] = value[-1], value
            levels[b, : len(value)] = below.clamp(0, 1).cummax(0).values
        return cls(
            **{n: v.to(device) for n, v in dict(mean=mean, std=var.sqrt(), values=values, levels=levels).items()}
        )

    def quantile(self, level: float) -> Tensor:
        z = torch.special.ndtri(self.levels.double())
        wanted = torch.special.ndtri(torch.tensor(level, dtype=torch.float64, device=z.device))
        high = (z < wanted).sum(-1, keepdim=True).clamp(max=z.shape[-1] - 1)
        low = (high - 1).clamp(min=0)
        (below, above), (a, b) = ([v.gather(-1, k)[..., 0] for k in (low, high)] for v in (z, self.values))
        share = ((wanted - below) / (above - below)).nan_to_num(0.0).clamp(0, 1)  # an end is a finite value
        return torch.where(share > 0, a + share * (b - a), a)

    def only_item(self) -> Self:
        return type(self)(**{n: getattr(self, n)[0] for n in ("mean", "std", "values", "levels")})

    def selected(self, choose: Callable[[Tensor], Tensor]) -> Moments:
        return Moments(mean=choose(self.mean), std=choose(self.std), known=self.known)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class NormalMarginals(Marginals):
    """Normal entries; complex ones are pairs of such."""

    mean: Tensor
    std: Tensor | None

    @property
    def has_quantiles(self) -> bool:  # type: ignore[override]
        """For real entries whose std is known."""
        return self.std is not None and not self.mean.is_complex()

    def quantile(self, level: float) -> Tensor:
        assert self.std is not None  # `has_quantiles`
        z = torch.special.ndtri(torch.tensor(level, dtype=torch.float64, device="cpu"))
        return (self.mean.double() + float(z) * self.std.double()).to(self.mean.dtype)

    def only_item(self) -> Self:
        return self.selected(lambda v: v[0])

    def selected(self, choose: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(mean=choose(self.mean), std=None if self.std is None else choose(self.std))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MixtureMarginals(Marginals):
    """Mixtures of K normal distributions.

    ``weights`` ``([batch,] K)``, ``means`` and ``stds`` ``([batch,] K, *shape)``, real.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor
    means: Tensor
    stds: Tensor

    def quantile(self, level: float) -> Tensor:
        lead = self.weights.ndim - 1  # of the components
        means, stds = self.means.double(), self.stds.double()
        weights = self.weights.double().reshape(*self.weights.shape, *([1] * (means.ndim - lead - 1)))
        weights = weights / weights.sum(lead, keepdim=True)
        z = float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64, device="cpu")))
        # Those of the components lie on both sides of it; one without weight does not count.
        own = means + z * stds
        counts = weights > 0
        low = torch.where(counts, own, torch.inf).amin(lead)
        high = torch.where(counts, own, -torch.inf).amax(lead)
        width = stds.clamp_min(torch.finfo(torch.float64).tiny)
        # By the smaller tail, with erfc: `ndtr` of torch is a difference from 1/2, and has no digits far out.
        side = 1.0 if level > 0.5 else -1.0
        share = 2 * min(level, 1 - level)
        for _ in range(_HALVINGS):
            middle = low + (high - low) / 2
            u = (middle.unsqueeze(lead) - means) / (width * math.sqrt(2))
            tail = (weights * torch.special.erfc(side * u)).sum(lead)
            below = tail > share if side > 0 else tail < share
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + (high - low) / 2).to(self.mean.dtype)

    def only_item(self) -> Self:
        return self._mapped(lambda v: v[0], lambda v: v[0])

    def selected(self, choose: Callable[[Tensor], Tensor]) -> Self:
        return self._mapped(choose, lambda v: v)

    def _mapped(self, signals: Callable[[Tensor], Tensor], weights: Callable[[Tensor], Tensor]) -> Self:
        parts = {name: signals(getattr(self, name)) for name in ("mean", "std", "means", "stds")}
        return type(self)(weights=weights(self.weights), **parts)


def joined(parts: Sequence[Marginals], index: Sequence[int]) -> Marginals | None:
    """The items ``index`` of all ``parts``, one after another; None of such that hold more than tensors."""
    kind = type(parts[0])
    if not issubclass(kind, (Moments, NormalMarginals, MixtureMarginals)):
        return None
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(kind)):
        each = [getattr(part, name) for part in parts]
        values[name] = None if any(v is None for v in each) else torch.cat(each)[list(index)]
    return kind(**values)
