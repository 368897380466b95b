"""How to train: what a caller may choose, and how the weights are selected at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, final

from invsolve.core.validation import check_choice, check_int, check_positive
from invsolve.errors import invalid_type
from invsolve.priors.training.ema import check_width
from invsolve.priors.training.loss import NoiseLaw


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


@final
@dataclass(frozen=True, kw_only=True)
class Selection:
    """What is measured before a training, and among how many averages its weights are selected afterwards.

    Parameters
    ----------
    measured : int
        Signals from which mean, unit and covariance are taken, >= 2.
    held_out : int
        Signals, held out where they can be, on which the length of the average is chosen, >= 1.
    compared : int
        Signals below which a standard error of over-fitting says little, and is not stated, >= 2.
    snapshots : int
        Over a run, >= 1.
    widths : tuple of float
        Relative widths, between 0 and 0.28, of the averages that are compared at the end.

    Raises
    ------
    InputError, InputTypeError
        If a value is out of its range or of another type.
    """

    measured: int = 512
    held_out: int = 128
    compared: int = 8
    snapshots: int = 8
    widths: tuple[float, ...] = (0.02, 0.035, 0.05, 0.075, 0.10, 0.14)

    def __post_init__(self) -> None:
        for name, least in (("measured", 2), ("held_out", 1), ("compared", 2), ("snapshots", 1)):
            check_int("Selection", name, getattr(self, name), minimum=least)
        if not isinstance(self.widths, tuple):
            raise invalid_type("Selection", "widths", "a tuple of numbers", self.widths)
        for i, width in enumerate(self.widths):
            check_width("Selection", f"widths[{i}]", width)


def check_card(card: Mapping[str, Any]) -> None:
    """Raise unless it can be written: a mapping of what JSON knows."""
    if not isinstance(card, Mapping):
        raise invalid_type("train", "card", "a mapping of words to text and numbers", card)
    try:
        json.dumps(dict(card))
    except TypeError as error:
        raise invalid_type("train", "card", "of text, numbers, lists and mappings", str(error)) from error
