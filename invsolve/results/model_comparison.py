"""Which model do the data prefer: posterior probabilities of priors, operators or noise models from their evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_positive
from invsolve.errors import UnsupportedError, invalid, invalid_type
from invsolve.results.result import Result


@final
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison:
    """Models of one data set, weighed; `compare` makes it. ``str(comparison)`` is a table.

    Attributes
    ----------
    names : tuple of str
        Of the models.
    log_evidence, log_evidence_se : Tensor of float64, shape (models, [batch])
        log p(y | model) and its standard error, nats.
    weights : Tensor of float64, shape (models,)
        Prior probabilities.
    probability, probability_se : Tensor of float64, shape (models, [batch])
        p(model | y), each item for itself, and its standard error, to first order in those of the evidences.
    """

    names: tuple[str, ...]
    log_evidence: Tensor
    log_evidence_se: Tensor
    weights: Tensor
    probability: Tensor
    probability_se: Tensor

    @property
    def best(self) -> str | tuple[str, ...]:
        """The most probable model; of a batch, of every item."""
        chosen = self.probability.argmax(0)
        return self.names[int(chosen)] if chosen.ndim == 0 else tuple(self.names[i] for i in chosen.tolist())

    def log_bayes_factor(self, first: str, second: str) -> tuple[Tensor, Tensor]:
        """Log p(y | first) - log p(y | second) and its standard error, each ``([batch])``."""
        for name in (first, second):
            if name not in self.names:
                raise invalid("Comparison", "name", "one of " + ", ".join(map(repr, self.names)), repr(name))
        i, j = self.names.index(first), self.names.index(second)
        error = (self.log_evidence_se[i] ** 2 + self.log_evidence_se[j] ** 2).sqrt() if i != j else 0 * self.weights[0]
        return self.log_evidence[i] - self.log_evidence[j], error.expand_as(self.log_evidence[i])

    def __str__(self) -> str:
        batched = self.probability.ndim == 2
        columns = [self.probability, self.probability_se, self.log_evidence, self.log_evidence_se]
        items = [[c[:, b] for c in columns] for b in range(self.probability.shape[1])] if batched else [columns]
        width = max(5, *map(len, self.names))
        lines = [f"{'model':{width}}  probability              log evidence           behind the best"]
        for b, (p, p_se, log, se) in enumerate(items):
            if batched:
                lines.append(f"item {b}")
            first = int(p.argmax())
            for i in sorted(range(len(p)), key=lambda i: -float(p[i])):
                error = math.hypot(se[first], se[i])
                behind = f"{float(log[first] - log[i]):.3g} +- {error:.2g}" if i != first else "-"
                words = f"{_signed(p[i], p_se[i]):23}  {_signed(log[i], se[i]):21}  {behind}"
                lines.append(f"{self.names[i]:{width}}  {words}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        items = f", {self.probability.shape[1]} items" if self.probability.ndim == 2 else ""
        return f"Comparison({', '.join(self.names)}{items})"


@in_defined_state
def compare(
    results: Mapping[str, Result] | Sequence[Result],
    *,
    weights: Mapping[str, float] | Sequence[float] | Tensor | np.ndarray | None = None,
) -> Comparison:
    """Posterior probabilities of the models behind several results of the *same* data.

    p(model | y) is proportional to weight times evidence; its standard error is
    ``p_i sqrt(sum_j (delta_ij - p_j)^2 s_j^2)``, s_j that of the log-evidence. The evidence depends on the whole prior,
    not only on where the data put the signal: a prior twice as wide in n directions that the data determine costs about
    n log 2.

    Parameters
    ----------
    results : mapping of str to Result, or sequence of Result
        What `solve` returned with a strategy that gives ``result.log_evidence`` (`Exact`, `SMC`, `NoiseMCMC`); a
        sequence is named "model 0", "model 1", ... Models may differ in prior, operator and noise.
    weights : mapping or sequence of float, optional
        Prior probabilities up to a factor, > 0, by name or in order; equal unless given.

    Returns
    -------
    Comparison

    Raises
    ------
    UnsupportedError
        For a result without evidence, or of which it is not known (NaN): of chains that were stopped early, say.
    InputError, InputTypeError
        For results of different data, fewer than two, or weights that are none.
    """
    named = _named(results)
    names = tuple(named)
    for name, result in named.items():
        if not isinstance(result, Result):
            raise invalid_type("compare", f"results[{name!r}]", "an iv.Result", result)
        if result.log_evidence is None or result.log_evidence_se is None:
            raise UnsupportedError(
                f"compare: the result {name!r} of strategy {result.strategy} has no evidence. Solve with "
                "strategy=iv.strategies.SMC(), or Exact() where there is a closed form."
            )
        _check_known(name, result)
    _same_data(named)
    odds = _weights(weights, names)
    logs = torch.stack([_evidence(r.log_evidence) for r in named.values()]).cpu()
    errors = torch.stack([_evidence(r.log_evidence_se) for r in named.values()]).cpu()
    p = torch.softmax(logs + odds.log().view(-1, *([1] * (logs.ndim - 1))), 0)
    spread = (p * errors).square()
    # (1 - p_i)^2 s_i^2 + sum over j != i of p_j^2 s_j^2
    variance = ((1 - p) * errors).square() + (spread.sum(0) - spread).clamp_min(0)
    return Comparison(
        names=names,
        log_evidence=logs,
        log_evidence_se=errors,
        weights=odds,
        probability=p,
        probability_se=p * variance.sqrt(),
    )


def _check_known(name: str, result: Result) -> None:
    """Refuse by name a model whose evidence is not known."""
    assert result.log_evidence is not None
    lost = ~torch.isfinite(result.log_evidence)
    if result.log_evidence_se is not None:
        lost = lost | ~torch.isfinite(result.log_evidence_se)
    if not bool(lost.any()):
        return
    items = f" of items {', '.join(map(str, lost.nonzero()[:, 0].tolist()))}" if result.batched else ""
    if bool((lost & result.unfinished.to(lost.device)).any()):
        why = "its chains were stopped below the full power of the likelihood. Raise num_steps, or the budget."
    else:
        why = (
            f"what {result.strategy} found leaves it open. Take more samples, chains or steps, or Exact() where there "
            "is a closed form."
        )
    raise UnsupportedError(f"compare: the evidence{items} in the result {name!r} is not known: {why}")


def _evidence(value: Tensor | None) -> Tensor:
    assert value is not None  # looked at before
    return value


def _named(results: object) -> dict[str, Result]:
    if isinstance(results, Result) or not isinstance(results, (Mapping, Sequence)) or isinstance(results, str):
        raise invalid_type("compare", "results", "a mapping of names to results, or a sequence of results", results)
    named = dict(results) if isinstance(results, Mapping) else {f"model {i}": r for i, r in enumerate(results)}
    if len(named) < 2:
        raise invalid("compare", "results", "of two models or more", len(named))
    if other := [name for name in named if not isinstance(name, str)]:
        raise invalid_type("compare", "results", "a mapping of strings to results", other[0])
    return named


def _same_data(named: Mapping[str, Result]) -> None:
    (first, one), *others = named.items()
    for name, result in others:
        if result.failed.shape[1:] != one.failed.shape[1:]:
            given = f"{tuple(one.failed.shape[1:])} items in {first!r} and {tuple(result.failed.shape[1:])} in {name!r}"
            raise invalid("compare", "results", "of the same data", given)
        ours, theirs = (_data_of(r) for r in (one, result))
        if None not in (ours, theirs) and ours != theirs:
            raise invalid(
                "compare",
                "results",
                "of the same data (values, precision, and which of them were observed)",
                f"others in {name!r} than in {first!r}",
                "An evidence is a density of the data.",
            )


def _data_of(result: Result) -> str | None:
    known = result.settings.get("data")
    return known if isinstance(known, str) else None


def _weights(weights: object, names: tuple[str, ...]) -> Tensor:
    if weights is None:
        values: list[object] = [1.0] * len(names)
    elif isinstance(weights, Mapping):
        if set(weights) != set(names):
            raise invalid("compare", "weights", f"given for {', '.join(names)}", sorted(map(str, weights)))
        values = [weights[name] for name in names]
    elif isinstance(weights, (Sequence, Tensor, np.ndarray)) and not isinstance(weights, str):
        values = list(weights)
        if len(values) != len(names):
            raise invalid("compare", "weights", f"of length {len(names)}, one for each model", len(values))
    else:
        raise invalid_type("compare", "weights", "a mapping of names to numbers, or a sequence", weights)
    odds = torch.tensor(
        [check_positive("compare", f"weights[{n}]", v) for n, v in zip(names, values, strict=True)],
        dtype=torch.float64,
        device="cpu",
    )
    return odds / odds.sum()


def _signed(value: Tensor, error: Tensor) -> str:
    """A number and its standard error, with the digits that the error leaves.

    >>> _signed(torch.tensor(-123.4567), torch.tensor(0.023))
    '-123.457 +- 0.023'
    """
    error_ = float(error)
    digits = min(6, max(0, 1 - math.floor(math.log10(error_)))) if error_ > 0 and math.isfinite(error_) else 6
    return f"{float(value):.{digits}f} +- {error_:.2g}"
