"""Training a diffusion prior: one loop, keyed by the step, that can be killed and resumed at any time."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from invsolve.core.files import write_or_warn
from invsolve.core.fingerprint import fingerprint
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_int, check_positive
from invsolve.errors import invalid, invalid_type, on_interrupt
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.learned.files import save_prior
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.networks import NeuralOperator, NeuralOperatorConfig, UNet, UNetConfig
from invsolve.priors.training.data import Finite, Part, Source, as_source, sample_of, split
from invsolve.priors.training.log import write_line
from invsolve.priors.training.loss import denoising_loss
from invsolve.priors.training.options import Options, Selection, check_card
from invsolve.priors.training.processes import average, processes
from invsolve.priors.training.state import State
from invsolve.priors.training.template import Template, make_template
from invsolve.priors.training.validation import candidates, choose, log_losses


@in_defined_state
@torch.enable_grad()
def train(
    data: object,
    *,
    steps: int | None = None,
    hours: float | None = None,
    network: UNetConfig | NeuralOperatorConfig | nn.Module | None = None,
    start: NetworkPrior | None = None,
    field: GaussianFieldPrior | None = None,
    out: str | os.PathLike[str] | None = None,
    options: Options | None = None,
    selection: Selection | None = None,
    device: torch.device | str = "cpu",
    card: Mapping[str, Any] | None = None,
    stop_after: int | None = None,
) -> NetworkPrior:
    """Train a denoiser on signals and return the prior; real or complex, of one or two spatial axes.

    Parameters
    ----------
    data : Tensor, callable, str, PathLike or Source
        A tensor ``(n, *shape)``, a function ``(numbers, seed) -> (n, *shape)`` that makes signals, a path to an HDF5,
        NetCDF or Zarr file, or a `Source`.
    steps : int, optional
        How long, >= 1; this or ``hours`` must be given. Each takes one batch: n / batch of them are an epoch of n
        signals.
    hours : float, optional
        Wall time, > 0, over all runs of a resumed training.
    network : UNetConfig, NeuralOperatorConfig or torch.nn.Module, optional
        A configuration (its channels are set), or any module that maps ``(batch, channels, *grid)`` and ``(batch,)`` to
        the shape of the first.
    start : NetworkPrior, optional
        A prior whose weights are taken over, with a new optimiser: progressive resolution.
    field : GaussianFieldPrior, optional
        For real fields and a network that works on every grid (`NeuralOperatorConfig`): a random field of the shape of
        the signals with about their mean and spectrum (`iv.priors.estimate_spectrum`), and the ``noise_spectrum`` of
        the diffusion noise, no smoother than the signals; with it the prior that is returned is for every grid.
    out : str or PathLike, optional
        A folder for ``log.jsonl``, ``state.safetensors`` (found there, the training goes on, bit for bit on a CPU when
        ``steps`` is given), snapshots and ``prior.safetensors``. The last is written for our own networks only; of
        other modules save the state yourself.
    options : Options, optional
        How to train: batch size, learning rate, optimiser; ``Options(batch=8)``.
    selection : Selection, optional
        How many signals are measured, held out and compared, and the averages that the weights are chosen from.
    device : torch.device or str
        Where to train.
    card : mapping, optional
        Text and values for people, which the prior keeps: whatever JSON knows.
    stop_after : int, optional
        Ends this call after so many steps, as a kill would, and returns the prior so far.

    Returns
    -------
    NetworkPrior
        Its distribution ``law`` is the stationary covariance of 512 signals. Its weights are a power-function average
        whose length is chosen on signals that are not trained on: up to 128 of a tensor or file, at most a tenth of it,
        or another stream of a function; below 20 signals those of the training. The card's training entry has their
        mean log loss (``validation loss``, the least of some ten averages), how many were ``held out``, and how much
        higher it is than that of signals that were trained on (``over-fitting``, with its standard error over signals;
        from 80 signals on).

    Raises
    ------
    InputError, InputTypeError
        For wrong arguments.
    CheckpointError
        Where ``out`` holds another training.
    SolveError
        Where the weights do not stay finite.

    Notes
    -----
    Signals that belong together, as slices of a volume, are not kept together when some are held out. Under
    ``torchrun`` every process takes its part of each batch.
    """
    source = as_source(data)
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise invalid_type("train", "options", "training.Options(...)", options)
    selection = Selection() if selection is None else selection
    if not isinstance(selection, Selection):
        raise invalid_type("train", "selection", "training.Selection(...)", selection)
    if card is not None:
        check_card(card)
    if stop_after is not None:
        check_int("train", "stop_after", stop_after, minimum=1)
    if start is not None and not isinstance(start, NetworkPrior):
        raise invalid_type("train", "start", "a NetworkPrior", start)
    if (steps is None) == (hours is None):
        raise invalid("train", "steps", "given, or `hours`, not both", "neither" if steps is None else "both")
    if steps is not None:
        check_int("train", "steps", steps, minimum=1)
    if hours is not None:
        check_positive("train", "hours", hours)
    device, folder, (rank, world) = torch.device(device), None if out is None else Path(out), processes()
    if options.batch % world:
        raise invalid("train", "options.batch", f"a multiple of the {world} processes", options.batch)
    kept, held = split(source, selection.held_out, options.seed)
    measured = sample_of(kept, selection.measured, options.seed + 1)
    template = make_template(kept, measured, options, network, start, device, card or {}, field)
    if folder is not None and rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    state = State.begin(template.prior.network, template.uncertainty)
    training = _Training(
        source=kept,
        held=held,
        options=options,
        selection=selection,
        steps=steps,
        seconds=None if hours is None else 3600 * hours,
        template=template,
        forward=_compiled(state.network) if options.compile else state.network,
        state=state,
        folder=folder if rank == 0 else None,
        device=device,
        rank=rank,
        world=world,
        identity=_identity(source, template.prior, held, options, selection, steps),
    )
    if folder is not None:
        state.resume(folder, training.identity)
    with on_interrupt(training.interrupted):
        return training.run(stop_after)


@final
@dataclass(kw_only=True)
class _Training:
    source: Source
    held: Part | None  # never trained on
    options: Options
    selection: Selection
    steps: int | None
    seconds: float | None
    template: Template
    state: State
    forward: nn.Module  # the network, compiled if that was asked for
    folder: Path | None  # of the process that writes
    device: torch.device
    identity: dict[str, str]
    rank: int
    world: int

    def run(self, stop_after: int | None) -> NetworkPrior:
        state, options = self.state, self.options
        started, last = time.perf_counter(), state.step
        since, saved = started, started
        bins: list[tuple[Tensor, Tensor]] = []
        with ThreadPoolExecutor(1) as pool:

            def fetch(step: int) -> Callable[[], Tensor]:
                # Ahead, while an accelerator works. On a CPU in turn: a second team of threads beside the network's
                # makes every step of that wait (measured on two cores: 1.6 times as long).
                if self.device.type == "cpu":
                    return partial(self._signals, step)
                return pool.submit(self._signals, step).result

            ahead = fetch(state.step)
            while (progress := self._progress(time.perf_counter() - started)) < 1:
                signals = ahead()
                ahead = fetch(state.step + 1)
                bins.append(self._one(signals, self._rate(progress)))
                state.step += 1
                now = time.perf_counter()
                if state.step % options.log_every == 0:
                    images = (state.step - last) * options.batch
                    self._log(bins, progress, images / (now - since), state.before + now - started)
                    bins, last, since = [], state.step, now
                if self._snapshot_due(progress, now - started):
                    state.take_snapshot(self.folder)
                stop = stop_after is not None and state.step >= stop_after
                if stop or now - saved > options.save_every:
                    self._save(state.before + now - started)
                    saved = now
                if stop:
                    break
        if bins:
            images, now = (state.step - last) * options.batch, time.perf_counter()
            self._log(bins, progress, images / (now - since), state.before + now - started)
        self._save(state.before + time.perf_counter() - started)
        return self._finished()

    def interrupted(self) -> str:
        """What is left of a training that the user ended, and how to go on."""
        said = f"train: interrupted at step {self.state.step}"
        if self.folder is None:
            return f"{said}, and nothing was saved. With out= the same call would go on."
        if not (self.folder / "state.safetensors").exists():
            return f"{said}, and nothing was saved yet: it is every {self.options.save_every:g} s."
        return f"{said}. {str(self.folder)!r} holds what was last saved: the same call goes on from there."

    def _one(self, signals: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """One step; the levels and losses of this process."""
        state, options, prior = self.state, self.options, self.template.prior
        rng, batch = self._rng(state.step), options.batch
        mine = slice(self.rank * batch // self.world, (self.rank + 1) * batch // self.world)
        sigma = options.levels.draw(batch, rng)[mine].to(self.device)
        w = prior._channels((signals.to(self.device) - prior.offset) / prior.unit)
        noise = torch.randn((batch, *w.shape[1:]), generator=rng, dtype=w.dtype, device="cpu")[mine].to(self.device)
        noise = prior._diffusion_noise(noise)
        if self.device.type == "cpu" and w.ndim == 4:
            w, noise = (v.contiguous(memory_format=torch.channels_last) for v in (w, noise))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = denoising_loss(self.forward, w, sigma, noise, self.template.law)
        u = state.uncertainty((sigma.log() / 4).to(loss.dtype))
        (loss / u.exp() + u).mean().backward()
        parameters = state.parameters
        if self.world > 1:
            average([p.grad for p in parameters if p.grad is not None], self.world)
        nn.utils.clip_grad_norm_(parameters, options.clip)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.step()
        state.optimiser.zero_grad(set_to_none=True)
        state.average()
        return sigma, loss.detach()

    def _rng(self, step: int) -> torch.Generator:
        """Keyed by a hash of the step, so that neighbours have nothing in common."""
        digest = hashlib.blake2b(f"train {self.options.seed} {step}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)

    def _signals(self, step: int) -> Tensor:
        batch, part = self.options.batch, self.options.batch // self.world
        first = step * batch + self.rank * part
        return self.source.read(range(first, first + part), self.options.seed)

    def _progress(self, elapsed: float) -> float:
        if self.steps is not None:
            return self.state.step / self.steps
        assert self.seconds is not None
        share = (self.state.before + elapsed) / self.seconds
        if self.world > 1:  # all processes stop together
            value = torch.tensor([share], dtype=torch.float32, device=self.device)
            torch.distributed.broadcast(value, 0)
            share = float(value)
        return share

    def _rate(self, progress: float) -> float:
        warm = min(1.0, (self.state.step + 1) / self.options.warmup) if self.options.warmup else 1.0
        return self.options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def _snapshot_due(self, progress: float, elapsed: float) -> bool:
        ahead = self._progress(elapsed) if self.steps is not None else progress + 1e-9
        done = len({s.step for s in self.state.snapshots})
        return ahead >= (done + 1) / self.selection.snapshots

    # --- files --------------------------------------------------------------------------------------------------------
    def _log(self, bins: list[tuple[Tensor, Tensor]], progress: float, speed: float, seconds: float) -> None:
        sigma, loss = (torch.cat([b[i] for b in bins]).double().cpu() for i in (0, 1))
        if self.folder is not None:
            step, rate = self.state.step, self._rate(progress)
            write_line(self.folder, sigma, loss, step, progress, learning_rate=rate, speed=speed, seconds=seconds)

    def _save(self, seconds: float) -> None:
        if self.folder is not None:
            self.state.save(self.folder, self.identity, seconds)

    # --- the end ------------------------------------------------------------------------------------------------------
    def _finished(self) -> NetworkPrior:
        state, options, prior = self.state, self.options, self.template.prior

        def loss(weights: Mapping[str, Tensor], signals: Tensor) -> Tensor:
            return log_losses(
                state.network,
                weights,
                signals,
                template=prior,
                law=self.template.law,
                levels=options.levels,
                rng=self._rng(-1),
            )

        seen = state.step * options.batch
        named = candidates(state, self.selection)
        chosen = choose(named, loss, self.source, self.held, seen=seen, options=options, selection=self.selection)
        state.network.load_state_dict(chosen.weights)
        network = state.network.eval().requires_grad_(False)
        recipe = {
            "signals": seen,
            "steps": state.step,
            "weights": chosen.name,
            "validation loss": chosen.loss,
            "held out": self.held.size if self.held else 0,
            **chosen.over,
            "parameters": sum(p.numel() for p in network.parameters()),
            "options": repr(options),
        }
        made = replace(prior, network=network, card={**prior.card, "training": recipe})
        if self.folder is not None and isinstance(network, (UNet, NeuralOperator)):
            path = self.folder / "prior.safetensors"
            write_or_warn(lambda: _save(made, path), "Save the prior that is returned: iv.priors.save_prior.")
        return made


def _save(prior: NetworkPrior, path: Path) -> None:
    save_prior(prior, path)


def _compiled(module: nn.Module) -> nn.Module:
    made: nn.Module = torch.compile(module)  # type: ignore[assignment]
    return made


def _identity(
    source: Source, prior: NetworkPrior, held: Part | None, options: Options, selection: Selection, steps: int | None
) -> dict[str, str]:
    """What tells trainings apart; of the data their number, shape and rms, also of what is held out, to all digits."""
    number = f"{source.size} signals" if isinstance(source, Finite) else "signals made"
    kept = "" if held is None else f", held out {float(sample_of(held, held.size, 0).abs().square().mean().sqrt())!r}"
    kind = "complex" if source.complex else "real"
    chosen = replace(options, log_every=1, save_every=0.0, precision="full", compile=False)
    return {
        "data": f"{number} of shape {source.shape}, {kind}, rms {prior.unit!r}{kept}",
        "network": repr(prior.network),
        "options": fingerprint((chosen, selection)),
        "steps": str(steps),
    }
