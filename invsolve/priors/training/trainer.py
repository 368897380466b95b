"""Training a diffusion prior: one loop, keyed by the step, that can be killed and resumed at any time."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from invsolve.core.checkpoint import check_fingerprint, load_state, save_state
from invsolve.core.fingerprint import fingerprint
from invsolve.core.validation import Kind, check_choice, check_int, check_positive, kind_dtype
from invsolve.errors import SolveError, invalid, invalid_type
from invsolve.gaussian.law import GaussianLaw
from invsolve.priors.learned.files import save_prior
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.learned.parameterization import EDM, BesideLaw
from invsolve.priors.networks import UNet, UNetConfig
from invsolve.priors.training.covariance import estimate_law
from invsolve.priors.training.data import Finite, Part, Source, as_source, sample_of, split
from invsolve.priors.training.ema import WIDTHS, Snapshot, combine, update
from invsolve.priors.training.loss import NoiseLaw, Uncertainty, denoising_loss

_MEASURED = 512  # signals from which mean, unit and covariance are taken
_VALIDATION = 128  # signals, held out where they can be, on which the length of the average is chosen
_COMPARED = 8  # signals, below which a standard error of over-fitting says little
_SNAPSHOTS = 8  # over a run
_TRIED = (0.02, 0.035, 0.05, 0.075, 0.10, 0.14)  # relative widths of averages that are compared at the end


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train: Adam (0.9, 0.99) with a warm-up and a cosine to zero at the end.

    Parameters
    ----------
    batch : int
        Signals of a step, over all processes, >= 1.
    learning_rate : float
        The largest, > 0.
    warmup : int
        Steps over which it grows linearly, >= 0.
    clip : float
        Norm that gradients are clipped to, > 0.
    levels : NoiseLaw
        Noise levels.
    seed : int
        Keys what is held out, the order of the data, levels, noise and the first weights; >= 0.
    precision : {"full", "bfloat16"}
        Of the network's products: bfloat16 is 1.5 times as fast on some CPUs and slower on others, faster on
        accelerators; weights stay in full precision.
    skip : {"law", "white"}
        What the network is added to: the Wiener filter of the covariance of the data (`BesideLaw`), or EDM's multiple
        of the noisy signal (`EDM`, a Gaussian without correlations).
    compile : bool
        Whether the network goes through torch.compile: 1.3 times as fast on a CPU, after half a minute; needs a C++
        compiler.
    log_every : int
        Steps between lines of the log, >= 1.
    save_every : float
        Seconds between checkpoints, >= 0.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.
    """

    batch: int = 32
    learning_rate: float = 2e-3
    warmup: int = 200
    clip: float = 1.0
    levels: NoiseLaw = field(default_factory=NoiseLaw)
    seed: int = 0
    precision: Literal["full", "bfloat16"] = "full"
    skip: Literal["law", "white"] = "law"
    compile: bool = False
    log_every: int = 20
    save_every: float = 60.0

    def __post_init__(self) -> None:
        for name in ("batch", "log_every"):
            check_int("Options", name, getattr(self, name), minimum=1)
        if not isinstance(self.levels, NoiseLaw):
            raise invalid_type("Options", "levels", "a NoiseLaw", self.levels)
        check_choice("Options", "precision", self.precision, ("full", "bfloat16"))
        check_choice("Options", "skip", self.skip, ("law", "white"))
        check_choice("Options", "compile", self.compile, (True, False))
        check_int("Options", "warmup", self.warmup, minimum=0)
        check_int("Options", "seed", self.seed, minimum=0)
        for name in ("learning_rate", "clip"):
            check_positive("Options", name, getattr(self, name))
        check_positive("Options", "save_every", self.save_every, zero=True)


