"""The answer of a solve that is over, beside its checkpoint: what is read again is not computed again.

Checkpoints hold what strategies ran; looks, searches, draws and evidences that followed are in the answer. It is of one
call: another budget, or other data, go their own way, from the checkpoint on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

from torch import Tensor

from invsolve.core.checkpoint import load_state, save_state
from invsolve.core.files import write_or_warn
from invsolve.core.fingerprint import fingerprint
from invsolve.errors import FileError
from invsolve.gaussian.marginals import Moments
from invsolve.results.assembly import package_version
from invsolve.results.certificate import Certificate
from invsolve.results.strategy_output import StrategyOutput
from invsolve.solving.request import SolveRequest
from invsolve.strategies.base import Strategy
from invsolve.strategies.choice.candidates import Candidate
from invsolve.strategies.diagnostics import Diagnostics
from invsolve.strategies.exact import Exact
from invsolve.strategies.guidance.mmps import MMPS
from invsolve.strategies.mcmc.noise_mcmc import NoiseMCMC
from invsolve.strategies.smc.smc import SMC

_Answer = tuple[StrategyOutput, Candidate, Certificate | None]
_ROWS = ("samples", "chi2", "log_weights")
_PLAIN = ("processed", "seconds", "chunk", "stopped", "share")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """Where the answer of a call is kept, and what the call is known by; of no checkpoint nothing is."""

    request: SolveRequest
    asked: str  # what of the call is not in the request, such as its budget

    @property
    def _path(self) -> str | None:
        saved = self.request.saved
        return None if saved is None else f"{os.fspath(saved.path)}.answer"

    def read(self, candidates: Sequence[Candidate]) -> _Answer | None:
        """What was found, if that is there; ``candidates``: of the call."""
        path = self._path
        if path is None or self.request.saved is None or not Path(self.request.saved.path).exists():
            return None
        if not Path(path).exists():
            return None
        try:
            tensors, meta = load_state(path)
            if meta.get("identity") != self._identity():
                return None
            return self._from_state(tensors, meta, candidates)
        except (
            FileError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            RuntimeError,
        ):  # damaged: the checkpoint is still there
            return None

    def write(self, found: StrategyOutput, candidate: Candidate, certificate: Certificate | None) -> None:
        """Keep an answer, where more was done than the checkpoint holds."""
        alone = certificate is None or len(certificate.attempts) == 1
        if self._path is None or isinstance(candidate.strategy, Exact):
            return
        if alone and candidate.strategy.couples == "nothing":
            return
        tensors = {name: value for name in _ROWS if (value := getattr(found, name)) is not None}
        tensors |= {f"info.{name}": value for name, value in found.info.items()}
        if found.moments is not None and found.moments.std is not None:
            tensors |= {"moments.mean": found.moments.mean, "moments.std": found.moments.std}
        meta = {
            "identity": self._identity(),
            "calls": dict(found.calls),
            "warnings": list(found.warnings),
            **{name: getattr(found, name) for name in _PLAIN},
            "certificate": None if certificate is None else certificate.to_dict(),
            "why": candidate.why,
            "name": candidate.name,
            "strategy": candidate.strategy.name,
            "options": _options(candidate.strategy),
            "fingerprint": candidate.strategy.fingerprint(),
        }
        write_or_warn(partial(save_state, self._path, tensors, meta), "A finished run will be read in part only.")

    def _identity(self) -> dict[str, str]:
        problem = self.request.problem
        return {
            "y": fingerprint(problem.data),
            "operator": problem.operator.fingerprint(),
            "noise": fingerprint(problem.noise),
            "prior": self.request.prior.fingerprint(),
            "seed": str(self.request.seed),
            "item_ids": fingerprint(list(self.request.keys)),
            "rows": f"{self.request.chunk}, {self.request.reproducible}, {self.request.weighted}",
            "asked": self.asked,
            "draws": self.request.drawn_by,
            "version": package_version(),  # whose tests the certificate is of
        }

    def _from_state(
        self, tensors: dict[str, Tensor], meta: dict[str, Any], candidates: Sequence[Candidate]
    ) -> _Answer | None:
        problem = self.request.problem
        tensors = {name: value.to(problem.data.device) for name, value in tensors.items()}
        samples, rows = tensors["samples"], len(tensors["chi2"])
        rowwise = {n.removeprefix("info."): v for n, v in tensors.items() if n.startswith("info.")}
        lengths = {len(v) for v in (samples, *rowwise.values())}
        strategy = self._strategy(meta, candidates)
        if strategy is None or lengths != {rows} or samples.shape[1:] != problem.shape or rows % len(problem.data):
            return None
        moments = None
        if "moments.mean" in tensors:
            moments = Moments(mean=tensors["moments.mean"], std=tensors["moments.std"], known="ensemble")
        found = StrategyOutput(
            samples=samples,
            chi2=tensors["chi2"],
            log_weights=tensors.get("log_weights"),
            info=Diagnostics.from_mapping(rowwise),
            calls=Counter(meta["calls"]),
            warnings=tuple(meta["warnings"]),
            moments=moments,
            **{name: meta[name] for name in _PLAIN},
        )
        certificate = None if meta["certificate"] is None else Certificate.from_dict(meta["certificate"])
        return found, Candidate(strategy=strategy, why=meta["why"], name=meta["name"]), certificate

    def _strategy(self, meta: dict[str, Any], candidates: Sequence[Candidate]) -> Strategy | None:
        """The strategy that was run: one of those to try, but for its numbers."""
        usual = (NoiseMCMC(), SMC(), MMPS().settled(self.request.problem, self.request.prior))
        for base in (*(c.strategy for c in candidates), *usual):
            if base.name == meta["strategy"] and is_dataclass(base):
                own: Any = replace(base, **meta["options"])
                if own.fingerprint() == meta["fingerprint"]:
                    strategy: Strategy = own
                    return strategy
        return None


def _options(strategy: Strategy) -> dict[str, Any]:
    """The options that are numbers or words."""
    if not is_dataclass(strategy):
        return {}
    named = {f.name: getattr(strategy, f.name) for f in fields(strategy) if f.init}
    return {name: value for name, value in named.items() if isinstance(value, (bool, int, float, str))}
