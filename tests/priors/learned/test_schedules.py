"""Every parametrisation of a network against the closed form of one Gaussian (arXiv 2206.00364)."""

from __future__ import annotations

import math

import pytest
import torch

from invsolve.errors import InputError
from invsolve.priors import DDPM, EDM, VE, VP, Cosine, Flow, NetworkPrior, Scheduled

MEAN, VARIANCE = 0.3, 0.6  # of the standardised signal, every entry alike
SIGMAS = torch.logspace(-3, math.log10(80), 25, dtype=torch.float64)


class Exact(torch.nn.Module):
    """What a perfect network says of ``z = alpha w + s e`` with ``w ~ N(MEAN, VARIANCE)``."""

    def __init__(self, what, schedule, dtype, doubled=False):
        super().__init__()
        self.what, self.schedule, self.doubled = what, schedule, doubled
        self.unused = torch.nn.Parameter(torch.zeros((), dtype=dtype))

    def forward(self, z, time):
        x = z.double()
        if self.what == "F":
            sigma = (4 * time.double()).exp().view(-1, 1, 1, 1)
            size = (1 + sigma**2).sqrt()
            w = x * size
            return ((self.mean(w, sigma) - w / size**2) * size / sigma).to(z.dtype)
        sigma = self.schedule.sigma(time).view(-1, 1, 1, 1)
        alpha, s = self.schedule.coefficients(sigma)
        w = x / alpha
        D = self.mean(w, sigma)
        noise = (w - D) / sigma
        out = {
            "noise": noise,
            "score": -noise / s,
            "signal": D,
            "v": alpha * noise - s * D,
            "velocity": (noise - D) if self.schedule.noise_last else (D - noise),
        }[self.what]
        return (torch.cat([out, torch.full_like(out, 7.0)], 1) if self.doubled else out).to(z.dtype)

    def mean(self, w, sigma):
        return MEAN + VARIANCE / (VARIANCE + sigma**2) * (w - MEAN)


CASES = {
    "EDM": (EDM(), "F", None),
    "noise, VP": (Scheduled(what="noise", schedule=VP()), "noise", VP()),
    "noise, DDPM": (Scheduled(what="noise", schedule=DDPM()), "noise", DDPM()),
    "noise, cosine": (Scheduled(what="noise", schedule=DDPM(betas="cosine")), "noise", DDPM(betas="cosine")),
    "noise, scaled linear": (
        Scheduled(what="noise", schedule=DDPM(betas="scaled linear")),
        "noise",
        DDPM(betas="scaled linear"),
    ),
    "score, VP": (Scheduled(what="score", schedule=VP(factor=999.0)), "score", VP(factor=999.0)),
    "score, VE": (Scheduled(what="score", schedule=VE()), "score", VE()),
    "signal, VE": (Scheduled(what="signal", schedule=VE(told="log")), "signal", VE(told="log")),
    "signal, VP": (Scheduled(what="signal", schedule=VP()), "signal", VP()),
    "v, cosine": (Scheduled(what="v", schedule=Cosine()), "v", Cosine()),
    "v, VE": (Scheduled(what="v", schedule=VE(told="quarter log")), "v", VE(told="quarter log")),
    "flow, noise at 1": (Scheduled(what="velocity", schedule=Flow()), "velocity", Flow()),
    "flow, noise at 0": (Scheduled(what="velocity", schedule=Flow(noise_at=0)), "velocity", Flow(noise_at=0)),
}


def prior(name, dtype=torch.float64, doubled=False, **more):
    prediction, what, schedule = CASES[name]
    options = {"shape": (2, 3), "scale": 2.0, "sigma_range": (1e-9, 1e9)} | more
    return NetworkPrior(network=Exact(what, schedule, dtype, doubled), prediction=prediction, **options)


