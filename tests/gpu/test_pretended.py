"""The pretended device: what it refuses, what it rounds, and that reads and derivatives have values."""

from __future__ import annotations

import pytest
import torch
from pretended import DEVICE, pretended

import invsolve as iv

F64 = torch.float64
X = torch.randn(3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))


def test_tensors_of_two_devices_do_not_meet():
    with pretended():
        x = X.to(DEVICE)
        for call in (lambda: x + X, lambda: x @ X.mT, lambda: torch.cat([x, X]), lambda: torch.where(X > 0, x, 0.0)):
            with pytest.raises(RuntimeError, match="device"):
                call()
        with pytest.raises(TypeError, match="another device"):
            x.numpy()
        assert (x + torch.tensor(1.0, dtype=F64)).device == DEVICE  # a number may
        assert x[torch.tensor([0, 2])].shape == (2, 4)  # so may indices


def test_what_a_step_makes_on_the_host_is_seen():
    class Host(iv.operators.Operator):
        in_shape, out_shape = (4,), (4,)

        def _apply(self, x):
            return x + torch.ones(4, dtype=x.dtype, device="cpu")

    with pretended():
        prior = iv.priors.GaussianPrior(torch.zeros(4, dtype=F64), torch.eye(4, dtype=F64)).to(DEVICE)
        with pytest.raises(RuntimeError, match="device"):
            iv.solve(Host(), X[:1].to(DEVICE), prior, noise=1.0, strategy=iv.strategies.DPS(num_steps=2))


def test_values_derivatives_and_rounding():
    with pretended(None):
        x = X.to(DEVICE).requires_grad_()
        (x.exp().sum()).backward()
        assert torch.equal(x.grad.cpu(), X.exp()) and x.sum().item() == float(X.sum()) and x.tolist() == X.tolist()
        assert torch.zeros(2, device=DEVICE).tolist() == [0.0, 0.0]
    with pretended(0):
        off = (X.to(DEVICE) * 3.0).cpu() / (3 * X) - 1
        assert 0 < off.abs().max() <= 4 * torch.finfo(F64).eps
        assert torch.equal((torch.arange(4.0).to(DEVICE) * 2).cpu(), 2 * torch.arange(4.0))  # integers are exact
