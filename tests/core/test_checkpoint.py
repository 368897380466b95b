"""Atomic files, and checkpoints that restore every bit or refuse."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from invsolve.core.checkpoint import (
    Checkpoint,
    check_fingerprint,
    fill_state,
    flatten_state,
    load_state,
    save_state,
)
from invsolve.errors import CheckpointError, FileError, InputError, InputTypeError

# --- save_state, load_state -------------------------------------------------------------------------------------------
DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


def bits(value: Tensor) -> list[int]:
    return value.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_round_trip_is_bit_exact(tmp_path, dtype, shape):
    rng = torch.Generator().manual_seed(0)
    size = math.prod(shape) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), generator=rng, dtype=torch.uint8)  # NaNs and all
    value = raw.view(dtype).reshape(shape) if dtype != torch.bool else raw.bool().reshape(shape)
    save_state(tmp_path / "s", {"x": value}, {})
    back, meta = load_state(tmp_path / "s")
    assert back["x"].dtype == dtype and tuple(back["x"].shape) == shape and meta == {}
    assert bits(back["x"]) == bits(value)


def test_views_that_share_memory_are_kept(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    many = {
        "base": base,
        "row": base[1],
        "transposed": base.mT,
        "expanded": base[:1].expand(3, 4),
        "conj": torch.complex(base, base).conj(),
        "grad": base.clone().requires_grad_(),
    }
    save_state(tmp_path / "s", many, {})
    back, _ = load_state(tmp_path / "s")
    for name, value in many.items():
        assert torch.equal(back[name], value.detach()), name


def test_meta_keeps_numbers_and_text(tmp_path):
    meta = {"step": 12, "third": 1 / 3, "inf": math.inf, "text": "µ\n'\"", "nested": {"list": [1, None, True]}}
    save_state(tmp_path / "s", {}, meta)
    assert load_state(tmp_path / "s") == ({}, meta)


def test_tensors_outlive_the_file(tmp_path):
    """Memory-mapped tensors of a file that shrinks would crash the process: they are copies."""
    value = torch.arange(100_000.0)
    save_state(tmp_path / "s", {"x": value}, {})
    back, _ = load_state(tmp_path / "s")
    with open(tmp_path / "s", "r+b") as file:
        file.truncate(0)
    assert torch.equal(back["x"], value)


def test_meta_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(InputTypeError, match="save_state: `meta` must be what JSON can hold"):
        save_state(tmp_path / "s", {}, {"x": object()})
    assert os.listdir(tmp_path) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match="load_state: there is no file '.*nothing.ckpt'"):
        load_state(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize("keep", [0, 4, 8, 40, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "s"
    save_state(path, {"x": torch.arange(10.0)}, {"a": 1})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match="is no checkpoint, or is cut short or damaged"):
        load_state(path)


def test_garbage_and_hostile_headers_are_refused(tmp_path):
    path = tmp_path / "s"
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for raw in (b"garbage" * 100, b"\x80\x04\x95" * 50, b"\xff" * 64, len(header).to_bytes(8, "little") + header):
        path.write_bytes(raw)
        with pytest.raises(FileError, match="is no checkpoint, or is cut short or damaged"):
            load_state(path)


def test_a_checkpoint_of_before_modules_moved_is_refused_in_words(tmp_path):
    from safetensors.torch import save_file

    header = {"format": "invsolve-checkpoint-1", "meta": '{"step": 3}', "complex": "{}"}  # as the first format wrote it
    save_file({"state.x": torch.ones(3)}, tmp_path / "s", metadata=header)
    with pytest.raises(FileError, match="written by an earlier layout of invsolve .*Start anew.*that wrote it"):
        load_state(tmp_path / "s")


def test_other_safetensors_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    good = {"format": "invsolve-checkpoint-2", "meta": "{}", "complex": "{}"}
    save_file({"x": torch.ones(3)}, tmp_path / "s", metadata={"format": "pt"})
    with pytest.raises(FileError, match="not a checkpoint of this version of invsolve \\(format 'pt'"):
        load_state(tmp_path / "s")
    for bad in (
        {"meta": "{"},
        {"meta": "[1]"},
        {"meta": "[" * 100_000},
        {"complex": '{"y": "complex64"}'},
        {"complex": '{"x": "complex64"}'},
        {"complex": '{"x": "float8"}'},
        {"complex": "3"},
    ):
        save_file({"x": torch.ones(3)}, tmp_path / "s", metadata={**good, **bad})
        with pytest.raises(FileError, match="the header of the checkpoint '.*' is damaged"):
            load_state(tmp_path / "s")


# --- flatten_state, fill_state ---------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class Inner:
    x: Tensor
    past: tuple[Tensor, ...] = ()


class Pair(NamedTuple):
    a: Tensor
    b: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer:
    inner: Inner
    pair: Pair
    weights: Tensor | None
    level: float
    count: int
    done: bool
    parts: dict[str, Any] = field(default_factory=dict)
    derived: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "derived", self.count + 1)


def outer(seed: int, **changes: Any) -> Outer:
    rng = torch.Generator().manual_seed(seed)

    def draw(dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(3, 2, generator=rng, dtype=dtype)

    values: dict[str, Any] = dict(
        inner=Inner(x=draw(torch.complex64), past=(draw(), draw(torch.float64))),
        pair=Pair(draw(), seed),
        weights=None,
        level=math.pi * seed,
        count=2**62 + seed,
        done=seed == 1,
        parts={"list": [draw(), None]},
    )
    return Outer(**(values | changes))


def test_a_state_comes_back_bit_for_bit_through_a_file(tmp_path):
    state = outer(1)
    save_state(tmp_path / "s", flatten_state(state), {})
    back = fill_state(outer(2), load_state(tmp_path / "s")[0])
    found, want = flatten_state(back), flatten_state(state)
    assert list(found) == list(want) and all(torch.equal(found[k], want[k]) for k in want)
    assert isinstance(back, Outer) and isinstance(back.pair, Pair) and isinstance(back.inner.past, tuple)
    assert (back.level, back.count, back.done, back.derived) == (math.pi, 2**62 + 1, True, 2**62 + 2)
    assert type(back.count) is int and type(back.done) is bool and back.weights is None


def test_filling_copies_and_reads_its_own_prefix():
    tensors = flatten_state(torch.zeros(2), "a") | flatten_state(torch.ones(2), "ab") | {"done.x": torch.ones(1)}
    back = fill_state(torch.empty(2), tensors, "a")
    back += 1
    assert torch.equal(tensors["a"], torch.zeros(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.ones(3)}, r"`state.weights` must be a tensor of shape \(3,\) and torch.float32, got none"),
        (
            {"inner": Inner(x=torch.ones(3, 2))},
            r"`state.inner.x` must be .* torch.float32, got \(3, 2\) and torch.complex64",
        ),
        (
            {"inner": Inner(x=torch.ones(4, dtype=torch.complex64))},
            r"`state.inner.x` must be .*\(4,\) and .*, got \(3, 2\)",
        ),
        ({"pair": None}, r"`state.pair.0` must be absent, as in this state, got a tensor"),
        ({"level": 3}, r"`state.level` must be a tensor of shape \(\) and torch.int64, got \(\) and torch.float64"),
    ],
)
def test_a_state_of_another_structure_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        fill_state(outer(1, **change), flatten_state(outer(1)))


@pytest.mark.parametrize(
    "leaf", ["text", {1}, 2**63, {1: 2}, lambda: 1], ids=["str", "set", "65 bits", "int keys", "function"]
)
def test_leaves_that_cannot_be_kept_are_refused(leaf):
    with pytest.raises(InputTypeError, match="flatten_state: `state.parts.x` must be a tensor, bool, float, int of 64"):
        flatten_state(outer(1, parts={"x": leaf}))


def test_a_template_that_cannot_be_filled_is_refused():
    with pytest.raises(InputTypeError, match="fill_state: `state` must be a tensor, bool.*got str"):
        fill_state("text", {})


# --- check_fingerprint, Checkpoint -----------------------------------------------------------------------------------
def test_fingerprints_name_what_differs():
    mine = {"y": "aa", "operator": "bb", "seed": "0"}
    check_fingerprint(dict(mine), mine)
    message = r"checkpoint: `y`, `seed` must be .*y: cc in the file, aa now; seed: 1 in"
    with pytest.raises(CheckpointError, match=message) as e:
        check_fingerprint({**mine, "y": "cc", "seed": "1"}, mine)
    assert "operator" not in str(e.value) and "delete the file" in str(e.value)
    message = r"`operator`, `chunk` must.*operator: absent in.*chunk: 8 in the file, absent"
    with pytest.raises(CheckpointError, match=message):
        check_fingerprint({"y": "aa", "seed": "0", "chunk": "8"}, mine)


@pytest.mark.parametrize(
    ("steps", "seconds", "after", "due"),
    [
        (10, None, (9, 1e9), False),
        (10, None, (10, 0.0), True),
        (None, 2.0, (10**9, 1.9), False),
        (None, 2.0, (1, 2.0), True),
        (10, 2.0, (1, 2.5), True),
        (10, 2.0, (11, 0.0), True),
        (10, 2.0, (9, 1.9), False),
    ],
)
def test_when_a_checkpoint_is_due(steps, seconds, after, due):
    assert Checkpoint(path="c", every_steps=steps, every_seconds=seconds).due(*after) is due


def test_bad_options_are_refused():
    with pytest.raises(InputTypeError, match="Checkpoint: `path` must be a path, got int"):
        Checkpoint(path=3)
    with pytest.raises(InputError, match="`every_steps` must be given, or `every_seconds`, got None for both"):
        Checkpoint(path="c", every_seconds=None)
    with pytest.raises(InputError, match="`every_steps` must be at least 1, got 0"):
        Checkpoint(path="c", every_steps=0)
    with pytest.raises(InputError, match="`every_seconds` must be positive, got 0.0"):
        Checkpoint(path="c", every_seconds=0.0)


def test_nothing_in_python_loops_over_values(tmp_path):
    """100 MB take the time of a write: as many lines of Python are run for a large state as for a small one."""

    def lines(entries):
        count = 0

        def trace(frame, event, arg):
            nonlocal count
            count += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            save_state(tmp_path / "s", {"x": torch.zeros(entries)}, {})
        finally:
            sys.settrace(before)
        return count

    lines(10)  # what a first call imports
    assert lines(1_000_000) == lines(1_000) > 0


def test_the_path_may_be_given_by_position():
    assert Checkpoint("run.ckpt", every_steps=3) == Checkpoint(path="run.ckpt", every_steps=3)
    with pytest.raises(TypeError, match="positional"):
        Checkpoint("run.ckpt", 3)
