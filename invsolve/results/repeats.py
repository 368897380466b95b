"""Samples that are there more than once: how many they are worth."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from invsolve.strategies.diagnostics import Diagnostics


def counted_once(info: Diagnostics, samples: Tensor, weights: Tensor, centre: Tensor) -> Diagnostics:
    """Of rows that were picked from an ensemble: ``ess`` no larger than what rows that differ are worth.

    ``samples`` (rows, *shape), ``weights`` (num_samples, items), normalised, 0 where a row failed. Resampling, and
    chains that stand still, copy states to the bit. Rows at the ``centre`` are no copies: draws of a sparse signal may
    all be 0. Of tempered rows nothing is said.
    """
    own = weights.double().cpu()
    place = _first_places(samples, centre, own.shape[1])
    together = torch.zeros_like(own).scatter_add(0, place, own)
    if bool(((together > 0).sum(0) == (own > 0).sum(0)).all()):
        return info
    worth = (1 / together.square().sum(0)).nan_to_num(nan=0.0, posinf=0.0).expand_as(own).flatten().to(samples.device)
    told = torch.full_like(worth, math.inf) if info.ess is None else info.ess.double().nan_to_num(nan=math.inf)
    ess = torch.minimum(told, worth)
    if info.beta is not None:
        ess = torch.where(info.beta < 1, math.nan, ess)
    return Diagnostics.from_mapping(dict(info) | {"ess": ess})


def _first_places(samples: Tensor, centre: Tensor, items: int) -> Tensor:
    """For every row the number, in its item, of the first sample that is the same, ``(num_samples, items)``."""
    single = (samples == centre.to(samples.dtype)).flatten(1).all(1).tolist()
    rows = samples.detach().cpu().resolve_conj().contiguous().flatten(1).view(torch.uint8).numpy()
    known: dict[tuple[int, bytes], int] = {}
    place = []
    for number, (row, alone) in enumerate(zip(rows, single, strict=True)):
        k, b = divmod(number, items)
        key = (b, hashlib.blake2b(row.tobytes(), digest_size=16).digest())
        place.append(k if alone else known.setdefault(key, k))
    return torch.tensor(place, device="cpu").view(-1, items)
