"""The processes of one training, each with its part of every batch."""

from __future__ import annotations

import os

import torch
from torch import Tensor


def processes() -> tuple[int, int]:
    """The number of this process and how many there are; those that torchrun launched are joined first."""
    launched = "WORLD_SIZE" in os.environ and "RANK" in os.environ and int(os.environ["WORLD_SIZE"]) > 1
    if launched and torch.distributed.is_available() and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo" if not torch.cuda.is_available() else "cpu:gloo,cuda:nccl")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def average(gradients: list[Tensor], world: int) -> None:
    """Replace gradients by their mean over the ``world`` processes, in place."""
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= world
    place = 0
    for g in gradients:
        g.copy_(flat[place : place + g.numel()].view_as(g))
        place += g.numel()
