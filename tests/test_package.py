"""The package as a whole: what importing it costs, what its wheel holds, what its folders and names promise."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import invsolve

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "invsolve"
# Imported only where they are used. pandas comes with xarray, wandb with neuralop.
HEAVY = (
    "astra", "deepinv", "h5netcdf", "h5py", "matplotlib", "neuralop", "pandas", "scipy.sparse.linalg", "tqdm", "triton",
    "wandb", "xarray",
)  # fmt: skip
IMPORT_LIMIT = 0.3  # seconds of CPU beyond `import torch`
TRACKED_LIMIT = 10 * 2**20  # bytes


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def run_python(code: str, **variables: str) -> str:
    """The output of a fresh interpreter, started where this package is the one that is found."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked_files() -> list[Path]:
    """The files that git tracks; empty where the sources are not a git checkout (an unpacked sdist)."""
    if not (ROOT / ".git").exists():
        return []
    return [ROOT / name for name in git("ls-files", "-z").split("\0") if name]


def package_files() -> set[str]:
    """Every file of the package tree, relative to the root, in the notation of archives."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def module_names() -> list[str]:
    walk = pkgutil.walk_packages(invsolve.__path__, "invsolve.")
    return [m.name for m in walk if not m.name.endswith("__main__")]  # importing a program would run it


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.slow
def test_import_costs_little_more_than_torch(tmp_path):
    """The minimum of five processes is within the limit exactly if one is, so the first such one ends the test.

    CPU time, which other programs hardly change, of one thread. Bytecode is kept, as where the package is installed,
    whatever the environment says: compiling takes as long again.
    """
    code = "import time, torch; start = time.process_time(); import invsolve; print(time.process_time() - start)"
    variables = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path), "OMP_NUM_THREADS": "1"}
    costs: list[float] = []
    while len(costs) < 5 and (not costs or costs[-1] > IMPORT_LIMIT):
        costs.append(float(run_python(code, **variables)))
    assert min(costs) <= IMPORT_LIMIT, costs


def test_import_loads_no_heavy_module():
    """Compared with torch alone, which may load one of them itself in some version."""
    code = "import sys, torch; before = set(sys.modules); import invsolve; print(*sorted(set(sys.modules) - before))"
    loaded = run_python(code).split()
    assert "invsolve" in loaded
    assert [m for m in loaded if any(m == h or m.startswith(h + ".") for h in HEAVY)] == []


def test_every_module_imports():
    """One process, every module: finds circular imports and names that moved, also where nothing else imports them."""
    names = module_names()
    assert {"invsolve.errors", "invsolve.operators.base", "invsolve.priors.base"} <= set(names)
    # In reverse order, so that leaves come before the modules that usually bring them.
    code = f"import importlib\nfor name in {names[::-1]}: importlib.import_module(name)\nprint('done')"
    assert run_python(code).strip() == "done"


def test_public_names_resolve():
    """`__all__` stands in every package's `__init__`, names each thing once, and nothing that does not exist."""
    for name in ["invsolve", *module_names()]:
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            assert hasattr(module, "__all__"), f"{name} re-exports without __all__"
        public = getattr(module, "__all__", [])
        assert len(public) == len(set(public)), name
        assert [n for n in public if not hasattr(module, n)] == [], name


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    """Data files and py.typed included; `*.dist-info` is the only other top-level folder."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = zipfile.ZipFile(wheel).namelist()
    inside = {n for n in names if n.startswith("invsolve/")}
    assert inside == package_files()
    assert "invsolve/py.typed" in inside
    info = f"invsolve-{version()}.dist-info"
    assert {n.split("/")[0] for n in names} == {"invsolve", info}
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= set(names)


def test_sdist_holds_the_package_the_tests_and_no_links(tmp_path):
    """The sdist lost linked packages with hatchling's `include`: compare it with the tree, too."""
    (sdist,) = SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(sdist) as archive:
        names = {m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()}
    assert {n for n in names if n.startswith("invsolve/")} == package_files()
    assert {"pyproject.toml", "conftest.py", "Makefile", "LICENSE", "README.md", "tests/test_package.py"} <= names
    assert [n for n in names if n.startswith(("operators/", "priors/"))] == []


def test_git_tracks_every_package_file():
    """A pattern of .gitignore that also matches package files would drop them from git and from the wheel."""
    if tracked_files():
        listed = git("ls-files", "--others", "--ignored", "--exclude-standard", "-z", "invsolve").split("\0")
        assert [n for n in listed if n and "__pycache__" not in n] == []


def test_tracked_files_are_small():
    sizes = {str(path): path.stat().st_size for path in tracked_files() if path.exists()}
    assert {name: size for name, size in sizes.items() if size > TRACKED_LIMIT} == {}


@pytest.mark.parametrize("name", ["operators", "priors"])
def test_links_at_the_root_point_into_the_package(name):
    """Relative, so that they hold in every checkout. Where git makes no links they are small text files, or missing."""
    link = ROOT / name
    if ROOT / name in tracked_files():
        assert git("ls-files", "-s", name).startswith("120000 ")  # the mode of a link
    if link.is_symlink():
        assert str(link.readlink()) == f"invsolve/{name}"
        assert link.resolve() == PACKAGE / name


def test_datasets_folder_does_not_shadow_the_package_of_that_name():
    """With an `__init__.py` it would: deepinv imports Hugging Face's `datasets` by that name."""
    assert (ROOT / "datasets" / "README.md").is_file()
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_every_embedded_file_has_a_card():
    """Origin and licence are stated for each sample, beside which its licence text may stand."""
    cards = (ROOT / "datasets" / "README.md").read_text()
    samples = [p for p in (PACKAGE / "datasets" / "samples").iterdir() if p.is_file() and p.name != "__init__.py"]
    assert [p.name for p in samples if f"`{p.name}`" not in cards] == []
