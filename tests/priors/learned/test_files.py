"""Priors in files: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

import invsolve as iv
from invsolve.errors import FileError, InputTypeError, UnsupportedError
from invsolve.priors import NetworkPrior
from invsolve.priors.networks import UNet, UNetConfig
from invsolve.priors.networks.weights import key_differences
from invsolve.priors.training import estimate_law


def made(kind="real", law="stationary", dtype=torch.float32, prediction=None):
    torch.manual_seed(0)
    network = UNet(UNetConfig(channels=2 if kind == "complex" else 1, width=8, multipliers=(1, 2), blocks=1))
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(50, 4, 6, dtype=torch.complex64 if kind == "complex" else torch.float32)
    fit = None if law is None else estimate_law(x if law == "stationary" else x.real, form=law, rank=3)
    prior = NetworkPrior(
        network=network.eval(),
        shape=(4, 6),
        kind=kind,
        offset=0.3,
        unit=2.0,
        scale=3.0,
        detail=0.1,
        law=fit,
        sigma_range=(0.01, 50.0),
        card={"data": "noise"},
        prediction=prediction or iv.priors.EDM(sigma_data=1.5),
    )
    return prior if dtype == torch.float32 else prior.to(dtype=dtype)


LAWS = [("real", "stationary"), ("complex", "stationary"), ("real", "low rank")]
ROUND_TRIPS = [
    *((*law, p) for law in LAWS for p in (iv.priors.EDM(sigma_data=1.5), iv.priors.BesideLaw())),
    ("real", None, iv.priors.EDM()),
]


@pytest.mark.parametrize(("kind", "law", "prediction"), ROUND_TRIPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trips(tmp_path, kind, law, dtype, prediction):
    prior, path = made(kind, law, dtype, prediction), tmp_path / "p.safetensors"
    iv.priors.save_prior(prior, path)
    back = iv.priors.load(path)
    x = torch.randn(3, 4, 6, dtype=prior.mean.dtype)
    assert back.prediction == prediction
    assert torch.allclose(back.denoise(x, 0.7), prior.denoise(x, 0.7), rtol=1e-6, atol=1e-6) and back.card == {
        "data": "noise"
    }
    assert back.dtype == dtype and back.kind == kind and back.detail == 0.1 and back.sigma_range == (0.01, 50.0)
    if law:
        z = torch.randn(2, *prior.law.modes.mode_shape, dtype=prior.mean.dtype)
        assert torch.allclose(back.law.sample(z), prior.law.sample(z), atol=1e-6)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p.safetensors"]


def test_half_precision(tmp_path):
    prior = made()
    for name, dtype in (("a", None), ("b", torch.float16)):
        iv.priors.save_prior(prior, tmp_path / f"{name}.safetensors", dtype=dtype)
    back = iv.priors.load(tmp_path / "b.safetensors")
    assert back.dtype == torch.float32
    x = torch.randn(3, 4, 6)
    assert torch.allclose(back.denoise(x, 0.7), prior.denoise(x, 0.7), atol=0.05)
    a, b = ((tmp_path / f"{n}.safetensors").stat().st_size for n in "ab")
    assert b < 0.7 * a


def edited(tmp_path, change=None, header=None, tensors=None):
    """A file of a good prior with its header or tensors changed."""
    path = tmp_path / "p.safetensors"
    iv.priors.save_prior(made(), path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        meta = dict(file.metadata())
    values = load_file(path)
    if change is not None:
        about = json.loads(meta["prior"])
        change(about)
        meta["prior"] = json.dumps(about)
    meta |= header or {}
    values = tensors(values) if tensors else values
    save_file(values, path, metadata=meta)
    return path


BAD = {
    "another format": ({"header": {"format": "x"}}, "not a prior of this version"),
    "no JSON": ({"header": {"prior": "{"}}, "does not describe a prior"),
    "not a mapping": ({"header": {"prior": "3"}}, "does not describe a prior"),
    "no network": ({"change": lambda a: a.pop("network")}, "does not describe a prior"),
    "unknown option": ({"change": lambda a: a["network"].update(code="os.system")}, "does not describe a prior"),
    "absurd width": ({"change": lambda a: a["network"].update(width=2**20)}, "absurd network"),
    "absurd shape": ({"change": lambda a: a.update(shape=[2**20, 2**20])}, "absurd size"),
    "other width": (
        {"change": lambda a: a["network"].update(width=16)},
        "does not hold the weights that its header states",
    ),
    "deeper": ({"change": lambda a: a["network"].update(blocks=2)}, "missing: network."),
    "other shape": ({"change": lambda a: a.update(shape=[4, 7])}, r"of another shape: .*law.mean"),
    "missing key": (
        {"tensors": lambda t: {k: v for k, v in t.items() if k != "network.stem.bias"}},
        r"1 missing: network.stem.bias",
    ),
    "extra key": ({"tensors": lambda t: t | {"evil": torch.zeros(1)}}, "1 unexpected: evil"),
    "negative variances": (
        {"tensors": lambda t: t | {"law.variances": -t["law.variances"]}},
        "finite and non-negative",
    ),
    "bad number": ({"change": lambda a: a.update(unit=-1.0)}, "`unit` must be"),
    "bad precision": ({"change": lambda a: a.update(precision="int8")}, "does not describe a prior"),
}


@pytest.mark.parametrize("name", BAD)
def test_mislabelled_files(tmp_path, name):
    options, message = BAD[name]
    with pytest.raises(FileError, match=message):
        iv.priors.load(edited(tmp_path, **options))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a file was run')",))


def test_truncated_foreign_and_hostile_files(tmp_path):
    path = tmp_path / "p.safetensors"
    iv.priors.save_prior(made(), path)
    whole = path.read_bytes()
    for cut in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(FileError, match="cut short or damaged"):
            iv.priors.load(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(FileError, match=r"asks for `[\w.]*exec`, which is code: it is not opened"):
        iv.priors.load(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(FileError, match="none of the layouts that are known"):
        iv.priors.load(path)
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")  # a header of 4 EiB
    with pytest.raises(FileError, match="no safetensors file"):
        iv.priors.load(path)


def test_names_and_types(tmp_path):
    with pytest.raises(FileError, match="no prior of that name ships"):
        iv.priors.load("head-mr-1")
    with pytest.raises(InputTypeError, match="the name of a prior"):
        iv.priors.load(3)
    with pytest.raises(InputTypeError, match="a NetworkPrior"):
        iv.priors.save_prior(3, tmp_path / "a")
    other = NetworkPrior(network=torch.nn.Conv2d(1, 1, 1), shape=(4, 6), scale=1.0, sigma_range=(0.1, 9.0))
    with pytest.raises(UnsupportedError, match=r"not Conv2d with EDM. Save network.state_dict\(\)"):
        iv.priors.save_prior(other, tmp_path / "a")


def test_a_law_without_a_format_is_refused(tmp_path):
    from dataclasses import replace

    from invsolve.priors import DenseModes, GaussianLaw

    modes = DenseModes(shape=(4, 6), matrix=torch.eye(24), scale=torch.ones(4, 6))
    law = GaussianLaw(mean=torch.zeros(4, 6), modes=modes, variances=torch.ones(24))
    with pytest.raises(UnsupportedError, match="has no file format"):
        iv.priors.save_prior(replace(made(law=None), law=law), tmp_path / "a")


def test_differences_in_words():
    many = {f"k{i}": (1,) for i in range(9)}
    assert key_differences(many, {}) == "9 missing: k0, k1, k2, k3, k4 and 4 more"
    assert key_differences({"a": (1,)}, {"a": (2,)}) == "1 of another shape: a (2,) instead of (1,)"
    assert key_differences({}, {}) == ""


def test_predictions_and_weights_that_are_not_known(tmp_path):
    with pytest.raises(FileError, match="prediction"):
        iv.priors.load(edited(tmp_path, change=lambda about: about.update(prediction="Scheduled")))
    with pytest.raises(FileError, match="does not describe a prior"):
        iv.priors.load(edited(tmp_path, change=lambda about: about.update(sigma_range=[1])))

    def spoiled(values):
        return {k: torch.full_like(v, float("nan")) if k == "network.stem.weight" else v for k, v in values.items()}

    with pytest.raises(FileError, match=r"stem.weight"):
        iv.priors.load(edited(tmp_path, tensors=spoiled))
    with pytest.raises(iv.errors.InputError, match="floating point"):
        iv.priors.save_prior(made(), tmp_path / "q.safetensors", dtype=torch.int8)
