"""A large dense system is factorised once a level, however many chunks of rows there are."""

from __future__ import annotations

import torch

import invsolve as iv
from invsolve.gaussian.systems import DenseSystem
from invsolve.strategies.guidance import mmps


def test_chunks_share_the_factors_and_give_the_same_rows(monkeypatch):
    n, count = 12, []
    law = iv.priors.GaussianPrior(torch.zeros(n).double(), torch.eye(n).double() + 0.5)
    matrix = torch.randn(5, n, generator=torch.Generator().manual_seed(0)).double()
    A, y = iv.operators.Matrix(matrix), torch.ones(5).double()
    factor = DenseSystem.factor
    monkeypatch.setattr(DenseSystem, "factor", lambda self, v, **o: count.append(1) or factor(self, v, **o))

    def solve():
        count.clear()
        strategy = iv.strategies.MMPS(num_steps=6)
        return iv.solve(A, y, law, noise=0.1, strategy=strategy, num_samples=8, chunk=2).samples, len(count)

    before, often = solve()
    monkeypatch.setattr(mmps, "_LARGE", 1)
    after, once = solve()
    assert torch.equal(before, after) and (often, once) == (24, 6)
    monkeypatch.setattr(mmps, "DENSE_SIZE", 75)  # of 5 x 5 factors there is room for three
    again, some = solve()
    assert torch.equal(before, again) and some == 3 + 4 * 3
