"""What a training carries from step to step, and the files from which it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from invsolve.core.checkpoint import check_fingerprint, load_state, save_state
from invsolve.core.files import write_or_warn
from invsolve.priors.training.ema import WIDTHS, Snapshot, Weights, update
from invsolve.priors.training.loss import Uncertainty


@final
@dataclass(kw_only=True)
class State:
    """Weights, optimiser and averages after ``step`` steps; ``before``: seconds that earlier runs took."""

    network: nn.Module
    uncertainty: Uncertainty
    optimiser: torch.optim.Adam
    averages: dict[float, Weights]
    step: int = 0
    before: float = 0.0
    snapshots: list[Snapshot] = field(default_factory=list)

    @classmethod
    def begin(cls, network: nn.Module, uncertainty: Uncertainty) -> State:
        """Before the first step."""
        return cls(
            network=network,
            uncertainty=uncertainty,
            optimiser=torch.optim.Adam([*network.parameters(), *uncertainty.parameters()], betas=(0.9, 0.99)),
            averages={r: {k: v.detach().clone() for k, v in network.state_dict().items()} for r in WIDTHS},
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that the optimiser changes."""
        return [*self.network.parameters(), *self.uncertainty.parameters()]

    @torch.no_grad()
    def average(self) -> None:
        """Take the weights after the step that was just made into the averages."""
        now = self.network.state_dict()
        for r, average in self.averages.items():
            update(average, now, self.step + 1, r)

    def take_snapshot(self, folder: Path | None) -> None:
        """Keep the averages as they are now, and write them to ``folder``."""
        self.snapshots += [
            Snapshot(step=self.step, width=r, weights={k: v.clone() for k, v in average.items()})
            for r, average in self.averages.items()
        ]
        if folder is None:
            return
        tensors = {f"average {r}.{k}": v for r, average in self.averages.items() for k, v in average.items()}
        path, meta = folder / f"snapshot-{self.step:08d}.safetensors", {"step": self.step}
        write_or_warn(lambda: save_state(path, tensors, meta), "The training goes on; resumed, it would lack this one.")

    def save(self, folder: Path, identity: Mapping[str, str], seconds: float) -> None:
        """Write all but the snapshots; ``identity``: of the training; ``seconds``: that all runs have taken."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"uncertainty.{k}": v for k, v in self.uncertainty.state_dict().items()}
        for r, average in self.averages.items():
            tensors |= {f"average {r}.{k}": v for k, v in average.items()}
        for i, p in enumerate(self.parameters):
            if p in self.optimiser.state:
                tensors[f"first.{i}"] = self.optimiser.state[p]["exp_avg"]
                tensors[f"second.{i}"] = self.optimiser.state[p]["exp_avg_sq"]
        meta = {"identity": dict(identity), "step": self.step, "seconds": seconds}
        path = folder / "state.safetensors"
        write_or_warn(lambda: save_state(path, tensors, meta), "The training goes on; it cannot be resumed from here.")

    def resume(self, folder: Path, identity: Mapping[str, str]) -> None:
        """Go on from what lies in ``folder``, if anything does. Raises CheckpointError if it is of another training."""
        if not (path := folder / "state.safetensors").exists():
            return
        tensors, meta = load_state(path)
        check_fingerprint(meta["identity"], dict(identity))
        self.step, self.before = meta["step"], meta["seconds"]
        self.network.load_state_dict(_of("network", tensors))
        self.uncertainty.load_state_dict(_of("uncertainty", tensors))
        for r in WIDTHS:
            for name, value in _of(f"average {r}", tensors).items():
                self.averages[r][name].copy_(value)
        for i, p in enumerate(self.parameters):
            if f"first.{i}" in tensors:
                self.optimiser.state[p] = {
                    "step": torch.tensor(float(self.step), dtype=torch.float32, device="cpu"),
                    "exp_avg": tensors[f"first.{i}"].to(p),
                    "exp_avg_sq": tensors[f"second.{i}"].to(p),
                }
        for file in sorted(folder.glob("snapshot-*.safetensors")):
            weights, about = load_state(file)
            if about["step"] <= self.step:
                self.snapshots += [
                    Snapshot(step=about["step"], width=r, weights=_of(f"average {r}", weights)) for r in WIDTHS
                ]


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
