"""What a result holds: rows of samples, what is known of them, and how they were obtained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from invsolve.core.coordinates import Coordinates, fitting
from invsolve.core.packing import Layout
from invsolve.core.torch_state import Defined
from invsolve.core.validation import Shape
from invsolve.errors import invalid
from invsolve.gaussian.marginals import Marginals
from invsolve.results.certificate import NOT_TESTED, Certificate
from invsolve.results.consistency import check_fields
from invsolve.results.solver import Solver, Source
from invsolve.results.status import Status

_STATISTICS = ("mean", "std", "quantile", "interval")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ResultFields(Defined):
    """What a `Result` holds; the fields are described there."""

    samples: Tensor  # (num_samples, [batch,] *shape), real or complex
    status: Status
    failed: Tensor  # (num_samples, [batch]) bool
    batched: bool
    shape: Shape  # of the signal
    chi2: Tensor  # (num_samples, [batch]): chi^2 per datum of each sample, about 1 for a right model
    log_weights: Tensor | None = None  # (num_samples, [batch]), up to a constant per item; None: equal weights
    strategy: str
    why: str  # one sentence: why this strategy
    nfe: float  # network (denoiser) evaluations per sample
    vjps: float  # differentiations of the denoiser per sample
    operator_calls: Mapping[str, int]  # by kind, in rows
    seconds: float
    seed: int
    settings: Mapping[str, Any]  # what JSON can hold
    versions: Mapping[str, str]
    info: Mapping[str, Tensor] = field(default_factory=dict)  # by name, (num_samples, [batch])
    # Scalars inferred with the signal ("noise.std", "prior.length"), by name, (num_samples, [batch]); `result[name]`.
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    layout: Layout | None = None  # the parts of a packed signal
    problem: Any = None  # not saved
    prior: Any = None  # not saved
    solver: Solver | None = None  # not saved
    source: Source | None = None  # what it was derived from; not saved
    warnings: tuple[str, ...] = ()
    certificate: Certificate | None = None  # of strategy="auto"
    marginals: Marginals | None = None  # statistics that are known without the samples: those of the result
    parameter_marginals: Mapping[str, Marginals] = field(default_factory=dict)  # the same of `parameters`
    dims: tuple[str, ...] | None = None  # names of the signal's axes; taken from the problem when it has them
    units: str = ""  # of the signal; taken from the problem when it has them
    coords: Coordinates = field(default_factory=dict)  # along axes of the signal and of the batch; with the problem's
    batch_dim: str = ""  # the name of the batch axis in datasets, "item" where it has none; taken from the problem

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        check_fields(
            self.samples,
            batched=self.batched,
            shape=self.shape,
            failed=self.failed,
            status=self.status,
            power=self.info.get("beta"),
            log_weights=self.log_weights,
            rows={
                "chi2": self.chi2,
                **{f"info[{k!r}]": v for k, v in self.info.items()},
                **{f"parameters[{k!r}]": v for k, v in self.parameters.items()},
            },
            marginals=self.marginals,
            parameter_marginals=self.parameter_marginals,
        )
        if self.dims is None and (dims := _dims_of(self.problem)) is not None and len(dims) == len(self.shape):
            object.__setattr__(self, "dims", dims)
        if not self.units and isinstance(units := getattr(self.problem, "units", ""), str):
            object.__setattr__(self, "units", units)
        if not self.batch_dim and isinstance(name := getattr(self.problem, "batch_dim", ""), str):
            object.__setattr__(self, "batch_dim", name if self.batched else "")
        coords = {**(getattr(self.problem, "coords", None) or {}), **self.coords}
        object.__setattr__(self, "coords", fitting(coords, self._sizes) if coords else {})
        if self.dims is not None and (len(self.dims) != len(self.shape) or len(set(self.dims)) != len(self.dims)):
            raise invalid("Result", "dims", f"{len(self.shape)} different names, one for each axis", self.dims)

    @property
    def _sizes(self) -> dict[str, int]:
        """The lengths of the axes of the signal and of the batch that have names."""
        batch = {self.batch_dim: self.samples.shape[1]} if self.batched and self.batch_dim else {}
        return {**dict(zip(self.dims or (), self.shape, strict=False)), **batch}

    @property
    def num_samples(self) -> int:
        """How many samples were asked for, failed ones included."""
        return len(self.samples)

    @cached_property
    def weights(self) -> Tensor:
        """Normalised weights ``(num_samples, [batch])``, float64: they sum to 1 per item, failed rows have 0.

        An item without a good row, or whose weights are all zero, has NaN.
        """
        if self.log_weights is None:
            weight = (~self.failed).double()
        else:
            logs = self.log_weights.double().masked_fill(self.failed, -math.inf)
            weight = (logs - logs.max(0).values).exp()
        return weight / weight.sum(0)

    @property
    def ess(self) -> Tensor:
        """Effective sample size ``([batch])``: 1 / sum w^2; without weights the number of good samples.

        Where the strategy says less of the ensemble that they were taken from (``info["ess"]``), that; samples that are
        there more than once count once; and 0 where
        chains did not reach the full power of the likelihood: samples there are none of the posterior.
        """
        told = self._of_item("ess")
        if self.log_weights is None:
            count = (~self.failed).sum(0).double()
        else:
            count = torch.nan_to_num(1 / self.weights.square().sum(0), nan=0.0)
        if told is not None:
            count = torch.minimum(count, told.to(count.device).nan_to_num(nan=torch.inf))
        return torch.where(self.unfinished, 0.0, count)

    @property
    def unfinished(self) -> Tensor:
        """Which items ``([batch])`` have samples of a power of the likelihood only: their chains were stopped early."""
        power = self.info.get("beta")  # NaN: of rows that are not of chains
        return torch.zeros_like(self.failed[0]) if power is None else (power < 1).any(0).to(self.failed.device)

    @property
    def tempered(self) -> str:
        """Which power of the likelihood the samples are of, in words, where chains did not reach 1; '' if they did.

        Their mean and std are those of a tempered posterior: the std is too large.
        """
        ended = self.unfinished
        if not bool(ended.any()):
            return ""
        power = self.info["beta"].nan_to_num(nan=1.0).amin(0).to(ended.device)[ended].double()
        low, high = float(power.min()), float(power.max())
        of = f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g}"
        whose = "" if bool(ended.all()) else f" in {int(ended.sum())} of {ended.numel()} items"
        return f"tempered, power {of} of the likelihood{whose}"

    @property
    def log_evidence(self) -> Tensor | None:
        """Log p(y) in nats, ``([batch])`` float64, where the strategy estimates it; else None.

        `Exact`, `SMC` and `NoiseMCMC` do; NaN where it could not be told, and of chains that were stopped below the
        full power of the likelihood. The log density of the data under prior, operator and noise: `iv.compare` weighs
        models by it.
        """
        return self._of_item("log_evidence")

    @property
    def log_evidence_se(self) -> Tensor | None:
        """The standard error of `log_evidence`, ``([batch])``: of the Monte Carlo, or a bound of the rounding."""
        return self._of_item("log_evidence_se")

    def _of_item(self, name: str) -> Tensor | None:
        return self.info[name][0].double() if name in self.info else None  # the same for all samples of an item

    @property
    def exact_statistics(self) -> tuple[str, ...]:
        """Which of "mean", "std", "quantile" and "interval" are those of a closed form, and not of the samples.

        They are exact up to rounding, or to the residual of a linear solve. All four, where `Exact` solved a problem of
        moderate size; of larger ones the mean alone, where a std would take more than about a second; of a result that
        was read from a file or picked from others, what can be; none of what `map` made, or with unknown scalars.
        """
        return tuple(name for name, known in self.statistics.items() if known == "closed form")

    @property
    def statistics(self) -> Mapping[str, str]:
        """What "mean", "std", "quantile" and "interval" of the result are those of, by name.

        - "closed form": the distribution itself (`exact_statistics`);
        - "ensemble": everything that chains or particles drew, of which the samples are some; what the certificate
          says of means and stds holds for these. Items of which no ensemble was recorded have those of
          their samples;
        - "lattice": an unknown scalar's distribution, integrated numerically;
        - "samples": the samples of the result, with the Monte Carlo error of their number.
        """
        found = self.marginals
        if found is None:
            return dict.fromkeys(_STATISTICS, "samples")
        known = (True, found.std is not None, found.has_quantiles, found.has_quantiles)
        return {name: found.known if here else "samples" for name, here in zip(_STATISTICS, known, strict=True)}

    @property
    def certified(self) -> str:
        """Whether the samples were seen to be draws from the posterior, in a sentence.

        It begins with "certified", "not certified" (why, and what it would take) or "not tested".
        """
        if self.certificate is not None:
            return self.certificate.sentence
        return NOT_TESTED

    @property
    def certified_word(self) -> str:
        """What `certified` begins with: "certified", "not certified" or "not tested"."""
        return "not tested" if self.certificate is None else self.certificate.word


def _dims_of(problem: object) -> tuple[str, ...] | None:
    dims = getattr(problem, "dims", None) or getattr(getattr(problem, "grid", None), "dims", None)
    return tuple(map(str, dims)) if dims else None
