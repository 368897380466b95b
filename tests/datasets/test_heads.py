"""Random heads: the same on every grid and in every batch, tissues that add up, values in their ranges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.cli import main
from invsolve.datasets import band_limited, heads, simulate_mri
from invsolve.datasets.heads.fields import lattice, rotation, seen
from invsolve.errors import FileError, InputError
from invsolve.priors.training import Selection
from invsolve.priors.training.command import Effort, command
from invsolve.priors.training.heads import Heads


def test_a_head_depends_on_seed_and_number_only():
    together = heads.slices(3, (24, 32), seed=5)
    for k in range(3):
        assert torch.equal(heads.slices(1, (24, 32), seed=5, first=k)[0], together[k])
    assert not torch.equal(heads.slices(1, (24, 32), seed=6)[0], together[0])
    assert together.dtype == torch.float32 and together.shape == (3, 24, 32)


def test_grids_see_the_same_head():
    """Means of 2 x 2 points at 64 and at 32 differ by what lies between the points, not by the head."""
    fine = heads.slices(4, (64, 64), seed=1, scalp="kept")
    coarse = heads.slices(4, (32, 32), seed=1, scalp="kept")
    mean = torch.nn.functional.avg_pool2d(fine[:, None], 2)[:, 0]
    inside = mean > 0.1
    assert float((mean - coarse)[inside].abs().mean()) < 0.2 * float(mean[inside].std())
    other = heads.slices(4, (32, 32), seed=2, scalp="kept")
    assert float((mean - other)[inside].abs().mean()) > 2 * float((mean - coarse)[inside].abs().mean())


def test_tissues_add_up():
    parts = heads.tissues(3, (24, 24), seed=0, view="coronal")
    assert parts.shape == (3, len(heads.TISSUES), 24, 24)
    assert torch.allclose(parts.sum(1), torch.ones(3, 24, 24), atol=1e-5) and float(parts.min()) >= 0
    share = parts.mean((0, 2, 3))
    for tissue in ("air", "fat", "bone", "csf", "grey", "white", "deep grey"):
        assert float(share[heads.TISSUES.index(tissue)]) > 0.003, tissue


def test_a_plane_of_the_volume_is_a_slice_of_the_head():
    box = heads.volume((3, 16, 16), seed=0, number=2, extent=200.0)
    assert box.shape == (len(heads.TISSUES), 3, 16, 16)
    axis = ((torch.arange(16) + 0.5) / 16 - 0.5) * 200.0
    y, z = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([torch.zeros(256), y.flatten(), z.flatten()], 1)
    assert torch.allclose(heads.Head(0, 2).tissues(points).view(-1, 16, 16), box[:, 1], atol=1e-5)


@pytest.mark.parametrize("contrast", ["T1", "T2", "PD", "free", "random"])
def test_magnitudes_and_stripped_brains(contrast):
    kept = heads.slices(2, (32, 32), contrast=contrast, scalp="kept", view="axial", seed=3)
    brain = heads.slices(2, (32, 32), contrast=contrast, scalp="stripped", view="axial", seed=3)
    assert 0 <= float(kept.min()) and 0.5 < float(kept.max()) < 3
    assert bool(((brain == 0).flatten(1).sum(1) > (kept == 0).flatten(1).sum(1)).all())
    assert float((brain == 0).float().mean()) > 0.3


def test_contrasts_are_in_the_order_of_their_name():
    """White matter brightest in T1, fluid in T2: means over pixels that are nearly pure."""
    parts = heads.tissues(6, (48, 48), seed=4, view="axial")
    pure = {t: parts[:, heads.TISSUES.index(t)] > 0.95 for t in ("white", "csf")}
    t1, t2 = (heads.slices(6, (48, 48), seed=4, contrast=c, view="axial", scalp="kept") for c in ("T1", "T2"))
    assert float(t1[pure["white"]].mean()) > 1.5 * float(t1[pure["csf"]].mean())
    assert float(t2[pure["csf"]].mean()) > 1.5 * float(t2[pure["white"]].mean())


def test_ct_numbers():
    image = heads.ct(2, (32, 32), seed=0)
    assert -1000.5 < float(image.min()) < -990 and 400 < float(image.max()) < 1700
    parts = heads.tissues(2, (32, 32), seed=0, view="axial")
    brain = parts[:, heads.TISSUES.index("white")] > 0.95
    assert 20 < float(image[brain].mean()) < 40


def test_fields_have_unit_variance_and_their_gradient():
    field = lattice("folds", 30.0, 0.25)
    assert torch.equal(field[..., 0], field[..., -1])  # periodic
    inside = field[0, :, :-1, :-1, :-1]
    assert float(inside[0].var()) == pytest.approx(1.0, abs=1e-3)
    turn = rotation(torch.tensor([0.3, 0.7, 0.1]))
    assert torch.allclose(turn @ turn.mT, torch.eye(3), atol=1e-6) and float(torch.linalg.det(turn)) == pytest.approx(
        1.0, abs=1e-5
    )
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0)) * 40
    values, slope = seen(field, x, turn, torch.zeros(3))
    step = 1.0
    partial = [
        (seen(field, x + step * e, turn, torch.zeros(3))[0] - seen(field, x - step * e, turn, torch.zeros(3))[0])
        / (2 * step)
        for e in torch.eye(3)
    ]
    found = torch.stack(partial).square().sum(0).sqrt()
    assert float((found - slope).abs().mean()) < 0.1 * float(slope.mean())
    again = seen(field, x + turn.mT @ torch.tensor([192.0, 0, 0]), turn, torch.zeros(3))[0]
    assert torch.allclose(again, values, atol=1e-3)  # a period further


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: heads.slices(0, (8, 8)), "`n`"),
        (lambda: heads.slices(1, (8,)), "shape"),
        (lambda: heads.slices(1, (8, 8), contrast="T3"), "contrast"),
        (lambda: heads.slices(1, (8, 8), view="x"), "view"),
        (lambda: heads.slices(1, (8, 8), scalp="x"), "scalp"),
        (lambda: heads.slices(1, (8, 8), first=-1), "first"),
        (lambda: heads.tissues(1, (8, 8), view="x"), "view"),
        (lambda: heads.ct(1, (8, 8), view="x"), "view"),
        (lambda: heads.volume((8, 8)), "three axes"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_a_scan_shows():
    """`band_limited` is the truth of a simulated scan without its phase."""
    image = heads.slices(1, (64, 64), seed=0)[0]
    scan = simulate_mri(image, grid=(32, 32), acceleration=2.0, phase_strength=0.0)
    assert torch.allclose(band_limited(image, (32, 32)), scan.truth, atol=1e-5)


# --- training signals ---------------------------------------------------------------------------------------------------
def test_a_pool_of_heads(tmp_path):
    pool = Heads(grid=16, size=6, cache=tmp_path / "pool.npy", fine=32)
    again = Heads(grid=16, size=6, cache=tmp_path / "pool.npy")
    assert torch.equal(pool.pool, again.pool) and pool.shape == (16, 16) and pool.complex
    x = pool.read(range(12), 0)
    assert x.shape == (12, 16, 16) and x.dtype == torch.complex64
    assert torch.equal(pool.read([7], 0)[0], x[7])  # by its number, whatever the batch
    angles = x[:, 8, 8].angle()
    assert float(angles.std()) > 0.5  # an arbitrary phase
    assert Heads(grid=16, size=None, cache=tmp_path / "pool.npy").size == 6
    with pytest.raises(InputError, match="without a cache"):
        Heads(grid=16, size=None)
    with pytest.raises(FileError, match="State `size`"):
        Heads(grid=16, size=None, cache=tmp_path / "none.npy")
    ct = Heads(grid=16, size=2, what="ct", fine=32)
    assert not ct.complex
    fine = heads.ct(2, (32, 32)).view(2, 16, 2, 16, 2).mean((2, 4))  # no pixel is below air, as ringing would be
    assert torch.allclose(ct.pool.float(), fine, atol=0.5) and -1000 <= float(ct.read([0], 0).min()) < -900
    with pytest.raises(FileError, match="expected"):
        Heads(grid=8, size=6, cache=tmp_path / "pool.npy")
    (tmp_path / "bad.npy").write_bytes(b"no")
    with pytest.raises(FileError, match="no .npy file"):
        Heads(grid=16, size=6, cache=tmp_path / "bad.npy")
    with open(tmp_path / "lie.npy", "wb") as file:  # 512 TiB: no memory is asked for before the file is looked at
        header = {"descr": "<f2", "fortran_order": False, "shape": (2**40, 16, 16)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    with pytest.raises(FileError, match="is no .npy file, or is damaged"):
        Heads(grid=16, size=6, cache=tmp_path / "lie.npy")
    with pytest.raises(InputError, match="what"):
        Heads(grid=16, size=1, what="pet")
    with pytest.raises(InputError, match="fine"):
        Heads(grid=16, size=1, fine=15)


@pytest.mark.slow
def test_the_command_trains_a_prior(tmp_path):
    effort = Effort(fewest=8, fine=40, selection=Selection(measured=32, held_out=8))
    command("heads", resolution=16, hours=0.001, width=8, out=tmp_path / "t", effort=effort, say=lambda text: None)
    names = {f.name for f in (tmp_path / "t").iterdir()}
    assert {"prior.safetensors", "card.md", "samples.png", "loss.png", "16", "heads-16.npy"} == names
    prior = iv.priors.load(tmp_path / "t" / "prior.safetensors")
    assert prior.kind == "complex" and prior.shape == (16, 16)
    card = (tmp_path / "t" / "card.md").read_text()
    assert "random heads made of formulas" in card and "--hours 0.001" in card
    assert main(["train", "cats", "--out", str(tmp_path / "c")]) == 1
    assert main(["train", "heads", "--resolution", "20", "--out", str(tmp_path / "c")]) == 1


@pytest.mark.slow
def test_stages_and_a_field(tmp_path, capsys):
    arguments = ["--resolution", "64", "--hours", "0.0015", "--width", "8", "--out", str(tmp_path)]
    assert main(["train", "gaussian-field", *arguments]) == 0
    said = capsys.readouterr().out.splitlines()
    prior = iv.priors.load(tmp_path / "prior.safetensors")
    assert [line.split(":")[0] for line in said if "minutes" in line] == ["32 x 32", "64 x 64"]
    assert prior.shape == (64, 64) and prior.card["stages"].startswith("32 x 32 (")
