"""Other people's networks as priors: plain functions, modules of several habits, denoisers of deepinv."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, UnsupportedError
from invsolve.priors import DDPM, EDM, VE, VP, Direct, Flow, Scheduled, from_deepinv, from_network

NOISE = Scheduled(what="noise", schedule=VP())


class Made(torch.nn.Module):
    """A module that answers as it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, z, time):
        self.seen = z, time
        return self.answer(z, time)


def test_a_function_is_a_prior_and_moves():
    """w ~ N(0, 1) under straight paths: u = e - w has mean ((t - (1 - t)) / (t^2 + (1 - t)^2)) z."""

    def velocity(z, t):  # the network sees a channel axis
        t = t[:, None, None, None]
        return (2 * t - 1) / (t**2 + (1 - t) ** 2) * z

    x, level = torch.randn(4, 2, 3, dtype=torch.float64), torch.tensor([0.1, 1.0, 10.0, 100.0], dtype=torch.float64)
    want = 5 + 100 / (100 + level**2)[:, None, None] * (x - 5)

    prior = from_network(velocity, Scheduled(what="velocity", schedule=Flow()), shape=(2, 3), unit=10.0, offset=5.0)
    assert prior.dtype == torch.float32 and prior.to(dtype=torch.float64).dtype == torch.float64
    assert torch.allclose(prior.to(dtype=torch.float64).denoise(x, level), want, rtol=1e-12)
    assert torch.allclose(prior.denoise(x.float(), level).double(), want, atol=1e-4)
    value, pull = prior.to(dtype=torch.float64).pullback(x, level)
    assert torch.allclose(pull(x), 100 / (100 + level**2)[:, None, None] * x, rtol=1e-9)
    again = from_network(velocity, Scheduled(what="velocity", schedule=Flow()), shape=(2, 3), unit=10.0, offset=5.0)
    assert prior.fingerprint() == again.fingerprint() != prior.rescaled(2.0).fingerprint()


def test_a_solve_with_a_function():
    """The posterior of white noise under an identity is known: variance v / (1 + v), mean y / (1 + v)."""
    prior = from_network(lambda z, c: 0 * z, EDM(), shape=(40,), scale=1.0)  # F = 0: D of N(0, 1)
    A = iv.operators.Mask(mask=torch.ones(40, dtype=torch.bool))
    y = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    strategy = iv.strategies.MMPS(covariance="jacobian", max_iter=5)
    result = iv.solve(A, y, prior, noise=1.0, strategy=strategy, num_samples=500)
    error = (0.5 / 500) ** 0.5  # of a mean, the std of a sample being sqrt(1/2)
    assert float((result.mean - y / 2).abs().max()) < 5 * error
    bias = 3.9e-3 * (64 / 50) ** 2  # of the variance, by the sampler's steps: it is of order 2 (arXiv 2206.00364)
    assert float(result.std.square().mean()) == pytest.approx(0.5, abs=5 * 0.5 * (2 / (500 * 40)) ** 0.5 + bias)


def test_defaults():
    prior = from_network(Made(lambda z, t: z), NOISE, shape=(3, 8, 8), unit=0.5)
    assert prior.channels == "first" and prior.sigma_range == pytest.approx(tuple(s / 2 for s in VP().levels))
    assert (prior.scale, prior.detail) == (5.0, 0.01) and not prior.network.training
    assert from_network(Made(lambda z, t: z), NOISE, shape=(8, 8)).channels == "hidden"
    assert from_network(Made(lambda z, t: z), NOISE, shape=(2, 8, 8), kind="complex").channels == "hidden"
    volume = from_network(Made(lambda z, t: z), NOISE, shape=(4, 8, 8), channels="hidden")
    volume.denoise(torch.zeros(2, 4, 8, 8), 1.0)
    assert volume.network.seen[0].shape == (2, 1, 4, 8, 8) and volume.network.seen[1].shape == (2,)
    little = from_network(Made(lambda z, s: z), Direct(), shape=(8,), sigma_range=(0.01, 0.2))
    assert little.scale == pytest.approx(0.02)  # noise does not reach further


def test_answers_of_several_habits():
    """A tensor, a tuple, an object with `sample` (diffusers), twice the channels, a lower precision."""
    x = torch.ones(2, 4, 4)
    answers = [
        lambda z, t: z / 2,
        lambda z, t: (z / 2, 3),
        lambda z, t: SimpleNamespace(sample=z / 2),
        lambda z, t: torch.cat([z / 2, z * 9], 1),
        lambda z, t: (z / 2).bfloat16(),
    ]
    found = [from_network(Made(a), NOISE, shape=(4, 4)).denoise(x, 1.0) for a in answers]
    for value in found[1:]:
        assert torch.allclose(value, found[0], atol=2e-3) and value.dtype == torch.float32
    table = Made(lambda z, k: torch.nn.functional.embedding(k, torch.ones(1000, 1))[:, :, None, None] * z)
    rounded = from_network(table, Scheduled(what="noise", schedule=DDPM(rounded=True)), shape=(4, 4))
    assert torch.isfinite(rounded.denoise(x, 1.0)).all() and table.seen[1].dtype == torch.int64


