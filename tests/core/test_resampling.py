"""Systematic resampling to any number of samples, and its quantiles."""

from __future__ import annotations

import pytest
import torch

from invsolve.core.resampling import effective, normalised, systematic

D = torch.float64


def weights(items: int) -> torch.Tensor:
    return normalised(2 * torch.randn(40, items, generator=torch.Generator().manual_seed(0), dtype=D))


@pytest.mark.parametrize("count", [1, 7, 40, 400])
@pytest.mark.parametrize("uniform", [0.5, torch.tensor([0.1, 0.5, 0.9], dtype=D)], ids=["quantiles", "drawn"])
def test_every_sample_has_floor_or_ceil_of_its_expected_copies(count, uniform):
    w = weights(3)
    parents = systematic(w, uniform, count)
    assert parents.shape == (count, 3)
    copies = torch.zeros_like(w).scatter_add_(0, parents, torch.ones(count, 3, dtype=D))
    assert ((copies >= (count * w - 1e-9).floor()) & (copies <= (count * w + 1e-9).ceil())).all()


def test_items_are_resampled_by_themselves():
    w = weights(3)
    alone = torch.cat([systematic(w[:, b : b + 1], 0.5, 9) for b in range(3)], 1)
    assert torch.equal(systematic(w, 0.5, 9), alone)


def test_the_effective_number_of_equal_weights_is_their_number():
    assert effective(torch.full((8, 2), 1 / 8, dtype=D)).tolist() == [8.0, 8.0]
