"""A system of few data and many unknowns is formed by its adjoint: the same matrix."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.gaussian import systems

D = torch.float64


@pytest.mark.parametrize("kinds", ["real", "complex data", "complex"])
def test_both_ways_give_one_matrix(kinds, monkeypatch):
    g = torch.Generator().manual_seed(0)
    dtype = D if kinds == "real" else torch.complex128
    matrix = torch.randn(3, 20, generator=g, dtype=dtype)
    mean = torch.zeros(20, dtype=torch.complex128 if kinds == "complex" else D)
    A = iv.operators.Matrix(matrix, in_kind="complex" if kinds == "complex" else "real")
    prior = iv.priors.GaussianPrior(mean, torch.diag(torch.rand(20, generator=g, dtype=D) + 0.1))
    std = torch.tensor([0.1, 0.5, 2.0], dtype=D)
    problem = iv.Problem(A, torch.ones(3, dtype=matrix.dtype), noise=std)
    columns = systems.dense_matrix(problem, A, prior.law.modes)
    monkeypatch.setattr(systems, "_MANY", 1)
    monkeypatch.setattr(systems, "_FEW", 1)
    calls = []
    monkeypatch.setattr(type(A), "_apply", lambda self, x: calls.append(x))
    rows = systems.dense_matrix(problem, A, prior.law.modes, rows=2)
    assert rows.shape == columns.shape and torch.allclose(rows, columns, atol=1e-13) and not calls