def train(
    data: object,
    *,
    steps: int | None = None,
    hours: float | None = None,
    network: UNetConfig | nn.Module | None = None,
    start: NetworkPrior | None = None,
    out: str | os.PathLike[str] | None = None,
    options: Options | None = None,
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
        How long, >= 1; this or ``hours`` must be given.
    hours : float, optional
        Wall time, > 0, over all runs of a resumed training.
    network : UNetConfig or torch.nn.Module, optional
        A configuration (its channels are set), or any module that maps ``(batch, channels, *grid)`` and ``(batch,)`` to
        the shape of the first.
    start : NetworkPrior, optional
        A prior whose weights are taken over, with a new optimiser: progressive resolution.
    out : str or PathLike, optional
        A folder for ``log.jsonl``, ``state.safetensors`` (found there, the training goes on, bit for bit on a CPU when
        ``steps`` is given), snapshots and ``prior.safetensors``. The last is written for the U-Net only; of other
        modules save the state yourself.
    options : Options, optional
        How to train.
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

    Notes ----- Signals that belong together, as slices of a volume, are not kept together when some are held out. Under
    ``torchrun`` every process takes its part of each batch.
    """
    source = as_source(data)
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise invalid_type("train", "options", "training.Options(...)", options)
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
    return _Training.begin(source, options, steps, hours, network, start, out, torch.device(device), card or {}).run(
        stop_after
    )


@dataclass(kw_only=True)
class _Training:
    source: Source
    held: Part | None  # never trained on
    options: Options
    steps: int | None
    seconds: float | None
    template: NetworkPrior  # what the prior will be, with the weights being trained
    law: GaussianLaw | None  # that the network is added to, of standardised signals, its mean with the channels
    network: nn.Module
    forward: nn.Module  # the same, compiled if that was asked for
    uncertainty: Uncertainty
    optimiser: torch.optim.Adam
    averages: dict[float, dict[str, Tensor]]
    folder: Path | None
    device: torch.device
    identity: dict[str, str]
    step: int = 0
    before: float = 0.0  # seconds of earlier runs
    rank: int = 0
    world: int = 1
    snapshots: list[Snapshot] = field(default_factory=list)

    # --- begin and resume -----------------------------------------------------------------------------------------
    @classmethod
    def begin(
        cls,
        source: Source,
        options: Options,
        steps: int | None,
        hours: float | None,
        network: UNetConfig | nn.Module | None,
        start: NetworkPrior | None,
        out: str | os.PathLike[str] | None,
        device: torch.device,
        card: Mapping[str, Any],
    ) -> _Training:
        rank, world = _processes()
        if options.batch % world:
            raise invalid("train", "options.batch", f"a multiple of the {world} processes", options.batch)
        whole = source
        source, held = split(source, _VALIDATION, options.seed)
        measured = sample_of(source, _MEASURED, options.seed + 1)
        real = kind_dtype(measured.dtype, "real")
        if real not in (torch.float32, torch.float64):
            raise invalid_type("train", "data", "of single or double precision", str(measured.dtype), "data.float()")
        law = estimate_law(measured)
        offset = law.mean.mean() if not source.complex else torch.zeros((), dtype=measured.dtype)
        centred = measured - offset
        parts = torch.view_as_real(centred) if source.complex else centred
        unit = float(parts.square().mean().sqrt())
        if start is not None and network is not None:
            raise invalid("train", "network", "left out with `start`", type(network).__name__)
        hidden = start is not None and start.channels == "hidden" or len(source.shape) <= 2
        channels = (2 if source.complex else 1) if hidden else source.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            if start is not None:
                _check_start(start, options, "complex" if source.complex else "real", channels)
            module = _module(network, start, channels, len(source.shape)).to(device=device, dtype=real)
            uncertainty = Uncertainty().to(device=device, dtype=real)
        if device.type == "cpu" and len(source.shape) >= 2:
            module = module.to(memory_format=torch.channels_last)
        module.train().requires_grad_(True)
        template = NetworkPrior(
            network=module,
            shape=source.shape,
            kind="complex" if source.complex else "real",
            channels="hidden" if hidden else "first",
            offset=offset.to(device),
            unit=unit,
            sigma_range=(options.levels.low * unit, options.levels.high * unit),
            mean=law.mean.to(device),
            scale=float(law.variances.max()) ** 0.5,
            detail=max(float(law.variances.min()) ** 0.5, options.levels.low * unit),
            law=law.to(device),
            card=dict(card),
            prediction=BesideLaw() if options.skip == "law" else EDM(),
        )
        module.requires_grad_(True)
        folder = None if out is None else Path(out)
        if folder is not None and rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
        made = cls(
            source=source,
            held=held,
            options=options,
            steps=steps,
            seconds=None if hours is None else 3600 * hours,
            template=template,
            law=_standard(template) if options.skip == "law" else None,
            network=module,
            forward=_compiled(module) if options.compile else module,
            uncertainty=uncertainty,
            optimiser=torch.optim.Adam([*module.parameters(), *uncertainty.parameters()], betas=(0.9, 0.99)),
            averages={r: {k: v.detach().clone() for k, v in module.state_dict().items()} for r in WIDTHS},
            folder=folder,
            device=device,
            rank=rank,
            world=world,
            identity={
                "data": _identity(whole, unit, held),
                "network": repr(module),
                "options": fingerprint(replace(options, log_every=1, save_every=0.0, precision="full", compile=False)),
                "steps": str(steps),
            },
        )
        made._resume()
        return made

    def _resume(self) -> None:
        if self.folder is None or not (path := self.folder / "state.safetensors").exists():
            return
        tensors, meta = load_state(path)
        check_fingerprint(meta["identity"], self.identity)
        self.step, self.before = meta["step"], meta["seconds"]
        self.network.load_state_dict(_of("network", tensors))
        self.uncertainty.load_state_dict(_of("uncertainty", tensors))
        for r in WIDTHS:
            for name, value in _of(f"average {r}", tensors).items():
                self.averages[r][name].copy_(value)
        for i, p in enumerate(self._parameters):
            if f"first.{i}" in tensors:
                self.optimiser.state[p] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"first.{i}"].to(p),
                    "exp_avg_sq": tensors[f"second.{i}"].to(p),
                }
        for file in sorted(self.folder.glob("snapshot-*.safetensors")):
            weights, about = load_state(file)
            if about["step"] <= self.step:
                self.snapshots += [
                    Snapshot(step=about["step"], width=r, weights=_of(f"average {r}", weights)) for r in WIDTHS
                ]

    # --- the loop -----------------------------------------------------------------------------------------------------
    def run(self, stop_after: int | None) -> NetworkPrior:
        started, last = time.perf_counter(), self.step
        since, saved = started, started
        bins: list[tuple[Tensor, Tensor]] = []
        with ThreadPoolExecutor(1) as pool:

            def fetch(step: int) -> Callable[[], Tensor]:
                # Ahead, while an accelerator works. On a CPU in turn: a second team of threads beside the network's
                # makes every step of that wait (measured on two cores: 1.6 times as long).
                if self.device.type == "cpu":
                    return partial(self._signals, step)
                return pool.submit(self._signals, step).result

            ahead = fetch(self.step)
            while (progress := self._progress(time.perf_counter() - started)) < 1:
                signals = ahead()
                ahead = fetch(self.step + 1)
                sigma, loss = self._one(signals, self._rate(progress))
                bins.append((sigma, loss))
                self.step += 1
                now = time.perf_counter()
                if self.step % self.options.log_every == 0:
                    images = (self.step - last) * self.options.batch
                    self._log(bins, progress, images / (now - since), self.before + now - started)
                    bins, last, since = [], self.step, now
                if self._snapshot_due(progress, now - started):
                    self._snapshot()
                stop = stop_after is not None and self.step >= stop_after
                if stop or now - saved > self.options.save_every:
                    self._save(self.before + now - started)
                    saved = now
                if stop:
                    break
        if bins:
            self._log(
                bins,
                progress,
                (self.step - last) * self.options.batch / (time.perf_counter() - since),
                self.before + time.perf_counter() - started,
            )
        self._save(self.before + time.perf_counter() - started)
        return self._finished()

    def _one(self, signals: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """One step; the levels and losses of this process."""
        rng = torch.Generator().manual_seed(_key(self.options.seed, self.step))
        template, batch = self.template, self.options.batch
        mine = slice(self.rank * batch // self.world, (self.rank + 1) * batch // self.world)
        sigma = self.options.levels.draw(batch, rng)[mine].to(self.device)
        w = template._channels((signals.to(self.device) - template.offset) / template.unit)
        noise = torch.randn((batch, *w.shape[1:]), generator=rng, dtype=w.dtype)[mine].to(self.device)
        if self.device.type == "cpu" and w.ndim == 4:
            w, noise = (v.contiguous(memory_format=torch.channels_last) for v in (w, noise))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.precision == "bfloat16"):
            loss = denoising_loss(self.forward, w, sigma, noise, self.law)
        u = self.uncertainty((sigma.log() / 4).to(loss.dtype))
        (loss / u.exp() + u).mean().backward()
        parameters = self._parameters
        if self.world > 1:
            _average([p.grad for p in parameters if p.grad is not None], self.world)
        nn.utils.clip_grad_norm_(parameters, self.options.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            state = self.network.state_dict()
            for r, average in self.averages.items():
                update(average, state, self.step + 1, r)
        return sigma, loss.detach()

    def _signals(self, step: int) -> Tensor:
        batch, part = self.options.batch, self.options.batch // self.world
        first = step * batch + self.rank * part
        return self.source.read(range(first, first + part), self.options.seed)

    def _progress(self, elapsed: float) -> float:
        if self.steps is not None:
            return self.step / self.steps
        assert self.seconds is not None
        share = (self.before + elapsed) / self.seconds
        if self.world > 1:  # all processes stop together
            value = torch.tensor([share], device=self.device)
            torch.distributed.broadcast(value, 0)
            share = float(value)
        return share

    def _rate(self, progress: float) -> float:
        warm = min(1.0, (self.step + 1) / self.options.warmup) if self.options.warmup else 1.0
        return self.options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [*self.network.parameters(), *self.uncertainty.parameters()]

    # --- files --------------------------------------------------------------------------------------------------------
    def _log(self, bins: list[tuple[Tensor, Tensor]], progress: float, rate: float, seconds: float) -> None:
        sigma, loss = (torch.cat([b[i] for b in bins]).double().cpu() for i in (0, 1))
        if self.folder is None or self.rank:
            return
        decade = sigma.log10().floor().clamp(-3, 2)
        levels = {f"1e{int(k)}": float(loss[decade == k].mean()) for k in sorted(set(decade.tolist()))}
        line = {
            "step": self.step,
            "progress": round(progress, 5),
            "loss": float(loss.mean()),
            "levels": levels,
            "learning_rate": self._rate(progress),
            "signals_per_second": rate,
            "seconds": seconds,
        }
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _save(self, seconds: float) -> None:
        if self.folder is None or self.rank:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"uncertainty.{k}": v for k, v in self.uncertainty.state_dict().items()}
        for r, average in self.averages.items():
            tensors |= {f"average {r}.{k}": v for k, v in average.items()}
        for i, p in enumerate(self._parameters):
            if p in self.optimiser.state:
                tensors[f"first.{i}"] = self.optimiser.state[p]["exp_avg"]
                tensors[f"second.{i}"] = self.optimiser.state[p]["exp_avg_sq"]
        meta = {"identity": self.identity, "step": self.step, "seconds": seconds}
        save_state(self.folder / "state.safetensors", tensors, meta)

    def _snapshot_due(self, progress: float, elapsed: float) -> bool:
        ahead = self._progress(elapsed) if self.steps is not None else progress + 1e-9
        done = len({s.step for s in self.snapshots})
        return ahead >= (done + 1) / _SNAPSHOTS

    def _snapshot(self) -> None:
        self.snapshots += [
            Snapshot(step=self.step, width=r, weights={k: v.clone() for k, v in average.items()})
            for r, average in self.averages.items()
        ]
        if self.folder is None or self.rank:
            return
        tensors = {f"average {r}.{k}": v for r, average in self.averages.items() for k, v in average.items()}
        save_state(self.folder / f"snapshot-{self.step:08d}.safetensors", tensors, {"step": self.step})

    # --- the end ------------------------------------------------------------------------------------------------------
    def _finished(self) -> NetworkPrior:
        candidates: dict[str, Mapping[str, Tensor]] = {"last weights": self.network.state_dict()}
        candidates |= {f"average of width {r}": a for r, a in self.averages.items()}
        if len({s.step for s in self.snapshots}) >= 2:
            for r in _TRIED:
                candidates[f"average of width {r}, from snapshots"] = combine(self.snapshots, self.step, r)
        signals, different = self._others()
        each = {name: self._validation(weights, signals) for name, weights in candidates.items()}
        losses = {name: float(loss.mean()) for name, loss in each.items()}
        finite = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
        if not finite:
            raise SolveError(
                "train: the weights are no longer finite: the learning rate, "
                f"{self.options.learning_rate:g}, is too large, or the data are not on one scale."
            )
        best = min(finite, key=finite.__getitem__)
        over: dict[str, float] = {}
        count = max(1, min(len(signals), self.step * self.options.batch))
        compared = self.held or not isinstance(self.source, Finite)  # else with the same signals
        if compared and min(different, count) >= _COMPARED:
            trained = self.source.read([i % count for i in range(len(signals))], self.options.seed)
            # Row by row at one level: what levels and noise do cancels. Then signal by signal of the fewer.
            fewer = min(different, count)
            rows = len(signals) // fewer * fewer
            gap = (each[best] - self._validation(candidates[best], trained))[:rows].view(-1, fewer).mean(0)
            over = {"over-fitting": float(gap.mean()), "over-fitting error": float(gap.std()) / fewer**0.5}
        self.network.load_state_dict(candidates[best])
        network = self.network.eval().requires_grad_(False)
        recipe = {
            "signals": self.step * self.options.batch,
            "steps": self.step,
            "weights": best,
            "validation loss": losses[best],
            "held out": self.held.size if self.held else 0,
            **over,
            "parameters": sum(p.numel() for p in network.parameters()),
            "options": repr(self.options),
        }
        prior = replace(self.template, network=network, card={**self.template.card, "training": recipe})
        if self.folder is not None and self.rank == 0 and isinstance(network, UNet):
            save_prior(prior, self.folder / "prior.safetensors")
        return prior

    def _others(self) -> tuple[Tensor, int]:
        """Signals to choose an average on, and how many are different: few are used again, with other noise."""
        if self.held is None:
            signals = sample_of(self.source, _VALIDATION, self.options.seed + 2)
            return signals, len(signals)
        n = self.held.size
        rows = range(n * -(-_VALIDATION // n))
        return self.held.at([i % n for i in rows], rows, self.options.seed + 2), n

    @torch.no_grad()
    def _validation(self, weights: Mapping[str, Tensor], signals: Tensor) -> Tensor:
        """Logarithms of the losses of these signals, ``(n,)``: every level counts alike, as under the uncertainty."""
        kept = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(weights)
        self.network.eval()
        rng = torch.Generator().manual_seed(_key(self.options.seed, -1))
        sigma = self.options.levels.draw(len(signals), rng).to(self.device)
        w = self.template._channels((signals.to(self.device) - self.template.offset) / self.template.unit)
        noise = torch.randn(w.shape, generator=rng, dtype=w.dtype).to(self.device)
        losses = [
            denoising_loss(self.network, w[i : i + 16], sigma[i : i + 16], noise[i : i + 16], self.law)
            for i in range(0, len(w), 16)
        ]
        self.network.load_state_dict(kept)
        self.network.train()
        return torch.cat(losses).double().log()


def check_card(card: Mapping[str, Any]) -> None:
    """Raise unless it can be written: a mapping of what JSON knows."""
    if not isinstance(card, Mapping):
        raise invalid_type("train", "card", "a mapping of words to text and numbers", card)
    try:
        json.dumps(dict(card))
    except TypeError as error:
        raise invalid_type("train", "card", "of text, numbers, lists and mappings", str(error)) from error


def _check_start(start: NetworkPrior, options: Options, kind: Kind, channels: int) -> None:
    wanted = {"law": BesideLaw, "white": EDM}[options.skip]
    if not isinstance(start.prediction, wanted):
        advice = "Options(skip='white') goes on with EDM." if isinstance(start.prediction, EDM) else ""
        given = type(start.prediction).__name__
        raise invalid("train", "start", f"a prior with {wanted.__name__} predictions, as `skip`", given, advice)
    own = 2 if start.kind == "complex" else 1 if start.channels == "hidden" else start.shape[0]
    if start.kind != kind or own != channels:
        raise invalid(
            "train", "start", f"of {kind} signals with {channels} channels in the network", f"{start.kind}, {own}"
        )


def _module(network: UNetConfig | nn.Module | None, start: NetworkPrior | None, channels: int, axes: int) -> nn.Module:
    import copy

    if start is not None:
        return copy.deepcopy(start.network)
    if isinstance(network, nn.Module):
        return copy.deepcopy(network)  # so that the next training with it does not change this prior
    if axes == 1:
        raise invalid(
            "train",
            "network",
            "a module for signals of one axis",
            "the U-Net, which is for images",
            "Any module that maps (batch, 1, n) and (batch,) to the same.",
        )
    if network is None or isinstance(network, UNetConfig):
        return UNet(replace(network or UNetConfig(), channels=channels))
    raise invalid_type("train", "network", "a UNetConfig or a torch.nn.Module", network)


def _compiled(module: nn.Module) -> nn.Module:
    made: nn.Module = torch.compile(module)  # type: ignore[assignment]
    return made


def _identity(source: Source, unit: float, held: Part | None) -> str:
    """What tells data apart: their number, shape and rms, the rms of what is held out too; to the last digit."""
    number = f"{source.size} signals" if isinstance(source, Finite) else "signals made"
    kept = "" if held is None else f", held out {float(sample_of(held, held.size, 0).abs().square().mean().sqrt())!r}"
    return f"{number} of shape {source.shape}, {'complex' if source.complex else 'real'}, rms {unit!r}{kept}"


def _standard(prior: NetworkPrior) -> GaussianLaw:
    law = prior.law
    assert law is not None
    mean = prior._channels(((law.mean - prior.offset) / prior.unit)[None])[0]
    return replace(law, mean=mean, variances=law.variances / prior.unit**2)


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}


def _key(seed: int, step: int) -> int:
    """A seed for the numbers of one step: a hash, so that neighbours have nothing in common."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(f"train {seed} {step}".encode(), digest_size=8).digest(), "big") >> 1


def _processes() -> tuple[int, int]:
    launched = "WORLD_SIZE" in os.environ and "RANK" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    if launched and torch.distributed.is_available() and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo" if not torch.cuda.is_available() else "cpu:gloo,cuda:nccl")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _average(gradients: list[Tensor], world: int) -> None:
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world
    place = 0
    for g in gradients:
        g.copy_(flat[place : place + g.numel()].view_as(g))
        place += g.numel()
