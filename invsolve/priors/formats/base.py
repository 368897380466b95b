"""What a layout of weights is: names of tensors from which an architecture follows, and what its networks predict."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from invsolve.errors import FileError
from invsolve.priors.learned.parameterization import Prediction
from invsolve.priors.networks.weights import Shapes

CONDITIONAL = "conditional on a class: what it knows of signals without one is not a law"
WIDEST, DEEPEST = 2**14, 64  # channels; blocks of a level


@dataclass(frozen=True, kw_only=True, eq=False)
class Blueprint:
    """An architecture without memory for its weights, as a file describes it.

    ``network`` lies on torch's meta device and takes ``(batch, channels, H, W)`` and its time ``(batch,)``; H and W are
    multiples of ``multiple``. ``resolution``: the grid that it was trained on, if the file says so.
    """

    network: nn.Module
    channels: int
    prediction: Prediction
    multiple: int
    resolution: tuple[int, int] | None = None


class Layout(abc.ABC):
    """One way of naming and shaping weights; a subclass is a frozen dataclass of what its files do not say."""

    name: str

    @abc.abstractmethod
    def matches(self, shapes: Shapes) -> bool:
        """Whether the tensors look like it, by the names that only this layout has."""

    @abc.abstractmethod
    def blueprint(self, shapes: Shapes, config: Mapping[str, Any]) -> Blueprint:
        """The architecture of the tensors ``shapes``; ``config``: what other files of the folder state.

        Raises KeyError, ValueError or TypeError where the tensors do not describe one, FileError where they describe
        one that is not known here.
        """

    def renamed(self, key: str) -> str:
        """Today's name of a tensor that older files name differently."""
        return key

    def called(self, network: nn.Module) -> nn.Module:
        """The network of the blueprint, with its weights, as ``(z, time)`` to a tensor."""
        return network


def count(shapes: Shapes, prefix: str) -> int:
    """How many modules there are under ``prefix``: one more than the largest index that follows it."""
    found = {int(k[len(prefix) :].split(".")[0]) for k in shapes if k.startswith(prefix)}
    if found != set(range(len(found))):
        raise ValueError(f"{prefix}* are numbered {sorted(found)}")
    return len(found)


def check_size(name: str, widths: tuple[int, ...], blocks: int) -> None:
    """Refuse an architecture that would take minutes to build although no weight is read."""
    if not widths or max(widths) > WIDEST or min(widths) < 1 or not 0 < blocks <= DEEPEST or len(widths) > 16:
        raise FileError(f"load: an absurd {name} network is stated: widths {widths}, {blocks} blocks a level.")
