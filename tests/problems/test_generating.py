"""Data sets of the benchmarks: what is written is read, and is what the problems have."""

import h5py
import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError
from invsolve.problems import generating
from invsolve.problems.equations import EQUATIONS
from invsolve.problems.legacy_spline import legacy_solution, nodal

generate = iv.problems.generate
D = torch.float64


@pytest.mark.parametrize("name", EQUATIONS)
def test_a_file_holds_draws_and_their_solutions(tmp_path, name):
    n = 8
    made = generate(name, tmp_path / "f.h5", 5, resolution=n, seed=7, chunk=2, dtype=D)
    file = iv.datasets.open_fields(tmp_path / "f.h5")
    assert repr(file) == repr(made)
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]
    equation = EQUATIONS[name](n, D)
    x = equation.prior.sample(5, seed=7)
    u = equation.solution(x)
    if equation.times:
        assert list(file.arrays) == ["tensor"]
        assert file.times.tolist() == list(equation.times)
        assert torch.equal(file["tensor"][:][:, 0], x)
        assert torch.allclose(file["tensor"][:], u, rtol=0, atol=1e-12)
    else:
        assert torch.equal(file["nu"][:], x)
        assert torch.allclose(file["tensor"][:][:, 0], u, rtol=0, atol=1e-12)
    if name in ("poisson", "helmholtz"):
        assert file.grid is None  # nodes on walls are no CartesianGrid
        assert file.parameters["nodes_on_walls"] == 1
    else:
        assert file.grid.points == ("centers" if name == "darcy" else "periodic")
        assert file.grid.extent == pytest.approx((1.0,) * len(equation.prior.shape))
    with h5py.File(tmp_path / "f.h5") as raw:  # other programs read it too
        np.testing.assert_array_equal(raw["tensor"][3], file["tensor"][3].numpy())
        np.testing.assert_allclose(raw["x-coordinate"][:], equation.along.numpy())


def test_pairs_depend_on_seed_and_number_only(tmp_path):
    files = [
        generate("poisson", tmp_path / name, count, resolution=6, seed=seed, chunk=chunk)
        for name, count, seed, chunk in (("a", 5, 1, 5), ("b", 3, 1, 2), ("c", 3, 2, 3))
    ]
    assert files[0].path.endswith("a.h5")
    for key in ("nu", "tensor"):
        assert files[0][key][:].dtype == torch.float32
        assert torch.equal(files[0][key][:3], files[1][key][:])
        assert not torch.equal(files[1][key][:], files[2][key][:])


def test_an_interrupted_file_goes_on(tmp_path, monkeypatch):
    whole = generate("darcy", tmp_path / "whole.h5", 5, resolution=8, chunk=2, legacy_spline=True)
    calls = []

    def once(a, after=2):
        calls.append(len(a))
        if len(calls) == after:
            raise KeyboardInterrupt
        return legacy_solution(a)

    monkeypatch.setattr(generating, "legacy_solution", once)
    with pytest.raises(KeyboardInterrupt):
        generate("darcy", tmp_path / "f.h5", 5, resolution=8, chunk=2, legacy_spline=True)
    assert not (tmp_path / "f.h5").exists()
    with pytest.raises(InputError, match=r"f\.h5\.part.*'seed': 0"):
        generate("darcy", tmp_path / "f.h5", 5, resolution=8, seed=1, legacy_spline=True)
    calls[:] = [0, 0, 0]
    generate("darcy", tmp_path / "f.h5", 5, resolution=8, chunk=4, legacy_spline=True)
    assert calls[3:] == [3]  # two of five were there
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert whole.parameters["legacy_spline"] == 1


def test_arrays_are_never_in_memory():
    layout = generating._Layout.of(EQUATIONS["navier_stokes"](64, torch.float32), 10**6, "<f4", {})
    assert layout.size > 10**6 * 11 * 64**2 * 4
    assert sum(map(len, layout.head.values())) < 1e5


def test_far_arrays_are_found(tmp_path):
    """Of a file with more than 4 GiB, which is empty but for its last entry."""
    layout = generating._Layout.of(EQUATIONS["poisson"](64, D), 200_000, "<f4", {})
    path = tmp_path / "far.h5"
    with open(path, "wb") as file:
        file.truncate(layout.size)
        for offset, content in layout.head.items():
            file.seek(offset)
            file.write(content[: layout.size - offset])
        file.seek(layout.offsets["tensor"] + 200_000 * 64**2 * 4 - 4)
        file.write(np.array([2.5], "<f4").tobytes())
        file.truncate(layout.size)
    assert float(iv.datasets.open_fields(path)["tensor"][-1][0, -1, -1]) == 2.5


def test_the_legacy_spline_overshoots_and_solves_its_equation():
    a = EQUATIONS["darcy"](32, D).prior.sample(6, seed=0)
    there = nodal(a)
    assert float((there.flatten(1).amin(1) <= 0).double().mean()) > 0.5
    # a polynomial of degree 3 is its own spline, beyond the centres too
    x, z = (torch.arange(12, dtype=D) + 0.5) / 12, torch.linspace(0, 1, 12, dtype=D)
    cubic = (x**3 - x)[:, None] * (1 + x**2)
    assert torch.allclose(nodal(cubic[None])[0], (z**3 - z)[:, None] * (1 + z**2), rtol=0, atol=1e-12)
    # of a constant coefficient it is Poisson's equation at nodes, splined back
    nodes = iv.operators.pde.Poisson(iv.CartesianGrid((30, 30), points="interior"))
    u = torch.nn.functional.pad(-nodes(torch.full((1, 30, 30), 0.5, dtype=D)), (1, 1, 1, 1))[0]
    found = legacy_solution(torch.full((1, 32, 32), 2.0, dtype=D))[0]
    assert torch.allclose(found[15, 15], u[15:17, 15:17].mean(), rtol=1e-2)
    # and close to the clean one of the same medium
    clean = EQUATIONS["darcy"](32, D).solution(a)
    assert float((legacy_solution(a) - clean).norm() / clean.norm()) < 0.2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"name": "heat"}, InputError, "'darcy'"),
        ({"count": 0}, InputError, "`count`"),
        ({"resolution": 3}, InputError, "`resolution`"),
        ({"seed": 2**64}, InputError, "`seed`"),
        ({"chunk": 0}, InputError, "`chunk`"),
        ({"dtype": torch.float16}, InputTypeError, "`dtype`"),
        ({"legacy_spline": 1}, InputTypeError, "`legacy_spline`"),
        ({"legacy_spline": True}, InputError, "False, but for 'darcy'"),
        ({"path": "x.nc"}, InputError, r"named \.h5"),
        ({"path": "nowhere/x.h5"}, InputError, "a folder that exists"),
        ({"path": 3}, InputTypeError, "`path`"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, monkeypatch, given, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        generate(**({"name": "poisson", "path": "x.h5", "count": 1, "resolution": 4} | given))
    assert list(tmp_path.iterdir()) == []


def test_what_exists_stays(tmp_path):
    generate("poisson", tmp_path / "x.h5", 1, resolution=4)
    before = (tmp_path / "x.h5").read_bytes()
    with pytest.raises(InputError, match="`path` must be free"):
        generate("poisson", tmp_path / "x.h5", 1, resolution=4)
    assert (tmp_path / "x.h5").read_bytes() == before
