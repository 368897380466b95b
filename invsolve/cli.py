"""The command line: ``python -m invsolve demo | train | info | check``."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from invsolve.errors import InputError, InvsolveError, invalid

# By extra of pyproject.toml; "" are the dependencies of the package itself that are imported only where they are used.
PACKAGES = {
    "": (
        "xarray",
        "h5py",
        "h5netcdf",
        "safetensors",
        "matplotlib",
        "tqdm",
        "neuraloperator",
        "deepinv",
        "astra-toolbox",
    ),
    "io": ("pydicom", "nibabel", "ismrmrd"),
    "cluster": ("dask", "distributed", "dask-jobqueue"),
    "diagnostics": ("arviz",),
    "diffusers": ("diffusers",),
    "bench": ("azula", "finufft", "torchkbnufft", "scikit-image", "torchmetrics"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of ``python -m invsolve``.

    Parameters
    ----------
    argv : sequence of str, optional
        What follows the program's name; that of this process unless given.

    Returns
    -------
    int
        0 if it went well, 1 if it failed (standard error says why), 2 if it was not understood.
    """
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help, or what is wrong
        return int(stop.code or 0)
    try:
        return int(arguments.command(arguments))
    except (InvsolveError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m invsolve", description="Posteriors of inverse problems.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="reconstruct an undersampled MRI slice: table, picture, NetCDF file",
        description="Simulate an undersampled 8-coil scan of a real T1 slice, sample its posterior under a field prior "
        "and under a diffusion prior, both made from phantoms, and compare with zero-filled, CG-SENSE and "
        "TV. Nothing is downloaded.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--quick", action="store_true", help="fewer steps and phantoms")
    demo.add_argument("--out", metavar="DIR", default="out/demo", help="folder for demo.html and what it is made of")
    demo.add_argument("--acceleration", metavar="R", type=float, default=4.0, help="times fewer lines than a full scan")
    demo.add_argument("--samples", metavar="N", type=int, default=19, help="posterior samples; 19 carry 90%% intervals")
    demo.add_argument("--seed", metavar="S", type=int, default=0, help="of coils, mask, noise, phantoms and samples")
    demo.set_defaults(command=_demo)

    train = commands.add_parser(
        "train",
        help="train a diffusion prior on data that the package makes",
        description="Train a diffusion prior in stages of doubling resolution, and write weights, card, samples and "
        "losses. The same call goes on where an interrupted one stopped. No network.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.add_argument("data", metavar="DATA", help="heads (complex MR), heads-ct, images, darcy, or gaussian-field")
    train.add_argument("--resolution", metavar="N", type=int, default=64, help="pixels a side, a multiple of 8")
    train.add_argument("--hours", metavar="H", type=float, default=0.2, help="how long, about")
    train.add_argument("--out", metavar="DIR", default="out/train", help="folder for weights, card and pictures")
    train.add_argument("--seed", metavar="S", type=int, default=0, help="of data, noise and the first weights")
    train.add_argument("--width", metavar="W", type=int, help="channels of the finest level of the U-Net")
    train.set_defaults(command=_train)

    info = commands.add_parser(
        "info",
        help="print versions, devices, threads and what is installed",
        description="Print versions, devices, threads and what is installed.",
    )
    info.set_defaults(command=_info)

    check = commands.add_parser(
        "check",
        help="check an operator of yours",
        description="Import MODULE (looked for in the current folder first) and run iv.testing.check_operator on its "
        "ATTRIBUTE: an operator, or a function without arguments that returns one. Exit code 1 if a check "
        "fails.",
    )
    check.add_argument("target", metavar="MODULE:ATTRIBUTE", help="for example scanner:make_operator")
    check.add_argument("--seed", metavar="S", type=int, default=0, help="of the random test signals (default: 0)")
    check.set_defaults(command=_check)
    return parser


# --- demo ------------------------------------------------------------------------------------------------------------
def _demo(arguments: argparse.Namespace) -> int:
    from invsolve.demo import FULL, QUICK, run

    run(
        out=arguments.out,
        size=QUICK if arguments.quick else FULL,
        acceleration=arguments.acceleration,
        samples=arguments.samples,
        seed=arguments.seed,
        progress=True,
    )
    return 0


# --- train -----------------------------------------------------------------------------------------------------------
def _train(arguments: argparse.Namespace) -> int:
    from invsolve.priors.training.command import command

    command(
        arguments.data,
        resolution=arguments.resolution,
        hours=arguments.hours,
        out=arguments.out,
        seed=arguments.seed,
        width=arguments.width,
    )
    return 0


# --- info ------------------------------------------------------------------------------------------------------------
def _info(arguments: argparse.Namespace) -> int:
    import torch

    lines = [
        ("invsolve", _version("invsolve") or "run from a checkout that is not installed"),
        ("python", f"{platform.python_version()} ({platform.system()}, {platform.machine()})"),
        ("torch", torch.__version__),
        *((name, _version(name) or "not installed") for name in ("numpy", "scipy")),
        ("threads", f"{torch.get_num_threads()} (of {os.cpu_count()} processors; OMP_NUM_THREADS sets them)"),
        ("devices", ", ".join(_devices())),
    ]
    print("\n".join(f"{name:10s} {value}" for name, value in lines))
    for extra, names in PACKAGES.items():
        print(f"\n{'used where needed' if not extra else f'optional, pip install invsolve[{extra}]'}:")
        for name in names:
            print(f"  {name:14s} {_version(name) or 'not installed'}")
    return 0


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


# --- check -----------------------------------------------------------------------------------------------------------
def _check(arguments: argparse.Namespace) -> int:
    from invsolve.testing import check_operator

    report = check_operator(_load_operator(arguments.target), seed=arguments.seed, throw=False)
    print(report)
    return 0 if report.passed else 1


def _load_operator(target: str) -> Any:
    """What ``MODULE:ATTRIBUTE`` names, called if it is not an operator itself."""
    from invsolve.operators.base import Operator
    from invsolve.operators.inputs import not_an_operator

    module, colon, attribute = target.partition(":")
    if not (colon and module and attribute):
        raise invalid("check", "target", "MODULE:ATTRIBUTE", repr(target), "For example scanner:make_operator.")
    wanted = "an operator, or a function without arguments that returns one"
    with _current_folder_first():
        value = _import(module)
        for name in attribute.split("."):
            if not hasattr(value, name):
                names = [n for n in getattr(value, "__dict__", {}) if not n.startswith("_")]
                raise InputError(f"check: {module!r} has no {attribute!r}. It has: {', '.join(names) or 'nothing'}.")
            value = getattr(value, name)
        if not isinstance(value, Operator) and callable(value):
            try:
                value = value()
            except Exception as error:  # the user's code: whatever it raises is the answer
                raise InputError(
                    f"check: {target}() raised {type(error).__name__}: {error}. It must be {wanted}."
                ) from error
    if not isinstance(value, Operator):
        raise not_an_operator("check", target, value, wanted)
    return value


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise InputError(f"check: no module {name!r} in the current folder or the environment.") from error
        raise InputError(f"check: {name!r} imports {missing!r}, which is not installed.") from error
    except Exception as error:  # the user's code
        raise InputError(f"check: importing {name!r} raised {type(error).__name__}: {error}.") from error


@contextmanager
def _current_folder_first() -> Iterator[None]:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
