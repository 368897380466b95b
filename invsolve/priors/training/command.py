"""``python -m invsolve train``: a prior from nothing but time."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import torch

from invsolve.core.files import atomic_write
from invsolve.core.torch_state import for_new_weights
from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import UnsupportedError, invalid
from invsolve.priors.fields.field import GaussianFieldPrior
from invsolve.priors.fields.spectra import Matern, Whittle
from invsolve.priors.fields.tabulated import estimate_spectrum
from invsolve.priors.learned.files import save_prior
from invsolve.priors.learned.network import NetworkPrior
from invsolve.priors.level_set import LevelSet
from invsolve.priors.networks import NeuralOperatorConfig, UNetConfig
from invsolve.priors.training.data import Made, Source
from invsolve.priors.training.heads import Heads
from invsolve.priors.training.loss import NoiseLaw
from invsolve.priors.training.options import Options, Selection
from invsolve.priors.training.pictures import card_text, loss_figure, samples_figure
from invsolve.priors.training.scenes import Scenes
from invsolve.priors.training.trainer import train

DATA = ("heads", "heads-ct", "images", "darcy", "gaussian-field")
_COARSEST = 32  # pixels a side of the first stage
_SHARES = {1: (1.0,), 2: (0.3, 0.7), 3: (0.1, 0.25, 0.65)}  # of the time, by the number of stages
_WORTH_COMPILING = 0.5  # hours of a stage
# CT numbers of brain differ by one per cent of the rms of an image, which bone and air make.
# Pictures are restored where noise is a tenth of their contrast.
_LEVELS = {"heads-ct": NoiseLaw(mean=-2.0, std=1.8), "images": NoiseLaw(mean=-1.3, std=1.5)}
_WINDOWS = {  # of the samples that are shown; of CT: bone, brain
    "heads-ct": ((-1000.0, 1500.0), (-20.0, 80.0)),
    "images": ((0.0, 1.0),),
}
# For any size: convolutions only, and EDM's skip, which knows no border as the Fourier modes of a covariance do.
_IMAGES = UNetConfig(width=64, multipliers=(1, 1, 2), blocks=(1, 2, 2), attention=False, skips="added")
# The same map on every grid, beside a random field of the same spectrum; noise that is no smoother than edges are.
_DARCY = NeuralOperatorConfig()
_DARCY_NOISE = Matern(std=1.0, length=0.3, smoothness=0.5)
_DARCY_FINE, _DARCY_FIELDS = 128, 600  # of which the spectrum is measured
_FIELDS = {"heads": (215.0, 262.0), "heads-ct": (215.0, 262.0)}  # smallest and largest field of view, mm
_CARDS = {
    "heads": (
        "random heads made of formulas (iv.datasets.heads): MR of any contrast, half of them stripped to the brain, "
        "complex with a smooth phase; no image of a person",
        "real anatomy is richer: lesions, implants, artefacts and contrasts that no formula here makes",
    ),
    "heads-ct": (
        "random heads made of formulas (iv.datasets.heads), CT numbers; no image of a person",
        "real anatomy is richer, and there are no beam hardening and no metal",
    ),
    "images": (
        "random pictures made of formulas (iv.datasets.scenes): leaves of every size that cover each other, with "
        "textures, shading, blur and uneven light; grey levels in [0, 1]; no photograph",
        "no faces, no perspective, no noise or compression of a camera; what it invents looks like leaves",
    ),
    "darcy": (
        "permeability of Darcy flow: 12 where a Gaussian field (Whittle, kappa 3, alpha 2) is positive, else 3",
        "two values, one correlation length; iv.priors.LevelSet is the same distribution exactly",
    ),
    "gaussian-field": ("a periodic Gaussian field, Matern, std 1, length 0.1", "a law that is known exactly: use it"),
}


@final
@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a run of the command spends beside the training itself.

    Parameters
    ----------
    image_share : float
        Of the time, that the pools of images of all stages may take.
    timed : int
        Images that are made to see how long one takes.
    fewest, most : int
        Images to train on, however long they take.
    fine : int
        Cells a side of the objects that images are made of (`Heads`).
    selection : Selection
        What is measured and held out (`train`).
    """

    image_share: float = 0.2
    timed: int = 4
    fewest: int = 128
    most: int = 8192
    fine: int = 256
    selection: Selection = field(default_factory=Selection)


