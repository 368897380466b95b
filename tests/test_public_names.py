"""No public name is lost: what docs/reference.md of version 0.1 listed still is where it was."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

import pytest

NAMES = Path(__file__).with_name("public_names.txt").read_text(encoding="utf-8").split()


def test_there_are_as_many_as_there_were():
    assert len(NAMES) == len(set(NAMES)) == 206


@pytest.mark.parametrize("name", NAMES)
def test_it_imports_from_the_same_place(name):
    root, *inner, last = name.split(".")
    assert root == "iv"
    where = importlib.import_module(".".join(["invsolve", *inner]))  # `from invsolve.operators import Mask`
    value = getattr(where, last)
    assert functools.reduce(getattr, inner, importlib.import_module("invsolve")) is where  # `iv.operators`
    assert last in getattr(where, "__all__", [last])
    assert isinstance(value, type) or callable(value)
