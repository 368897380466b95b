"""The folder of tensors that can be made anew: where it is, what it refuses, how it stays within its limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from invsolve.core import cache
from invsolve.core.cache import Kept

KEY = "0123456789abcdef0123"
TENSORS = {"index": torch.arange(5, dtype=torch.int32), "value": torch.linspace(0, 1, 7, dtype=torch.float64)}
LAYOUT = {"index": (torch.int32, 5), "value": (torch.float64, 7)}


@pytest.fixture(autouse=True)
def where(tmp_path, monkeypatch):
    monkeypatch.setenv("INVSOLVE_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(Kept, "written", 0)
    return tmp_path / "kept"


def same(found: dict[str, torch.Tensor] | None) -> bool:
    return (
        found is not None
        and found.keys() == TENSORS.keys()
        and all(torch.equal(found[k], v) for k, v in TENSORS.items())
    )


def test_what_is_written_is_read():
    kept = Kept(kind="ct", key=KEY)
    assert kept.read(LAYOUT) is None
    kept.write(TENSORS)
    assert same(kept.read(LAYOUT))
    assert kept.path is not None and {"index", "value", "check"} == set(load_file(kept.path))  # a safetensors file
    if os.name == "posix":
        assert kept.path.parent.stat().st_mode & 0o077 == 0  # nobody else's
    assert Kept(kind="ct", key=KEY[::-1]).read(LAYOUT) is None
    assert same(kept.read(LAYOUT)) and [p.name for p in kept.path.parent.iterdir()] == [kept.path.name]


def damaged(path: Path) -> dict[str, bytes]:
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-3] ^= 4
    begin = 8 + int.from_bytes(good[:8], "little")
    name = bytearray(good)
    name[good.index(b'"I32"') + 1] = ord("F")
    moved = good.replace(b'"data_offsets": [8, ', b'"data_offsets": [0, ')
    assert moved != good
    return {
        "a bit": bytes(flipped),
        "cut off": good[:-1],
        "a deep header": (2000).to_bytes(8, "little") + b"[" * 2000 + good[begin:],
        "longer": good + b"0",
        "half": good[: len(good) // 2],
        "empty": b"",
        "zeros": bytes(len(good)),
        "no JSON": good[:8] + b"x" * (begin - 8) + good[begin:],
        "a header of lists": good[:8] + b"[]".ljust(begin - 8) + good[begin:],
        "a header of numbers": good[:8] + b'{"index": 3, "value": 4, "check": 5}'.ljust(begin - 8) + good[begin:],
        "a length beyond the file": (2**62).to_bytes(8, "little") + good[8:],
        "other integers": bytes(name),
        "overlapping": moved,
        "foreign": os.urandom(len(good)),
        "far too large": good + bytes(10**5),
    }


@pytest.mark.parametrize("what", [
    "a bit", "cut off", "longer", "half", "empty", "zeros", "no JSON", "a header of lists", "a header of numbers",
    "a length beyond the file", "other integers", "overlapping", "foreign", "far too large", "a deep header",
])  # fmt: skip
def test_what_is_damaged_or_foreign_is_not_read_and_is_replaced(what):
    kept = Kept(kind="ct", key=KEY)
    kept.write(TENSORS)
    assert kept.path is not None
    kept.path.write_bytes(damaged(kept.path)[what])
    assert kept.read(LAYOUT) is None
    kept.write(TENSORS)
    assert same(kept.read(LAYOUT))


def test_other_contents_are_not_read():
    """Another precision, another number of entries, another name, no check sum, one of other numbers."""
    kept = Kept(kind="ct", key=KEY)
    kept.write(TENSORS)
    for layout in (
        {**LAYOUT, "value": (torch.float32, 14)},
        {**LAYOUT, "index": (torch.int32, 4)},
        {"value": LAYOUT["value"]},
    ):
        assert kept.read(layout) is None
    assert kept.read({"index": LAYOUT["index"], "other": LAYOUT["value"]}) is None
    save_file(TENSORS, kept.path)
    assert kept.read(LAYOUT) is None
    save_file({**TENSORS, "check": torch.zeros(1, dtype=torch.int64)}, kept.path)
    assert kept.read(LAYOUT) is None
    save_file({**{k: v[None] for k, v in TENSORS.items()}, "check": torch.zeros(1, dtype=torch.int64)}, kept.path)
    assert kept.read(LAYOUT) is None


def test_the_folder_stays_within_its_limit(where):
    """The files that were not used for the longest go, and what killed processes left; nobody else's files."""
    big = {"value": torch.zeros(1000, dtype=torch.float64)}
    keys = [f"{i:020x}" for i in range(4)]
    for i, key in enumerate(keys[:3]):
        Kept(kind="ct", key=key).write(big)
        os.utime(Kept(kind="ct", key=key).path, (i, i))
    left, new, other = (
        where / f".ct-{keys[0]}.{'0' * 12}.safetensors",
        where / f".ct-{keys[1]}.{'1' * 12}.safetensors",
        where / "mine.safetensors",
    )
    for path in (left, new, other):
        path.write_bytes(b"0")
    os.utime(left, (0, 0))
    assert Kept(kind="ct", key=keys[0]).read({"value": (torch.float64, 1000)}) is not None  # used now
    Kept(kind="ct", key=keys[3], limit=25_000).write(big)
    found = {key for key in keys if Kept(kind="ct", key=key).path.exists()}
    assert found == {keys[0], keys[2], keys[3]}
    assert not left.exists() and new.exists() and other.exists()
    Kept(kind="ct", key="f" * 20, limit=8000).write(big)  # larger than all may be
    assert not Kept(kind="ct", key="f" * 20).path.exists()