def command(
    data: str,
    *,
    resolution: int = 64,
    hours: float = 0.2,
    out: str | os.PathLike[str] = "out/train",
    seed: int = 0,
    width: int | None = None,
    effort: Effort | None = None,
    say: Callable[[str], object] = print,
) -> NetworkPrior:
    """Train on ``data`` at ``resolution`` x ``resolution`` for about ``hours``, in stages of doubling resolution.

    Writes ``prior.safetensors``, ``card.md``, ``samples.png`` and ``loss.png`` to ``out``, and a folder for every stage
    from which the same call goes on.

    Parameters
    ----------
    data : {"heads", "heads-ct", "images", "darcy", "gaussian-field"}
        Signals that the package makes.
    resolution : int
        Pixels a side, a multiple of 8, >= 16.
    hours : float
        Wall time of all stages, > 0.
    out : str or PathLike
        A folder.
    seed : int
        Of data, noise and the first weights.
    width : int, optional
        Channels of the finest level of the U-Net; 48 unless given, 64 for images, 40 of a neural operator for darcy.
    effort : Effort, optional
        What is spent beside the training itself.
    say : callable
        Is given what is going on, line by line.

    Returns
    -------
    NetworkPrior
        That of the last stage.

    Raises
    ------
    InputError
        For wrong arguments.
    UnsupportedError
        Under ``torchrun``: the command is one process.
    """
    check_choice("train", "data", data, DATA)
    resolution = check_int("train", "resolution", resolution, minimum=16)
    hours = check_positive("train", "hours", hours)
    if resolution % 8:
        raise invalid("train", "resolution", "a multiple of 8", resolution)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UnsupportedError(
            "train: the command is one process. Under torchrun call iv.priors.training.train in a script of your own."
        )
    effort = Effort() if effort is None else effort
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [resolution]
    # Pictures look the same from near and far: smaller ones are no easier.
    while data != "images" and sizes[0] >= 2 * _COARSEST and sizes[0] % 16 == 0 and len(sizes) < 3:
        sizes.insert(0, sizes[0] // 2)
    prior: NetworkPrior | None = None
    source: Source | None = None
    done: list[str] = []
    about, limits = _CARDS[data]
    network: UNetConfig | NeuralOperatorConfig = _IMAGES if data == "images" else UNetConfig()
    network = _DARCY if data == "darcy" else network
    network = network if width is None else replace(network, width=width)
    precision: Literal["full", "bfloat16"] = "bfloat16" if _faster_in_bfloat16() else "full"
    for size, share in zip(sizes, _SHARES[len(sizes)], strict=True):
        source = _source(data, size, 3600 * hours / len(sizes), folder, seed, effort, say)
        batch = 64 if size <= 32 else 32 if size <= 64 else 16
        options = Options(
            batch=batch,
            seed=seed,
            precision=precision,
            levels=_LEVELS.get(data, NoiseLaw()),
            skip="white" if data == "images" else "law",
            compile=hours * share > _WORTH_COMPILING and _compiles(),
        )
        say(f"{size} x {size}: {60 * hours * share:.1f} minutes, batches of {batch}")
        more: dict[str, Any] = {"network": network} if prior is None else {"start": prior}
        if data == "darcy":
            more["field"] = _darcy_field(size)
        card: dict[str, Any] = {
            "data": about,
            "limits": limits,
            "licence": "BSD-3-Clause, as the package",
            "recipe": f"python -m invsolve train {data} --resolution {resolution} --hours {hours:g} --seed {seed}",
            "stages": ", ".join([*done, f"{size} x {size}"]),
        }
        if data in _FIELDS:
            card["voxel size"] = [round(mm / size, 3) for mm in _FIELDS[data]]
        more["selection"] = effort.selection
        prior = train(source, hours=hours * share, out=folder / f"{size}", options=options, card=card, **more)
        done.append(f"{size} x {size} ({prior.card['training']['steps']:,} steps)")
    assert prior is not None and source is not None
    if data == "images":
        prior = replace(prior, keep="pixel")
    save_prior(prior, folder / "prior.safetensors")
    shown = 6
    figures = {
        "samples.png": samples_figure(
            prior.sample(shown, seed=seed), source.read(range(shown), seed + 2), _WINDOWS.get(data, ())
        ),
        "loss.png": loss_figure(folder / f"{resolution}"),
    }
    for name, figure in figures.items():
        atomic_write(folder / name, lambda file, figure=figure: figure.savefig(file, format="png", dpi=110))  # type: ignore[misc]
    atomic_write(folder / "card.md", lambda file: file.write(card_text(prior, f"{data}-{resolution}").encode()))
    say(f"Written to {folder}: prior.safetensors (iv.priors.load reads it), card.md, samples.png, loss.png")
    return prior


def _source(
    data: str, size: int, seconds: float, folder: Path, seed: int, effort: Effort, say: Callable[[str], object]
) -> Source:
    """Signals on ``size`` x ``size`` pixels, for a stage of so many ``seconds``."""
    if data == "darcy":
        permeability = _darcy(size)
        return Made(lambda numbers, s: torch.cat([permeability.sample(1, seed=(s << 32) + i) for i in numbers]))
    if data == "gaussian-field":
        law = GaussianFieldPrior(shape=(size, size), spectrum=Matern(std=1.0, length=0.1), basis="periodic")
        return Made(lambda numbers, s: torch.cat([law.sample(1, seed=(s << 32) + i) for i in numbers]))
    make: Callable[..., Heads | Scenes]
    if data == "images":
        make, what, side = partial(Scenes, grid=size, seed=seed), "pictures", 3 * size
    else:
        kind: Literal["mr", "ct"] = "mr" if data == "heads" else "ct"
        make = partial(Heads, grid=size, what=kind, seed=seed, fine=max(effort.fine, size))
        what, side = "images of heads", size
    cache = folder / f"{data}-{size}.npy"
    if cache.exists():
        return make(size=None, cache=cache)
    started = time.perf_counter()
    make(size=effort.timed)
    each = (time.perf_counter() - started) / effort.timed  # an image, on this machine now
    number = int(min(effort.most, max(effort.fewest, effort.image_share * seconds / each)))
    say(f"making {number} {what}, {side} x {side}: about {number * each / 60:.1f} minutes")
    return make(size=number, cache=cache)


def _darcy(size: int) -> LevelSet:
    spectrum = Whittle(3.0, 2.0, zero_mode=False)
    return LevelSet(GaussianFieldPrior(shape=(size, size), spectrum=spectrum), values=(3.0, 12.0))


def _darcy_field(size: int) -> GaussianFieldPrior:
    """Mean and spectrum of the permeability, measured on a fine grid, on ``size`` x ``size`` cells."""
    spectrum = estimate_spectrum(_darcy(_DARCY_FINE).sample(_DARCY_FIELDS, seed=-1))
    return GaussianFieldPrior(shape=(size, size), spectrum=spectrum, mean=7.5, noise_spectrum=_DARCY_NOISE)


def _faster_in_bfloat16() -> bool:
    """Whether this machine convolves faster in bfloat16.

    Some CPUs have instructions for it and are slower all the same.
    """
    with for_new_weights():
        layer = torch.nn.Conv2d(48, 48, 3, padding=1)
    x = torch.zeros(8, 48, 64, 64, dtype=torch.float32, device="cpu").requires_grad_()

    def seconds(enabled: bool) -> float:
        best = math.inf
        for _ in range(4):
            started = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                layer(x).sum().backward()
            best = min(best, time.perf_counter() - started)
        return best

    return seconds(True) < 0.9 * seconds(False)


def _compiles() -> bool:
    """Whether there is a C++ compiler, which torch.compile needs on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None
