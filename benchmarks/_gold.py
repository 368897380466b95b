"""What a posterior is measured against: moments, draws, and how well they are known themselves; kept in a cache.

Nothing here uses the package's samplers. Chains are pooled, and their scatter gives standard errors that need no model
of the autocorrelation.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

D = torch.float64
KEPT = 4096  # draws that a gold standard keeps


@dataclass(frozen=True, kw_only=True, eq=False)
class Gold:
    """Mean and std of every component, ``(d,)`` float64, draws ``(n, d)``, and the errors that these still have.

    ``mean_error``: largest standard error of a mean, in posterior sd; ``std_error``: largest relative standard error of
    a std; ``rhat``: the largest split R-hat; ``gap_mean``, ``gap_std``: the largest differences between two independent
    halves of the chains, in the same units (about three times a standard error is usual for 64 components). Zeros, and
    R-hat 1, for closed forms and quadrature. ``weights``: of the modes, where the problem has some.
    """

    mean: Tensor
    std: Tensor
    samples: Tensor
    how: str
    weights: Tensor | None = None
    mean_error: float = 0.0
    std_error: float = 0.0
    rhat: float = 1.0
    gap_mean: float = 0.0
    gap_std: float = 0.0
    seconds: float = 0.0


class Chains:
    """Running sums of chains, each cut in two halves: draws ``(chains, d)``, and optionally their conditional moments.

    Conditional moments given the auxiliary variables (Rao-Blackwell) have the same expectation and less variance.
    """

    def __init__(self, chains: int, d: int) -> None:
        self.raw = torch.zeros(2, 2, chains, d, dtype=D)  # power, half
        self.smooth = torch.zeros(2, chains, d, dtype=D)
        self.count = [0, 0]
        self.kept: list[Tensor] = []

    def add(self, x: Tensor, half: int, mean: Tensor | None = None, variance: Tensor | None = None) -> None:
        self.raw[0, half] += x
        self.raw[1, half] += x**2
        mean = x if mean is None else mean
        self.smooth[0] += mean
        self.smooth[1] += mean**2 if variance is None else mean**2 + variance
        self.count[half] += 1
        self.kept.append(x.clone())

    def merge(self, other: Chains) -> Chains:
        """The chains of both, for runs of equal length."""
        both = Chains(0, 0)
        both.raw = torch.cat([self.raw, other.raw], 2)
        both.smooth = torch.cat([self.smooth, other.smooth], 1)
        both.count = self.count
        both.kept = [torch.cat(pair) for pair in zip(self.kept, other.kept, strict=True)]
        return both

    def gold(self, how: str) -> Gold:
        mean, second = self.smooth / sum(self.count)  # (chains, d) each
        centre, variance = pooled(mean, second)
        sd = variance.sqrt()
        chains = len(mean)
        mean_se = mean.std(0) / chains**0.5 / sd
        influence = (second - 2 * centre * mean) / (2 * variance)  # of a chain on the relative error of the std
        std_se = influence.std(0) / chains**0.5
        (m1, v1), (m2, v2) = (pooled(mean[part], second[part]) for part in (slice(0, None, 2), slice(1, None, 2)))
        draws = torch.cat(self.kept)
        pick = torch.linspace(0, len(draws) - 1, min(KEPT, len(draws)), dtype=D).round().long()
        return Gold(
            mean=centre,
            std=sd,
            samples=draws[pick].contiguous(),
            how=how,
            mean_error=float(mean_se.max()),
            std_error=float(std_se.max()),
            rhat=self.rhat(),
            gap_mean=float(((m1 - m2) / sd).abs().max()),
            gap_std=float(((v1 / v2).sqrt() - 1).abs().max()),
        )

    def rhat(self) -> float:
        """The largest split R-hat (Gelman et al., Bayesian Data Analysis, 3rd ed., 11.4) of a component."""
        n = min(self.count)
        counts = torch.tensor(self.count, dtype=D).view(2, 1, 1)
        mean = self.raw[0] / counts
        within = (self.raw[1] / counts - mean**2).flatten(0, 1).mean(0)
        between = mean.flatten(0, 1).var(0)
        return float(((n - 1) / n + between / within).sqrt().max())


def pooled(mean: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over chains of first and second moments ``(chains, d)``."""
    centre = mean.mean(0)
    return centre, second.mean(0) - centre**2


def folder() -> Path:
    """Where gold standards are kept: ``$INVSOLVE_GOLD``, or a folder of the system's temporary files."""
    return Path(os.environ.get("INVSOLVE_GOLD", Path(tempfile.gettempdir()) / "invsolve-gold"))


def cached(name: str, key: str, make: Callable[[], Gold]) -> Gold:
    """The gold standard called ``name`` of the problem that ``key`` identifies, computed once per machine."""
    path = folder() / f"{name}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.safetensors"
    texts = {"how"}
    if path.exists():
        stored = load_file(path)
        values = {f.name: stored.get(f.name) for f in fields(Gold)}
        for field in fields(Gold):
            value = values[field.name]
            if field.name in texts:
                values[field.name] = bytes(value.tolist()).decode()
            elif value is not None and value.ndim == 0:
                values[field.name] = float(value)
        return Gold(**values)
    start = time.perf_counter()
    gold = make()
    gold = replace(gold, seconds=time.perf_counter() - start)
    out = {}
    for field in fields(Gold):
        value = getattr(gold, field.name)
        if isinstance(value, str):
            out[field.name] = torch.tensor(list(value.encode()), dtype=torch.uint8)
        elif value is not None:
            out[field.name] = torch.as_tensor(value, dtype=D).clone().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    save_file(out, part)
    part.replace(path)  # readers never see half a file
    return gold


def digest(*parts: object) -> str:
    """A text that differs where numbers or words of a problem differ."""
    hash_ = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            value = part.resolve_conj()
            value = torch.view_as_real(value) if value.is_complex() else value
            hash_.update(str(tuple(value.shape)).encode())
            hash_.update(value.contiguous().numpy().tobytes())
        else:
            hash_.update(repr(part).encode())
    return hash_.hexdigest()
