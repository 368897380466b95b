"""The house: a room imports only rooms above it, modules need each other in no circle but one, files stay short."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import invsolve

ROOT = Path(invsolve.__file__).parent
# From the ground up; a module belongs to the longest name here that it starts with. `operators/algebra/` is one room with
# `operators/`: `A @ B`, `A.H` and `A.svd()` are methods of what they return. The face of a room (its `__init__.py`, which
# re-exports) stands beside the last of the room's own rooms; the package's own comes after all of them, then `cli`.
ROOMS = """
    errors core progress metrics plotting
    operators operators.bridges operators.optics operators.mri operators.pde operators.ct
    noise samplers problem testing baselines datasets datasets.readers gaussian separable
    priors priors.networks priors.exact priors.fields priors.learned priors.formats priors.trained priors.training
    problems
    strategies strategies.guidance strategies.published strategies.fields strategies.integrators strategies.smc
    strategies.mcmc
    strategies.choice
    posterior_metrics results diagnostics hyperparameters solving calibration demo
""".split()
FILES = ["__init__", "__main__", "cli", "errors", "metrics", "posterior_metrics", "problem"]
FILES += ["progress", "testing"]
# The one circle.
KERNEL = {"base", "dense", "spectrum", "algebra.algebra", "algebra.delegate", "algebra.linearized"}
LONGEST = 400  # lines


def name_of(path: Path) -> str:
    """A module without "invsolve.": operators.base; the package itself is "__init__", a room's face the room."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


PATHS = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
FACES = {name for name, path in PATHS.items() if path.name == "__init__.py"}


def room_of(module: str) -> str:
    return max((r for r in ROOMS if module == r or module.startswith(f"{r}.")), key=len, default="")


def height(module: str) -> float:
    if module in ("__init__", "cli", "__main__"):
        return len(ROOMS) + ("__init__", "cli", "__main__").index(module)
    own = [r for r in ROOMS if module in FACES and r.startswith(f"{module}.")]
    return max(map(ROOMS.index, [room_of(module), *own]))


def targets(source: str) -> set[str]:
    """The modules of the package that a source imports: anywhere, so in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            found |= {
                inner if (inner := f"{node.module}.{a.name}").removeprefix("invsolve.") in PATHS else node.module or ""
                for a in node.names
            }
    inside = {name for name in found if name == "invsolve" or name.startswith("invsolve.")}
    return {"__init__" if name == "invsolve" else name.removeprefix("invsolve.") for name in inside}


IMPORTS = {name: targets(path.read_text(encoding="utf-8")) - {name} for name, path in PATHS.items()}


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one module."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for module in arrows[todo.pop()] - seen:
                seen.add(module)
                todo.append(module)
        return seen

    reached = {module: reach(module) for module in arrows}
    return [set(c) for c in {frozenset(m for m in reached[n] if n in reached[m]) for n in arrows} if len(c) > 1]


def test_every_module_has_a_room_and_every_room_a_module():
    assert [m for m in PATHS if "." in m and not room_of(m)] == []
    assert {room_of(m) for m in PATHS} - {""} == set(ROOMS)
    assert set().union(*IMPORTS.values()) <= set(PATHS)
    assert sorted(m for m in PATHS if "." not in m and m not in FACES - {"__init__"}) == sorted(FILES)


def test_a_room_imports_only_rooms_above_it():
    up = [f"{m} -> {t}" for m, found in IMPORTS.items() for t in found if height(t) > height(m)]
    assert sorted(up) == []


def test_there_is_one_circle_the_operator_kernel():
    kernel = {f"operators.{module}" for module in KERNEL}
    assert circles(IMPORTS) == [kernel]


def test_the_tests_of_this_test():
    """Every kind of import counts; two circles are told apart."""
    source = """
import torch, invsolve.errors
from invsolve import operators, solve
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from invsolve.priors.base import Prior
def f():
    from invsolve.core import random as draws
    import invsolve as iv
"""
    assert targets(source) == {"errors", "operators", "__init__", "priors.base", "core.random"}
    arrows = {"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"c", "e"}, "e": set()}
    assert sorted(map(sorted, circles(arrows))) == [["a", "b"], ["c", "d"]]
    assert height("errors") < height("operators.base") < height("operators.ct.parallel") == height("operators")
    assert height("operators") < height("noise.base") < height("__init__") < height("cli")


def test_files_are_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in PATHS.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def test_tests_live_in_the_same_rooms():
    """Beside what they share, and the tests of `benchmarks/`."""
    tests = Path(__file__).parent
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("*.py")} - {
        ".",
        "shared",
        "benchmarks",
        "gpu",
    }
    assert [folder for folder in sorted(folders) if not (ROOT / folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("face", sorted(FACES))
def test_a_module_is_found_under_its_name(face):
    """No public module is hidden by a function of its name in the room that holds it."""
    package = importlib.import_module("invsolve" if face == "__init__" else f"invsolve.{face}")
    for name in PATHS:
        above, _, last = name.rpartition(".")
        if (above or "__init__") == face and not last.startswith("_"):
            module = importlib.import_module(f"invsolve.{name}")
            assert getattr(package, last) is module, name


@pytest.mark.parametrize("module", [invsolve, invsolve.strategies], ids=lambda m: m.__name__)
def test_dir_shows_what_is_public(module):
    assert dir(module) == sorted(module.__all__)
