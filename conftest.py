"""What the whole suite shares: no second copy of linked folders, a `gpu` marker, threads, a plotting back end."""

from __future__ import annotations

import os
import warnings

import pytest

# Before anything imports matplotlib: figures are drawn to memory, here and in the processes that tests start.
os.environ.setdefault("MPLBACKEND", "Agg")

import torch  # noqa: E402

collect_ignore = ["operators", "priors"]  # links into invsolve/, not a second copy of its modules


def _cores() -> int:
    """The cores this process may use: a container's share, which os.cpu_count() does not see."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_configure(config: pytest.Config) -> None:
    # One thread a core over all workers of `pytest -n`: more threads than cores cost a factor, not per cents.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, _cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a machine with a broken driver warns here; it has no device, that is all
        available = torch.cuda.is_available()
    if not available:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
