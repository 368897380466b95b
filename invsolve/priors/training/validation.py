"""Which weights a training ends with: averages of several lengths, compared on signals that are held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from invsolve.errors import SolveError
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.training.data import Finite, Part, Source, sample_of
from invsolve.priors.training.ema import Weights, combine
from invsolve.priors.training.loss import NoiseLaw, denoising_loss
from invsolve.priors.training.options import Options, Selection
from invsolve.priors.training.state import State

LossOf = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # of weights and signals (n, *shape): (n,), logarithms
_ROWS = 16  # signals that the network sees at once


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """The ``weights`` of least mean log loss on signals that are held out, their ``name``, and that ``loss``.

    ``over``: by how much it is above that of signals that were trained on, and its standard error; empty where nothing
    can be said.
    """

    name: str
    weights: Mapping[str, Tensor]
    loss: float
    over: dict[str, float] = field(default_factory=dict)


def candidates(state: State, selection: Selection) -> dict[str, Mapping[str, Tensor]]:
    """The weights to choose from, by their names."""
    found: dict[str, Mapping[str, Tensor]] = {"last weights": state.network.state_dict()}
    found |= {f"average of width {r}": a for r, a in state.averages.items()}
    if len({s.step for s in state.snapshots}) >= 2:
        combined: dict[str, Weights] = {
            f"average of width {r}, from snapshots": combine(state.snapshots, state.step, r) for r in selection.widths
        }
        found |= combined
    return found


def choose(
    candidates: Mapping[str, Mapping[str, Tensor]],
    loss: LossOf,
    source: Source,
    held: Part | None,
    *,
    seen: int,
    options: Options,
    selection: Selection,
) -> Chosen:
    """The best of the candidates, after ``seen`` signals. Raises SolveError if none has a finite loss."""
    signals, different = _others(source, held, options.seed, selection.held_out)
    each = {name: loss(weights, signals) for name, weights in candidates.items()}
    losses = {name: float(value.mean()) for name, value in each.items()}
    finite = {name: value for name, value in losses.items() if math.isfinite(value)}
    if not finite:
        raise SolveError(
            "train: the weights are no longer finite: the learning rate, "
            f"{options.learning_rate:g}, is too large, or the data are not on one scale."
        )
    best = min(finite, key=finite.__getitem__)
    over: dict[str, float] = {}
    count = max(1, min(len(signals), seen))
    compared = held or not isinstance(source, Finite)  # else with the same signals
    if compared and min(different, count) >= selection.compared:
        trained = source.read([i % count for i in range(len(signals))], options.seed)
        # Row by row at one level: what levels and noise do cancels. Then signal by signal of the fewer.
        fewer = min(different, count)
        rows = len(signals) // fewer * fewer
        gap = (each[best] - loss(candidates[best], trained))[:rows].view(-1, fewer).mean(0)
        over = {"over-fitting": float(gap.mean()), "over-fitting error": float(gap.std()) / fewer**0.5}
    return Chosen(name=best, weights=candidates[best], loss=losses[best], over=over)


def _others(source: Source, held: Part | None, seed: int, number: int) -> tuple[Tensor, int]:
    """Signals to choose an average on, and how many are different: few are used again, with other noise."""
    if held is None:
        signals = sample_of(source, number, seed + 2)
        return signals, len(signals)
    n = held.size
    rows = range(n * -(-number // n))
    return held.at([i % n for i in rows], rows, seed + 2), n


@torch.no_grad()
def log_losses(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    signals: Tensor,
    *,
    template: NetworkPrior,
    law: GaussianLaw | None,
    levels: NoiseLaw,
    rng: torch.Generator,
) -> Tensor:
    """Logarithms of the losses of ``signals`` under ``weights``, ``(n,)``; ``network`` is left as it was.

    Every level counts alike, as under the uncertainty.
    """
    device = template.device
    kept = {k: v.clone() for k, v in network.state_dict().items()}
    network.load_state_dict(weights)
    network.eval()
    sigma = levels.draw(len(signals), rng).to(device)
    w = template._channels((signals.to(device) - template.offset) / template.unit)
    noise = torch.randn(w.shape, generator=rng, dtype=w.dtype, device="cpu").to(device)
    noise = template._diffusion_noise(noise)
    losses = [
        denoising_loss(network, w[i : i + _ROWS], sigma[i : i + _ROWS], noise[i : i + _ROWS], law)
        for i in range(0, len(w), _ROWS)
    ]
    network.load_state_dict(kept)
    network.train()
    return torch.cat(losses).double().log()
