"""The log of a training: one line of JSON for some steps, which `pictures.loss_figure` draws."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from invsolve.core.files import append_line, write_or_warn

LOWEST, HIGHEST = -3, 2  # decades of noise levels, in units of sigma_data


def write_line(
    folder: Path,
    sigma: Tensor,
    loss: Tensor,
    step: int,
    progress: float,
    *,
    learning_rate: float,
    speed: float,
    seconds: float,
) -> None:
    """Append the mean ``loss`` ``(n,)``, and that of each decade of ``sigma`` ``(n,)``, to ``log.jsonl``.

    ``speed``: signals per second; ``seconds``: since the training began.
    """
    decade = sigma.log10().floor().clamp(LOWEST, HIGHEST)
    line = {
        "step": step,
        "progress": round(progress, 5),
        "loss": float(loss.mean()),
        "levels": {f"1e{int(k)}": float(loss[decade == k].mean()) for k in sorted(set(decade.tolist()))},
        "learning_rate": learning_rate,
        "signals_per_second": speed,
        "seconds": seconds,
    }
    write_or_warn(lambda: append_line(folder / "log.jsonl", json.dumps(line)), "The training goes on.")