def test_a_process_writes_a_few(where):
    for i in range(Kept.MOST + 3):
        Kept(kind="ct", key=f"{i:020x}").write(TENSORS)
    assert len(list(where.iterdir())) == Kept.MOST


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("INVSOLVE_CACHE", "~/kept")
    assert cache.folder() == Path.home() / "kept"
    for word in ("off", "0", "", "OFF"):
        monkeypatch.setenv("INVSOLVE_CACHE", word)
        assert cache.folder() is None
        assert Kept(kind="ct", key=KEY).read(LAYOUT) is Kept(kind="ct", key=KEY).write(TENSORS) is None
    monkeypatch.delenv("INVSOLVE_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == tmp_path / ".cache" / "invsolve"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its convention tells to ignore
    assert cache.folder() == tmp_path / ".cache" / "invsolve"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "invsolve"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache.folder() == tmp_path / "Library" / "Caches" / "invsolve"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache.folder() == tmp_path / "local" / "invsolve" / "Cache"

    def nobody() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", nobody)
    assert cache.folder() is None


def test_without_a_folder_nothing_happens(where, monkeypatch):
    where.write_text("a file in its place")
    kept = Kept(kind="ct", key=KEY)
    kept.write(TENSORS)
    assert kept.read(LAYOUT) is None and where.read_text() == "a file in its place"


@pytest.mark.slow
def test_two_processes_at_once(where):
    """They write and read one file, again and again: what is read is whole, or not there."""
    code = f"""
import torch
from invsolve.core.cache import Kept
Kept.MOST = 10**6
for i in range(300):
    for key in ("{KEY}", "{KEY[::-1]}"):
        Kept(kind="ct", key=key, limit=15_000).write({{"a": torch.full((1000,), i, dtype=torch.int64)}})
"""
    environment = {**os.environ, "INVSOLVE_CACHE": str(where), "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    kept, seen = Kept(kind="ct", key=KEY, limit=15_000), set()  # the limit takes one of the two files
    while other.poll() is None:
        found = kept.read({"a": (torch.int64, 1000)})
        if found is not None:
            assert bool((found["a"] == found["a"][0]).all())
            seen.add(int(found["a"][0]))
            if len(seen) % 10 == 1:
                kept.write({"a": torch.full((1000,), -1, dtype=torch.int64)})
    _, said = other.communicate()
    assert other.returncode == 0, said
    assert seen and not [p for p in where.iterdir() if p.name.startswith(".")]


def test_what_is_no_file_or_has_no_place_counts_as_missing(where, monkeypatch):
    kept = Kept(kind="ct", key=KEY)
    where.mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(kept.path)  # to open it would wait for whoever writes into it
        assert kept.read(LAYOUT) is None
    monkeypatch.setenv("INVSOLVE_CACHE", "~nobody-of-this-name/kept")
    assert cache.folder() is None and kept.read(LAYOUT) is None
    kept.write(TENSORS)
