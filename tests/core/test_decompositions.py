"""Decompositions whose vectors carry random numbers: the same on every device."""

from __future__ import annotations

import pretended
import pytest
import torch
from strategy_cases import MIXTURE

import invsolve as iv
from invsolve.core.decompositions import eigh, svd

F64 = torch.float64
MATRIX = torch.randn(3, 5, dtype=F64, generator=torch.Generator().manual_seed(0))


def test_vectors_are_those_of_the_cpu():
    """Where values are equal too; the pretended device has other signs of its own."""
    plain = torch.linalg.eigh(torch.eye(4, dtype=F64) + MATRIX.mT[:4] @ MATRIX.mT[:4].mT)
    matrix = torch.eye(4, dtype=F64) + MATRIX.mT[:4] @ MATRIX.mT[:4].mT
    left, values, right = torch.linalg.svd(MATRIX, full_matrices=True)
    with pretended.pretended(1):
        there = [*eigh(matrix.to(pretended.DEVICE)), *svd(MATRIX.to(pretended.DEVICE), full_matrices=True)]
        assert {t.device for t in there} == {pretended.DEVICE}
        found = [t.cpu() for t in there]
        other = torch.linalg.svd(MATRIX.to(pretended.DEVICE)).Vh.cpu()
    assert all(torch.equal(a, b) for a, b in zip(found, [*plain, left, values, right], strict=True))
    assert not torch.allclose(other, right)


@pytest.mark.parametrize(
    "prior",
    [
        MIXTURE,
        iv.priors.GaussianPrior(torch.zeros(4), torch.eye(4)),
        iv.priors.GaussianPrior(torch.ones(3), torch.eye(3)),
    ],
    ids=["mixture", "white", "white, with a mean"],
)
def test_modes_of_a_prior_that_is_moved(prior):
    """Of equal variances, where any basis would do."""
    with pretended.pretended(1):
        matrix = prior.to(pretended.DEVICE).law.modes.matrix.cpu()
    assert torch.equal(matrix, prior.law.modes.matrix)