def steepness(schedule, sigma):
    """``|d ln sigma / d ln time|``: by how many roundings of its time the level that a network is told is off."""
    if schedule is None:  # c_noise = ln(sigma) / 4
        return sigma.log().abs()
    t = schedule.time(sigma)
    h = 1e-4 * t.abs()
    if isinstance(schedule, DDPM):  # piecewise: the steeper side of every node
        h = h.clamp_min(1.0)
    slope = (schedule.sigma(t + h).log() - schedule.sigma(t - h).log()).abs() / (2 * h)
    return (slope * t.abs()).nan_to_num(posinf=0.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_every_parametrisation_is_the_same_denoiser(name, dtype):
    """Of one Gaussian law, to the roundings of numbers of the size of x and of the time that the network is told."""
    x = torch.randn(len(SIGMAS), 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = (MEAN + (VARIANCE + SIGMAS**2).sqrt()[:, None, None] * x).to(dtype).double()
    want = MEAN + (VARIANCE / (VARIANCE + SIGMAS**2))[:, None, None] * (x - MEAN)
    found = prior(name, dtype).denoise(x.to(dtype), SIGMAS.to(dtype)).double()
    schedule, inside = CASES[name][2], torch.ones(len(SIGMAS), dtype=torch.bool)
    if isinstance(schedule, DDPM):  # k is clamped at the ends of its table
        low, high = schedule.levels
        inside = (SIGMAS > low) & (SIGMAS < high)
    # Two roundings of x and of the time told: for a level that is off by a factor 1 + d, sigma e changes by less than
    # (|x| + sigma) d.
    told = steepness(schedule, SIGMAS).clamp_min(1.0)[:, None, None]
    tolerance = 2 * torch.finfo(dtype).eps * (1 + x.abs() + SIGMAS[:, None, None]) * told
    assert ((found - want).abs() <= tolerance)[inside].all()
    flat = {torch.float64: 1e-12, torch.float32: 1e-6}[dtype] * SIGMAS.clamp_min(1.0)[:, None, None]
    assert ((found - want).abs() <= flat)[inside].all()


@pytest.mark.parametrize("name", ["EDM", "noise, VP", "v, cosine", "flow, noise at 1"])
def test_units_and_offsets(name):
    """A network trained on w = (x - m) / q is a prior of x."""
    own = prior(name)
    other = prior(name, offset=5.0, unit=10.0)
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(other.denoise(5 + 10 * x, 2.0), 5 + 10 * own.denoise(x, 0.2), atol=1e-10)
    scaled = other.rescaled(3.0)
    assert torch.allclose(scaled.denoise(3 * (5 + 10 * x), 6.0), 3 * other.denoise(5 + 10 * x, 2.0), atol=1e-9)
    assert (
        scaled.scale == 6.0
        and scaled.sigma_range == pytest.approx((3e-9, 3e9))
        and torch.allclose(scaled.mean, 3 * other.mean)
    )


def test_a_learned_variance_is_left_out():
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    one, two = (prior("noise, DDPM", doubled=d).denoise(x, 0.5) for d in (False, True))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    "schedule",
    [
        VP(),
        VP(factor=999.0),
        DDPM(),
        DDPM(betas="cosine"),
        Cosine(),
        Flow(),
        Flow(noise_at=0, factor=1000.0),
        VE(),
        VE(told="log"),
    ],
)
def test_round_trips(schedule):
    sigma = torch.logspace(-1.9, 1.9, 40, dtype=torch.float64)
    assert torch.allclose(schedule.sigma(schedule.time(sigma)), sigma, rtol=1e-10)
    alpha, s = schedule.coefficients(sigma)
    assert torch.allclose(s / alpha, sigma, rtol=1e-12)
    assert torch.allclose(alpha + s if schedule.straight else alpha**2 + s**2, torch.ones_like(alpha)) or isinstance(
        schedule, VE
    )


def test_tables_of_the_card():
    """DDPM linear: sigma from 0.0100 to 157.4; cosine: 0.0064 to 2.0e4."""
    ends = torch.tensor([0.0, 999.0])
    assert torch.allclose(DDPM().sigma(ends), torch.tensor([0.0100, 157.4], dtype=torch.float64), rtol=2e-3)
    assert torch.allclose(
        DDPM(betas="cosine").sigma(ends), torch.tensor([0.0064, 2.0e4], dtype=torch.float64), rtol=2e-2
    )
    whole = DDPM(rounded=True).time(torch.tensor([1.0, 0.02]))
    assert whole.dtype == torch.int64 and torch.equal(whole, DDPM().time(torch.tensor([1.0, 0.02])).round().long())
    tiny = torch.tensor([1e-6], dtype=torch.float64)
    assert torch.allclose(VP().sigma(VP().time(tiny)), tiny, rtol=1e-10)  # log1p and expm1


def test_outside_of_the_training_range_only_the_embedding_is_clamped():
    class Told(torch.nn.Module):
        def forward(self, x, c):
            self.told = c
            return torch.zeros_like(x)

    network = Told()
    made = NetworkPrior(network=network, shape=(2, 3), scale=1.0, sigma_range=(0.1, 10.0))
    x = torch.ones(2, 2, 3)
    found = made.denoise(x, torch.tensor([0.01, 100.0]))
    assert torch.allclose(4 * network.told, torch.tensor([0.1, 10.0]).log())
    assert torch.allclose(found[:, 0, 0], 1 / (1 + torch.tensor([0.01, 100.0]) ** 2))  # c_skip is exact


def test_usual_levels():
    """The ends of tables and of training times; nothing where a schedule has no ends."""
    assert DDPM().levels == pytest.approx((0.0100, 157.4), rel=2e-3) and VE().levels is None
    assert VP().levels == VP(factor=999.0).levels and VP().levels[1] == pytest.approx(
        math.sqrt(math.expm1(19.9 / 2 + 0.1))
    )
    assert Flow().levels == pytest.approx((1e-3 / (1 - 1e-3), 999.0)) == Flow(noise_at=0, factor=9.0).levels
    assert Cosine().levels == pytest.approx((math.tan(math.pi / 2e3), 1 / math.tan(math.pi / 2e3)))
    assert EDM(sigma_data=0.5).levels == (0.002, 80.0) and Scheduled(what="noise", schedule=VP()).levels == VP().levels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VE(told="no"), "told"),
        (lambda: VP(beta_min=-1.0), "beta_min"),
        (lambda: DDPM(steps=1), "steps"),
        (lambda: DDPM(beta_start=0.5, beta_end=0.1), "beta_start"),
        (lambda: DDPM(betas="x"), "betas"),
        (lambda: DDPM(rounded=3), "rounded"),
        (lambda: Flow(noise_at=2), "noise_at"),
        (lambda: Flow(factor=0.0), "factor"),
        (lambda: EDM(sigma_data=0.0), "sigma_data"),
        (lambda: Scheduled(what="x", schedule=VP()), "what"),
        (lambda: Scheduled(what="velocity", schedule=VP()), "no velocity"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_obvious_arguments_may_be_given_by_position():
    assert EDM(0.5) == EDM(sigma_data=0.5)
    assert Scheduled("noise", VP()) == Scheduled(what="noise", schedule=VP())
