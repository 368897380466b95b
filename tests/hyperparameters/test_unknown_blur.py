"""`examples/unknown_blur.py` at 16^2, 32^2 and 64^2 against dense covariances: to 0.01 posterior std and 1 %."""

from __future__ import annotations

import importlib.util
import math
import time
from pathlib import Path

import pytest
import torch

import invsolve as iv
from invsolve.hyperparameters import closed_form

D = torch.float64
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "unknown_blur.py"


def example():
    spec = importlib.util.spec_from_file_location("unknown_blur", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def halves(n):
    """Orthonormal even and odd vectors about the middle of an axis, ``(n / 2, n)`` each."""
    eye = torch.eye(n, dtype=D)[: n // 2]
    return (eye + eye.flip(1)) / math.sqrt(2), (eye - eye.flip(1)) / math.sqrt(2)


def quadrature(module, family, y, prior, widths, stds):
    """Mean and std of width and noise std, by dense covariances of the data.

    Blur and field are symmetric about the middle of both axes, so that the covariance has four blocks in the basis of
    images that are even and odd about it. The trapezoid rule is exact for what is nearly Gaussian.
    """
    n = len(y)
    image = y.double()
    power, modes = prior.law.variances.double(), prior.law.modes.to(dtype=D)
    logs = torch.zeros(len(widths), len(stds), dtype=D)
    for i, width in enumerate(widths.tolist()):
        A = family.at(width=width).to(dtype=D)
        for a in halves(n):
            for b in halves(n):
                unit = torch.einsum("ij,kl->ikjl", a, b).reshape(-1, n, n)
                seen = torch.cat([modes.adjoint(A.adjoint(part)) for part in unit.split(256)]).flatten(1)
                values, vectors = torch.linalg.eigh((seen * power.flatten()) @ seen.mT)
                c = ((unit.flatten(1) @ image.flatten()) @ vectors).square()
                total = values.clamp_min(0) + stds[:, None] ** 2
                logs[i] -= 0.5 * (c / total + total.log()).sum(1)
    for law, values, axis in ((module.UNKNOWN_WIDTH, widths, 0), (module.UNKNOWN_NOISE.std, stds, 1)):
        log = -0.5 * ((values / law.median).log() / math.log(law.factor)).square() - values.log()
        logs += log[:, None] if axis == 0 else log
    weights = torch.softmax(logs.flatten(), 0).view_as(logs)
    found = {}
    for name, value, weight in (("operator.width", widths, weights.sum(1)), ("noise.std", stds, weights.sum(0))):
        mean = weight @ value
        found[name] = float(mean), float((weight @ (value - mean).square()).sqrt())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 32, 64])
def test_width_and_noise(side, monkeypatch):
    """Against the quadrature; it took 3, 5 and 19 s of one core, which is printed and depends on the machine."""
    module = example()
    calls, decomposed = [], closed_form.evidence_by_level

    def counted(law, problem, **options):
        calls.append(problem)
        return decomposed(law, problem, **options)

    monkeypatch.setattr(closed_form, "evidence_by_level", counted)
    family, y, prior, _ = module.experiment(side)
    started = time.process_time()
    result = iv.solve(family, y, prior, noise=module.UNKNOWN_NOISE)
    print(f"{side}: {time.process_time() - started:.1f} s of CPU")
    assert result.certificate.reached and result.warnings == ()
    assert side < 32 or len(calls) <= 32  # at others the evidence is interpolated; none is decomposed twice
    drawn = {name: (float(result[name].mean), float(result[name].std)) for name in ("operator.width", "noise.std")}
    steps = torch.linspace(-5, 5, 21 if side < 64 else 13, dtype=D)
    widths, stds = (mean + std * steps for mean, std in drawn.values())
    for name, (mean, std) in quadrature(module, family, y, prior, widths, stds).items():
        assert abs(drawn[name][0] - mean) < 0.01 * std, name
        assert 0.99 < drawn[name][1] / std < 1.01, name
        print(f"{side} {name}: {drawn[name]} of {mean, std}, {time.process_time() - started:.1f} s")