@pytest.mark.parametrize(
    ("prediction", "answer", "error", "message"),
    [
        (
            NOISE,
            lambda z, t: z[:, :, :1],
            InputError,
            r"returns the shape that it is given, \(2, 1, 4, 4\), got \(2, 1, 1, 4\)",
        ),
        (NOISE, lambda z, t: z[:, 0], InputError, "returns the shape"),
        (NOISE, lambda z, t: z[:1], InputError, "returns the shape"),
        (NOISE, lambda z, t: torch.cat([z] * 3, 1), InputError, "returns the shape"),
        (EDM(), lambda z, t: torch.cat([z] * 2, 1), InputError, "returns the shape"),
        (NOISE, lambda z, t: "z", InputTypeError, "returns a tensor, got Made"),
        (NOISE, lambda z, t: z > 0, InputTypeError, "returns real numbers, got torch.bool"),
        (NOISE, lambda z, t: torch.complex(z, z), InputTypeError, "returns real numbers"),
    ],
)
def test_other_answers_are_refused(prediction, answer, error, message):
    prior = from_network(Made(answer), prediction, shape=(4, 4))
    with pytest.raises(error, match=message):
        prior.denoise(torch.zeros(2, 4, 4), 1.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": 3}, InputTypeError, "`network` must be a torch.nn.Module or a function"),
        ({"prediction": "eps"}, InputTypeError, "`prediction`"),
        ({"prediction": Direct()}, InputError, r"`sigma_range` must be stated with Direct\(\)"),
        ({"prediction": Scheduled(what="score", schedule=VE())}, InputError, "`sigma_range` must be stated"),
        ({"shape": 3}, InputTypeError, "`shape`"),
        ({"kind": "x"}, InputError, "`kind`"),
        ({"unit": 0.0}, InputError, "`unit`"),
        ({"channels": "last"}, InputError, "`channels`"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        from_network(**({"network": Made(lambda z, t: z), "prediction": NOISE, "shape": (4, 4)} | options))


# --- deepinv -----------------------------------------------------------------------------------------------------------
def models():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deepinv's own imports
        import deepinv

    return deepinv.models


def randomised(network):
    torch.manual_seed(0)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.02)
    return network.eval()


SMALL = dict(img_resolution=16, model_channels=32, num_blocks=1, channel_mult=(1, 1), pretrained=None)
DENOISERS = {
    "NCSNpp, [-1, 1]": (lambda m: m.NCSNpp(_was_trained_on_minus_one_one=True, pixel_std=0.5, **SMALL), (0.001, 40.0)),
    "NCSNpp as DDPM++": (lambda m: m.NCSNpp(model_type="ddpm", **SMALL), (0.003, 120.0)),
    "ADMUNet": (lambda m: m.ADMUNet(pixel_std=0.5, **SMALL), (0.002, 80.0)),
}


@pytest.mark.parametrize("name", DENOISERS)
def test_edm_denoisers_are_what_they_are_in_deepinv(name):
    make, levels = DENOISERS[name]
    network = randomised(make(models()))
    prior = from_deepinv(network, shape=(3, 16, 16))
    x, level = torch.rand(2, 3, 16, 16), torch.tensor([0.1, 0.3])
    with torch.no_grad():
        want = network(x, level)
    assert torch.allclose(prior.denoise(x, level), want, atol=1e-6) and prior.sigma_range == pytest.approx(levels)
    assert torch.allclose(prior.to(dtype=torch.float64).denoise(x.double(), level).float(), want, atol=1e-5)
    other = from_deepinv(network, shape=(3, 16, 16), offset=10.0, unit=100.0)
    assert torch.allclose(other.denoise(10 + 100 * x, 100 * level), 10 + 100 * want, atol=1e-3)


def test_diffunet_is_what_it_is_in_deepinv_but_for_rounding_and_clamping():
    """At levels of its table, and where deepinv does not clamp, the two agree; on 32 x 32 images, and on odd sizes."""
    network = randomised(models().DiffUNet(pretrained=None))
    level = DDPM().sigma(torch.tensor([30.0, 200.0])) / 2  # of images in [0, 1]
    x = 0.4 + 0.2 * torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        want = network(x, level.float(), type_t="noise_level")
    assert 0 < float(want.min()) and float(want.max()) < 1
    prior = from_deepinv(network, shape=(3, 32, 32))
    assert torch.allclose(prior.denoise(x, level), want, atol=1e-5)
    assert prior.sigma_range == pytest.approx(tuple(s / 2 for s in DDPM().levels))


def test_drunet_and_other_denoisers_are_called_with_a_level():
    m = models()
    network = randomised(m.DRUNet(in_channels=2, out_channels=2, nc=[8, 8, 8, 8], nb=1, pretrained=None))
    prior = from_deepinv(network, shape=(16, 16), kind="complex", unit=3.0)
    z = torch.randn(2, 16, 16, dtype=torch.complex64)
    level = torch.tensor([0.05, 0.1])
    with torch.no_grad():
        want = network(torch.stack([z.real, z.imag], 1), level)
    assert torch.allclose(prior.denoise(3 * z, 3 * level), 3 * torch.complex(want[:, 0], want[:, 1]), atol=1e-5)
    assert prior.sigma_range == pytest.approx((0.003, 0.6)) and prior.scale == pytest.approx(0.06)
    blur = m.MedianFilter(kernel_size=3)
    with pytest.raises(InputError, match="`sigma_range` must be stated"):
        from_deepinv(blur, shape=(16, 16))
    plain = from_deepinv(blur, shape=(16, 16), sigma_range=(0.01, 1.0))
    x = torch.rand(2, 16, 16)
    assert torch.equal(plain.denoise(x, 0.1)[:, None], blur(x[:, None], 0.1))


def test_what_is_no_law_is_refused():
    with pytest.raises(InputTypeError, match="`denoiser` must be a deepinv.models.Denoiser, got Linear"):
        from_deepinv(torch.nn.Linear(1, 1), shape=(4, 4))
    with pytest.raises(UnsupportedError, match="this ADMUNet is conditional on a class"):
        from_deepinv(models().ADMUNet(label_dim=3, **SMALL), shape=(3, 16, 16))


def test_importing_invsolve_does_not_import_deepinv():
    import subprocess
    import sys

    code = "import invsolve, sys; sys.exit('deepinv' in sys.modules or 'safetensors.torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
