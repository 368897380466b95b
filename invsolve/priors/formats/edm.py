"""Weights of NVlabs' EDM code and of what was trained with it, InverseBench and deepinv among others.

The keys are ``map_layer0.weight``, ``enc.64x64_conv.weight``, ``enc.64x64_block0.norm0.weight``, ``dec...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch

from invsolve.errors import FileError
from invsolve.priors.formats.base import CONDITIONAL, Blueprint, Layout
from invsolve.priors.formats.edm_network import STEM, EDMConfig, EDMNetwork
from invsolve.priors.learned.parameterization import EDM
from invsolve.priors.networks.weights import Shapes


@final
@dataclass(frozen=True, kw_only=True)
class EDMLayout(Layout):
    """DhariwalUNet and SongUNet of NVlabs' EDM; they predict F of `EDM` with ``sigma_data`` 0.5 unless told otherwise.

    Files do not say how the network was preconditioned: state ``prediction`` when loading one that was trained with
    another, such as InverseBench's black holes (``Scheduled(what="noise", schedule=VP(factor=999))``).
    """

    name: ClassVar[str] = "edm"  # type: ignore[misc]

    def matches(self, shapes: Shapes) -> bool:
        return "map_layer0.weight" in shapes and any(STEM.fullmatch(k) for k in shapes)

    def blueprint(self, shapes: Shapes, config: Mapping[str, Any]) -> Blueprint:
        if any(k.startswith("map_label") for k in shapes):
            raise FileError(f"load: the network is {CONDITIONAL} (map_label).")
        plan = EDMConfig.of(shapes)
        with torch.device("meta"):
            network = EDMNetwork(plan)
        n = plan.resolution
        return Blueprint(
            network=network,
            channels=plan.inside,
            prediction=EDM(sigma_data=0.5),
            multiple=2 ** (len(plan.widths) - 1),
            resolution=(n, n),
        )
