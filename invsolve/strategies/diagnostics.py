"""What a strategy says of its rows beside the samples: each quantity with its meaning and how it is put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from invsolve.errors import invalid


@final
@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a quantity is, and how it folds."""

    text: str
    per: Literal["row", "item"]  # "item": the same for all samples of an item, of which any row may be looked at
    worst: Literal["max", "min"]  # which of several values is the one to worry about
    steps: Literal["last", "worst"] = "last"  # what stays of the values of all steps
    islands: Literal["worst", "anew"] = "anew"  # of independent runs that are pooled; "anew": from their samples


def _one(
    text: str,
    per: Literal["row", "item"],
    worst: Literal["max", "min"],
    *,
    steps: Literal["last", "worst"] = "last",
    islands: Literal["worst", "anew"] = "anew",
) -> Any:
    meaning = Meaning(text=text, per=per, worst=worst, steps=steps, islands=islands)
    return dataclasses.field(default=None, metadata={"meaning": meaning})


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Diagnostics(Mapping[str, Tensor]):
    """What a strategy says of its rows beside the samples; a read-only mapping of the quantities that are given.

    `Strategy.step` may answer with it, or with any mapping of names to tensors: known names are taken for the
    quantities below, names with "residual" in them for residuals, others are kept as they are. In ``result.info`` they
    have these names.

    Parameters
    ----------
    log_evidence, log_evidence_se : Tensor, shape (rows,), optional
        log p(y) in nats and its standard error, of the item; NaN where it is not known.
    island_error : Tensor, shape (rows,), optional
        Standard error of the log of the weights of independent runs that were pooled, of the item.
    mean_error, std_error : Tensor, shape (rows,), optional
        Standard errors of the mean (in posterior stds) and of the std (relative), the worst component, of the item.
    drift : Tensor, shape (rows,), optional
        What of ``mean_error`` is chains that are still moving together, of the item.
    rhat, nested_rhat : Tensor, shape (rows,), optional
        Split R-hat of the chains and of their islands, the worst component, of the item.
    ess : Tensor, shape (rows,), optional
        Effective number of samples, of the item.
    founders : Tensor, shape (rows,), optional
        How many of the initial particles have descendants left, of the item.
    resamplings : Tensor, shape (rows,), optional
        How often the particles were resampled, of the item.
    acceptance : Tensor, shape (rows,), optional
        Share of the moves that were accepted, of the item.
    beta : Tensor, shape (rows,), optional
        Power of the likelihood that was reached, of the item: below 1 the data count too little.
    rises, moves : Tensor, shape (rows,), optional
        How often that power rose, and how many moves there were, of the item.
    accepted, rejected : Tensor, shape (rows,), optional
        Trials of a step, of the row.
    sweeps, change : Tensor, shape (rows,), optional
        Sweeps over the levels, and the relative change of the signal in the last of them, of the row.
    diverged_at : Tensor, shape (rows,), optional
        The step at which the row was seen not to be finite, -1 if it never was.
    undefined : Tensor, shape (rows,), optional
        How many particles, over all levels, had a likelihood that was NaN and got weight 0, of the item.
    lattice_nodes : Tensor, shape (rows,), optional
        Nodes of the lattice over unknown scalars, of the item.
    residuals : Mapping of str to Tensor, shape (rows,)
        Relative residuals of linear solves, by a name with "residual" in it; the largest of all steps.
    extra : Mapping of str to Tensor, shape (rows,)
        What has no meaning to the package.

    Raises
    ------
    InputError
        If ``extra`` or ``residuals`` holds a name that belongs elsewhere.
    """

    log_evidence: Tensor | None = _one("log p(y), nats", "item", "min")
    log_evidence_se: Tensor | None = _one("its standard error, nats", "item", "max")
    island_error: Tensor | None = _one("standard error of the log weights of pooled runs", "item", "max")
    mean_error: Tensor | None = _one("standard error of the mean, in posterior stds", "item", "max")
    std_error: Tensor | None = _one("relative standard error of the std", "item", "max")
    drift: Tensor | None = _one("what of mean_error is chains that still move together", "item", "max")
    rhat: Tensor | None = _one("split R-hat of the chains", "item", "max")
    nested_rhat: Tensor | None = _one("R-hat of the islands", "item", "max")
    ess: Tensor | None = _one("effective number of samples", "item", "min")
    founders: Tensor | None = _one("initial particles with descendants left", "item", "min", islands="worst")
    resamplings: Tensor | None = _one("times that particles were resampled", "item", "max")
    acceptance: Tensor | None = _one("share of moves accepted", "item", "min")
    beta: Tensor | None = _one("power of the likelihood that was reached", "item", "min")
    rises: Tensor | None = _one("rises of that power", "item", "max")
    moves: Tensor | None = _one("moves of the chains", "item", "max")
    accepted: Tensor | None = _one("trials that were taken", "row", "max")
    rejected: Tensor | None = _one("trials that were refused", "row", "max")
    sweeps: Tensor | None = _one("sweeps over the levels", "row", "max")
    change: Tensor | None = _one("relative change of the signal in the last sweep", "row", "max")
    diverged_at: Tensor | None = _one("the step at which a row was seen to be no number; -1: none", "row", "max")
    undefined: Tensor | None = _one("particles without a likelihood", "item", "max", islands="worst")
    lattice_nodes: Tensor | None = _one("nodes of the lattice over unknown scalars", "item", "max")
    residuals: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.residuals:
            if "residual" not in name or name in MEANINGS:
                raise invalid("Diagnostics", "residuals", 'names with "residual" in them', repr(name))
        for name in self.extra:
            if "residual" in name or name in MEANINGS:
                raise invalid("Diagnostics", "extra", "names that have no meaning", repr(name))

    @classmethod
    def from_mapping(cls, info: Mapping[str, Tensor]) -> Diagnostics:
        """From a mapping by names, such as a strategy's answer or ``result.info``."""
        if isinstance(info, Diagnostics):
            return info
        known: dict[str, Any] = {name: value for name, value in info.items() if name in MEANINGS}
        other = {name: value for name, value in info.items() if name not in MEANINGS}
        residuals = {name: value for name, value in other.items() if "residual" in name}
        return cls(**known, residuals=residuals, extra={n: v for n, v in other.items() if n not in residuals})

    # --- a mapping --------------------------------------------------------------------------------------------------
    def __getitem__(self, name: str) -> Tensor:
        value = getattr(self, name) if name in MEANINGS else self.residuals.get(name, self.extra.get(name))
        if value is None:
            raise KeyError(name)
        found: Tensor = value
        return found

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in MEANINGS if getattr(self, name) is not None)
        yield from self.residuals
        yield from self.extra

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"Diagnostics({', '.join(self)})"

    # --- folds ------------------------------------------------------------------------------------------------------
    def mapped(self, change: Callable[[Tensor], Tensor]) -> Diagnostics:
        """Every quantity changed, as by indexing rows or moving to a device."""
        return Diagnostics.from_mapping({name: change(value) for name, value in self.items()})

    def after(self, earlier: Diagnostics) -> Diagnostics:
        """After this step and the ``earlier`` ones: of residuals the largest, else what this step says."""
        both = {n: v for n, v in self.items() if meaning(n).steps == "worst" and n in earlier}
        worse = {n: _worst(meaning(n), torch.stack((earlier[n], v)), 0) for n, v in both.items()}
        return Diagnostics.from_mapping({**self, **worse})

    def over_points(self, points: int) -> Diagnostics:
        """The worst of every ``points`` rows that follow each other, ``(rows / points,)``."""
        return Diagnostics.from_mapping({n: _worst(meaning(n), v.view(-1, points), 1) for n, v in self.items()})

    def over_islands(self) -> Diagnostics:
        """Of values ``(items, islands)`` what pooled runs keep, ``(items,)``; the others are known anew."""
        kept = {n: v for n, v in self.items() if meaning(n).islands == "worst"}
        return Diagnostics.from_mapping({n: _worst(meaning(n), v.double(), 1) for n, v in kept.items()})


_RESIDUAL = Meaning(text="relative residual of a linear solve", per="row", worst="max", steps="worst")
_EXTRA = Meaning(text="of a strategy that is not the package's", per="row", worst="max")
MEANINGS: dict[str, Meaning] = {
    f.name: f.metadata["meaning"] for f in dataclasses.fields(Diagnostics) if "meaning" in f.metadata
}


def meaning(name: str) -> Meaning:
    """Of a name in ``result.info``."""
    return MEANINGS.get(name, _RESIDUAL if "residual" in name else _EXTRA)


def _worst(of: Meaning, values: Tensor, dim: int) -> Tensor:
    return values.amax(dim) if of.worst == "max" else values.amin(dim)
