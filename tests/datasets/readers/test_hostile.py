"""No file hangs, takes more memory than it may, or shows the bytes of another: it is refused, by file, data set and rule."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hostile_more  # noqa: F401  more of CASES
import numpy as np
import pytest
import scan_files
from hostile_files import CASES, LIMIT, SECRET, K, bart, dicom, nifti, npz

import invsolve as iv
from invsolve.datasets.readers import dicom as dicom_reader
from invsolve.datasets.readers.checks import Source
from invsolve.datasets.readers.hdf5 import HDF5File, Heap
from invsolve.errors import FileError

CHILD = """
import json, resource, signal, sys, time, tracemalloc, warnings
warnings.simplefilter("ignore")
import h5py, nibabel, numpy, pydicom, torch
import invsolve as iv
for package in ("dicom", "nifti"):
    __import__(f"invsolve.datasets.readers.{package}")
cases, limit, good = json.loads(sys.stdin.read())
for path, options in good:  # what is imported on the way is no memory of a file
    iv.open(path, **options).read()

def stop(*_):
    raise KeyboardInterrupt("it hangs")

signal.signal(signal.SIGPROF, stop)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 2**26, size + 2**26))
signal.alarm(60)  # of waiting
out = {}
for name, path, options in cases:
    signal.setitimer(signal.ITIMER_PROF, 2.0)  # seconds of computing
    tracemalloc.start()
    try:
        scan = iv.open(path, **options)
        scan.problem(**({} if isinstance(scan, iv.datasets.readers.SinogramScan) else {"noise": 1.0}))
        said = ["none", ""]
    except BaseException as error:
        said = [type(error).__name__, str(error)]
    out[name] = [*said, tracemalloc.get_traced_memory()[1]]
    tracemalloc.stop()
    signal.setitimer(signal.ITIMER_PROF, 0)
print(json.dumps(out))
"""


def opened(path, options):
    scan = iv.open(path, **options)
    scan.problem(**({} if isinstance(scan, iv.datasets.readers.SinogramScan) else {"noise": 1.0}))


def refused(name, path, message):
    """By the name of the file, the data set and the rule; without a byte of another file."""
    assert CASES[name].rule in message and CASES[name].what in message
    assert os.path.basename(path).rpartition(".")[0] in message
    assert SECRET.decode() not in message


def test_there_are_many():
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused(name, tmp_path):
    path = CASES[name].make(tmp_path)
    with pytest.raises(FileError) as caught:
        opened(path, CASES[name].options)
    refused(name, path, str(caught.value))


def test_what_happens_while_it_is_read(tmp_path, monkeypatch):
    """Rules for which there is no file: of places, of permissions, of files that change."""
    path = os.fspath(scan_files.write_fastmri(tmp_path / "scan.h5", K))
    source = Source(path)
    with HDF5File(source) as file:
        for name, rule in (("nothing", "is not there"), ("kspace/x", "is not there"), ("a/" * 9, "more than 8 groups")):
            with pytest.raises(FileError, match=rule):
                file.array(name)
        assert not file.has("kspace/x") and file.attribute("acquisition") is None
        address = {"length": np.uint32(8), "address": np.uint64(0), "index": np.uint32(1)}
        with pytest.raises(FileError, match="leads to no heap"):
            Heap(source, "x").value(address, 1)
        heap, at = Heap(source, "x"), Path(path).read_bytes().find(b"GCOL")
        heap._left = 0
        with pytest.raises(FileError, match="heaps that overlap"):
            heap.value(address | {"address": np.uint64(at)}, 1)
    monkeypatch.setattr(os, "listdir", lambda *_: (_ for _ in ()).throw(PermissionError("not yours")))
    with pytest.raises(FileError, match="the folder: .*not yours"):
        iv.open(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(FileError, match="may not be read by you"):
        iv.open(path)
    monkeypatch.undo()
    monkeypatch.setattr(dicom_reader, "_FILES", 0)
    with pytest.raises(FileError, match="has 1 files, where at most 0 are read"):
        iv.open(tmp_path)
    monkeypatch.setattr(Source, "size", 10**6)
    with pytest.raises(FileError, match="cut short while it was read"):
        source.read("kspace", 0, 10**5 + 10**4 * 9)


@pytest.mark.slow
def test_none_takes_memory_or_hangs(tmp_path_factory):
    """In a process that may take 64 MiB more than it has, and two seconds of computing for a file."""
    cases = []
    for name, case in CASES.items():
        folder = tmp_path_factory.mktemp(name)
        cases.append((name, os.fspath(case.make(folder)), case.options))
    folder = tmp_path_factory.mktemp("good")
    good = [(scan_files.write_fastmri(folder / "a.h5", K), {}), (scan_files.write_ismrmrd(folder / "b.h5", K), {})]
    good += [(nifti(folder, lambda c: None, zipped=True), {}), (dicom(folder), {}), (npz(folder), {})]
    good += [(bart(folder), {"kind": "kspace"})]
    given = json.dumps([cases, LIMIT, [(os.fspath(path), options) for path, options in good]])
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=given, capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    verdicts = json.loads(done.stdout)
    assert verdicts.keys() == CASES.keys()
    for name, path, _ in cases:
        kind, message, peak = verdicts[name]
        assert kind == "FileError", (name, kind, message)
        refused(name, path, message)
        assert peak <= LIMIT, f"{name} took {peak:,} bytes"
