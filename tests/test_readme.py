"""Every ```python block of README.md and docs/ runs, in order, one program a page; their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import scan_files

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# Pages that may hold blocks marked ```python no-run, and how many: those that need hardware, a file or a download.
NO_RUN: dict[str, int] = {}
NEEDS = {"needs-jax": "jax"}  # blocks that run where a package is installed that the suite does not bring
SLOW = (
    "docs/ct.md",
    "docs/extending.md",
    "docs/fastmri.md",
    "docs/fields.md",
    "docs/imaging.md",
    "docs/sinogram.md",
    "docs/surrogates.md",
    "docs/tasks.md",
)  # pages that take ten seconds

FENCE = re.compile(r"^```python(?P<mark>[^\n]*)\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)(?P<target>[^)#\s]+)")  # relative targets only


@dataclass(frozen=True, kw_only=True)
class Block:
    code: str
    line: int  # of the block's first line of code in its page, from 1
    runs: bool
    mark: str = ""


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCE.finditer(text):
        mark = match["mark"].strip()
        assert mark in ("", "no-run", *NEEDS), f"unknown mark {mark!r} after ```python"
        line = text.count("\n", 0, match.start("code")) + 1
        runs = mark == "" or (mark in NEEDS and find_spec(NEEDS[mark]) is not None)
        found.append(Block(code=match["code"], line=line, runs=runs, mark=mark))
    return found


def run_page(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Run the blocks of a page in one namespace: a module, because dataclasses look theirs up by name."""
    page = types.ModuleType(f"page_{path.stem}")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    for block in blocks(text):
        if block.runs:  # blank lines before the code: a traceback shows the line of the page
            exec(compile("\n" * (block.line - 1) + block.code, str(path), "exec"), page.__dict__)
    return page


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=[pytest.mark.slow] if name_of(p) in SLOW else [], id=name_of(p)) for p in PAGES]
)
def test_code_runs(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # what a page writes does not land in the checkout
    scan_files.PAGES.get(name_of(path), lambda folder: None)(tmp_path)  # the file that its reader has
    run_page(path, path.read_text(), monkeypatch)


def test_readme_runs_in_a_fresh_process(tmp_path):
    """In this one, other tests may have imported a module that `import invsolve` forgets."""
    code = "\n".join(block.code for block in blocks(README.read_text()))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_blocks_that_do_not_run_are_counted(path):
    assert README.name not in NO_RUN
    assert sum(block.mark == "no-run" for block in blocks(path.read_text())) == NO_RUN.get(name_of(path), 0)


@pytest.mark.parametrize("path", [*PAGES, *(ROOT / n for n in ("CONTRIBUTING.md", "datasets/README.md"))], ids=name_of)
def test_links_lead_somewhere(path):
    targets = [m["target"] for m in LINK.finditer(path.read_text())]
    assert [t for t in targets if not (path.parent / t).exists()] == []


def test_readme_has_a_quick_start_and_two_commands_that_make_knows():
    text = README.read_text()
    assert any("iv.solve(" in block.code for block in blocks(text))
    for target in ("demo", "test"):
        assert f"\nmake {target} " in text
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_runner_reports_a_failing_block_at_its_line(monkeypatch):
    """The test of the test: a page whose second block is wrong fails, there; a block marked no-run does not run."""
    text = "# page\n```python\nx = 1\n```\n```python no-run\nx = 2\n```\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as caught:
        run_page(Path("page.md"), text, monkeypatch)
    assert caught.traceback[-1].lineno == 9  # pytest counts from 0: line 10 of the page
    assert [b.runs for b in blocks(text)] == [True, False, True]


def test_an_unknown_mark_is_refused():
    with pytest.raises(AssertionError, match="unknown mark"):
        blocks("```python norun\nx = 1\n```\n")


def test_the_reference_page_is_current():
    """docs/reference.md is what docs/reference.py writes: run it after changing a public name or docstring."""
    import importlib.util

    path = ROOT / "docs" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == path.with_suffix(".md").read_text(encoding="utf-8")
