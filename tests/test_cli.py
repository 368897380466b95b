"""The command line: exit codes, what is printed, and readable errors instead of tracebacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy
import pytest
import torch

from invsolve import cli
from invsolve.cli import main

ROOT = Path(__file__).resolve().parent.parent

SCANNER = """
import torch
from dataclasses import dataclass
import invsolve as iv

right = iv.operators.Matrix(matrix=torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 1.0]]))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Wrong(iv.operators.LinearOperator):  # its adjoint forgets the factor 2
    in_shape = (4,)
    out_shape = (4,)

    def _apply(self, x):
        return 2 * x

    def _adjoint(self, y):
        return y


def make():
    return right


def make_with(argument):
    return right


def broken():
    raise OSError("no calibration file")


class Parts:
    lens = right


number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with a module ``scanner`` that only `check` can find there."""
    (tmp_path / "scanner_of_test_cli.py").write_text(SCANNER)
    (tmp_path / "needs_what_is_not_there.py").write_text("import a_package_that_does_not_exist\n")
    (tmp_path / "half_written.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    before, known = list(sys.path), set(sys.modules)
    yield tmp_path
    assert sys.path == before
    for name in set(sys.modules) - known:
        if "scanner_of_test" in name:
            del sys.modules[name]


@pytest.mark.parametrize("arguments", [["bogus"], [], ["demo", "--samples", "many"], ["check"]])
def test_what_is_not_understood_is_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    assert "usage: python -m invsolve" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["info", "--help"], ["check", "--help"]])
def test_help(arguments, capsys):
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "usage: python -m invsolve" in text
    assert max(map(len, text.splitlines())) <= 200


@pytest.mark.slow
def test_as_a_module_in_a_fresh_process(tmp_path):
    """``python -m invsolve`` hands the exit code on and does not look at the current folder for itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "invsolve"]
    done = subprocess.run([*command, "info"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"torch      {torch.__version__}" in done.stdout
    done = subprocess.run([*command, "bogus"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2


# --- info ------------------------------------------------------------------------------------------------------------
def test_info(capsys, monkeypatch):
    known = {"numpy": "9.9", "xarray": "1.2.3"}
    monkeypatch.setattr(cli, "_version", known.get)
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^invsolve +run from a checkout that is not installed$", text, re.MULTILINE)
    assert re.search(r"^numpy +9\.9$", text, re.MULTILINE)
    assert re.search(r"^  xarray +1\.2\.3$", text, re.MULTILINE)
    assert re.search(r"^  pydicom +not installed$", text, re.MULTILINE)
    assert re.search(r"^devices +cpu", text, re.MULTILINE)
    assert re.search(rf"^threads +{torch.get_num_threads()} ", text, re.MULTILINE)


def test_devices_are_those_of_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert cli._devices() == ["cpu", "cuda:0 (card 0)", "cuda:1 (card 1)", "mps"]


def test_a_package_that_is_not_there_has_no_version():
    assert cli._version("numpy") == numpy.__version__
    assert cli._version("a-package-that-does-not-exist") is None


def test_info_knows_the_dependencies_of_the_project():
    """Those of pyproject.toml, extras by name; torch, numpy and scipy have lines of their own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements):
        return {re.match(r"[\w-]+", r)[0] for r in requirements} - {"torch", "numpy", "scipy"}

    assert set(cli.PACKAGES[""]) == names(project["dependencies"])
    extras = {extra: names(found) for extra, found in project["optional-dependencies"].items() if extra != "dev"}
    assert {extra for extra in cli.PACKAGES if extra} == set(extras)
    for extra, wanted in extras.items():
        assert wanted <= set(cli.PACKAGES[extra])


# --- check -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("attribute", ["right", "make", "Parts.lens"])
def test_check_of_a_right_operator(attribute, folder, capsys):
    assert main(["check", f"scanner_of_test_cli:{attribute}"]) == 0
    assert "all of" in capsys.readouterr().out


def test_check_of_a_wrong_adjoint(folder, capsys):
    assert main(["check", "scanner_of_test_cli:Wrong"]) == 1
    text = capsys.readouterr().out
    assert "FAIL  adjoint" in text
    assert "ok    linear" in text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("scanner_of_test_cli", r"`target` must be MODULE:ATTRIBUTE, got 'scanner_of_test_cli'"),
        (":right", r"`target` must be MODULE:ATTRIBUTE"),
        ("scanner_of_test_cli:", r"`target` must be MODULE:ATTRIBUTE"),
        ("a_module_that_is_not_there:A", r"no module 'a_module_that_is_not_there' in the current folder"),
        ("a_module_that_is_not_there.part:A", r"no module 'a_module_that_is_not_there.part'"),
        ("needs_what_is_not_there:A", r"imports 'a_package_that_does_not_exist', which is not installed"),
        ("half_written:A", r"importing 'half_written' raised SyntaxError"),
        ("scanner_of_test_cli:left", r"'scanner_of_test_cli' has no 'left'\. It has: .*right"),
        ("scanner_of_test_cli:Parts.mirror", r"has no 'Parts.mirror'\. It has: lens"),
        ("scanner_of_test_cli:number", r"must be an operator, or a function .* got int"),
        ("scanner_of_test_cli:number.lens", r"has no 'number.lens'\. It has: nothing"),
        ("scanner_of_test_cli:broken", r"broken\(\) raised OSError: no calibration file"),
        ("scanner_of_test_cli:make_with", r"make_with\(\) raised TypeError: .*argument.*function without arguments"),
    ],
)
def test_check_says_what_is_wrong(target, words, folder, capsys):
    assert main(["check", target]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: check: ")
    assert re.search(words, error), error


# --- demo ------------------------------------------------------------------------------------------------------------
def test_demo_hands_its_options_on(monkeypatch):
    import invsolve.demo

    given = {}
    monkeypatch.setattr(invsolve.demo, "run", lambda **options: given.update(options))
    assert main(["demo"]) == 0
    assert given == {
        "out": "out/demo",
        "size": invsolve.demo.FULL,
        "acceleration": 4.0,
        "samples": 19,
        "seed": 0,
        "progress": True,
    }
    assert main(["demo", "--quick", "--out", "x", "--acceleration", "3", "--samples", "5", "--seed", "7"]) == 0
    assert given == {
        "out": "x",
        "size": invsolve.demo.QUICK,
        "acceleration": 3.0,
        "samples": 5,
        "seed": 7,
        "progress": True,
    }


def test_demo_with_wrong_options_is_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--quick", "--acceleration", "0.5"]) == 1
    assert "error: cartesian_mask: `acceleration` must be between 1 and the number of lines, 128, got 0.5" in (
        capsys.readouterr().err
    )
    (tmp_path / "file").write_text("")
    assert main(["demo", "--quick", "--out", "file"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out").exists()
