"""What the whole suite shares: linked folders are no second copy, a `gpu` marker, workers and threads, no windows."""

from __future__ import annotations

import os
import warnings

import pytest


def _cores() -> int:
    """The cores this process may use: a container's share, which os.cpu_count() does not see."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Before anything imports matplotlib: figures are drawn to memory, here and in the processes that tests start.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("INVSOLVE_CACHE", "off")  # nothing is kept in the home of who runs the tests
# Before anything imports torch or numpy, which read it then: one thread a core over all workers of `pytest -n`, and as
# many in each process that a test starts. More threads than cores cost a factor, not per cents. Not in the process that
# hands out the tests, whose environment the workers inherit.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))

import torch  # noqa: E402

collect_ignore = ["operators", "priors"]  # links into invsolve/, not a second copy of its modules


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_auto_num_workers() -> int:
    return _cores()


def pytest_configure() -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(_cores())


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
