"""Memory that a step frees is there for the next one, instead of being faulted in again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Eight tensors of 1 MiB live and die together, as in a step: 2,048 pages. The first rounds may fault them in.
FAULTS = """
import resource, sys
import torch
from invsolve.core.torch_workarounds import keep_memory

def step():
    tensors = [torch.ones(2**18) for _ in range(8)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_memory()
for _ in range(5):
    step()
before = faults()
for _ in range(20):
    step()
print((faults() - before) / 20)
"""


def faults_per_step(mode: str) -> float:
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the thresholds are glibc's")
def test_a_step_finds_its_memory_where_the_last_one_left_it():
    default = faults_per_step("default")
    if default < 100:
        pytest.skip("this process's allocator keeps memory by itself: other settings, or another malloc")
    assert faults_per_step("keep") < 10
