"""Networks as priors: axes, complex signals, calls, derivatives, the U-Net, and solves with them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import invsolve as iv
from invsolve.core.conjugate_gradients import conjugate_gradients
from invsolve.errors import InputError, InputTypeError
from invsolve.priors import NetworkPrior
from invsolve.priors.networks import UNet, UNetConfig


def unet(channels=1, seed=0, **more):
    torch.manual_seed(seed)
    net = UNet(UNetConfig(channels=channels, width=8, multipliers=(1, 2), blocks=1, **more))
    for p in net.parameters():  # the last layers start at zero
        torch.nn.init.normal_(p, std=0.1)
    return net.eval()


def prior(shape=(8, 12), channels=1, **more):
    options = {"scale": 3.0, "sigma_range": (0.01, 50.0)} | more
    return NetworkPrior(network=unet(channels), shape=shape, **options)


def test_axes_are_hidden_and_given_back():
    x = torch.randn(3, 8, 12)
    one = prior()
    found = one.denoise(x, 0.5)
    assert found.shape == x.shape
    first = NetworkPrior(network=one.network, shape=(1, 8, 12), channels="first", scale=3.0, sigma_range=(0.01, 50.0))
    assert torch.equal(first.denoise(x[:, None], 0.5)[:, 0], found)


def test_complex_signals_are_two_channels():
    both = prior(channels=2, kind="complex")
    z = torch.randn(3, 8, 12, dtype=torch.complex64)
    w = torch.stack([z.real, z.imag], 1)
    first = NetworkPrior(network=both.network, shape=(2, 8, 12), channels="first", scale=3.0, sigma_range=(0.01, 50.0))
    found, same = both.denoise(z, 0.5), first.denoise(w, 0.5)
    assert torch.allclose(torch.stack([found.real, found.imag], 1), same, atol=1e-6)


def test_the_denoiser_is_the_identity_without_noise():
    x = torch.randn(2, 8, 12, dtype=torch.float64)
    made = prior().to(dtype=torch.float64)
    for sigma in (1e-3, 1e-5):
        # c_out = sigma d / sqrt(sigma^2 + d^2): what the network adds vanishes with sigma, the skip is 1 - sigma^2
        assert float((made.denoise(x, sigma) - x).abs().max()) < 10 * sigma


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_a_network_that_returns_nothing_beside_a_law_is_the_law(kind):
    """In units, with an offset, on any device of the law; rescaled, moved and resampled, too."""

    class Nothing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))  # so that the law is not rounded

        def forward(self, x, c):
            return 0 * x

    field = iv.priors.GaussianFieldPrior(
        shape=(8, 12), spectrum=iv.priors.Matern(std=2.0, length=0.2), basis="periodic", mean=0.7, kind=kind
    ).to(dtype=torch.float64)
    made = NetworkPrior(
        network=Nothing(),
        shape=(8, 12),
        kind=kind,
        scale=field.scale,
        sigma_range=(0.01, 50.0),
        unit=2.0,
        offset=0.3,
        law=field.law,
        mean=field.mean,
        prediction=iv.priors.BesideLaw(),
    )
    made = made.to(dtype=torch.float64)
    for sigma in (1e-6, 0.1, 3.0, 1e4):
        x = field.sample(3, seed=1) + sigma * torch.randn(3, 8, 12, dtype=field.mean.dtype)
        want = field.denoise(x, sigma)
        assert torch.allclose(made.denoise(x, sigma), want, rtol=1e-10, atol=1e-10 * float(x.abs().max()))
        big = made.rescaled(10.0).denoise(10 * x, 10 * sigma)
        assert torch.allclose(big, 10 * want, rtol=1e-9, atol=1e-8 * float(x.abs().max()))
    with pytest.raises(InputError, match=r"NetworkPrior: `law` must be given with BesideLaw"):
        NetworkPrior(
            network=Nothing(), shape=(8, 12), scale=1.0, sigma_range=(0.01, 50.0), prediction=iv.priors.BesideLaw()
        )


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 12), (3, 3)])
def test_any_size(size):
    made = prior(size)
    assert made.denoise(torch.randn(2, *size), 1.0).shape == (2, *size)


def test_an_untrained_network_returns_zero_and_rows_are_alone():
    torch.manual_seed(0)
    fresh = UNet(UNetConfig(channels=2, width=16))
    assert torch.equal(fresh(torch.randn(2, 2, 8, 8), torch.zeros(2)), torch.zeros(2, 2, 8, 8))
    made, x = prior(), torch.randn(4, 8, 12)
    levels = torch.tensor([0.1, 1.0, 5.0, 20.0])
    together = made.denoise(x, levels)
    other = made.denoise(torch.cat([x[:1], torch.full((3, 8, 12), float("nan"))]), levels)
    assert torch.equal(other[0], together[0])
    for i in range(4):
        assert torch.allclose(made.denoise(x[i : i + 1], float(levels[i])), together[i : i + 1], atol=1e-5)


def test_the_derivative_is_that_of_the_denoiser():
    made = prior().to(dtype=torch.float64)
    x, v = torch.randn(2, 2, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value, pull = made.pullback(x, 0.7)
    assert torch.equal(value, made.denoise(x, 0.7)) and not made.cheap_pullback
    e = torch.randn(x.shape, dtype=torch.float64)
    forward = (made.denoise(x + 1e-6 * e, 0.7) - made.denoise(x - 1e-6 * e, 0.7)) / 2e-6
    assert float((forward * v).sum()) == pytest.approx(float((e * pull(v)).sum()), rel=1e-6)


def test_moves_rescales_and_hashes():
    made = prior(offset=0.5, unit=2.0, detail=0.1)
    double = made.to(dtype=torch.float64)
    assert double.dtype == torch.float64 and made.dtype == torch.float32
    x = torch.randn(2, 8, 12)
    assert torch.allclose(double.denoise(x.double(), 1.0).float(), made.denoise(x, 1.0), atol=1e-5)
    big = made.rescaled(100.0)
    assert torch.allclose(big.denoise(100 * x, 100.0), 100 * made.denoise(x, 1.0), atol=1e-3)
    assert big.detail == pytest.approx(10.0) and made.rescaled(1.0).fingerprint() == made.fingerprint()
    assert big.fingerprint() != made.fingerprint() != double.fingerprint()
    with torch.no_grad():
        next(double.network.parameters()).add_(1.0)
    assert double.fingerprint() != made.to(dtype=torch.float64).fingerprint()


def test_solve_counts_and_reproduces():
    made = prior()
    A = iv.operators.Mask(mask=torch.rand(8, 12, generator=torch.Generator().manual_seed(0)) < 0.5)
    y = A(torch.randn(2, 8, 12))
    strategy = iv.strategies.MMPS(covariance="jacobian", max_iter=3, num_steps=5)
    result = iv.solve(A, y, made, noise=0.3, strategy=strategy, num_samples=2)
    nothing = iv.operators.Mask(mask=torch.zeros(8, 12, dtype=torch.bool))
    blind = iv.solve(
        nothing, 0 * y, made, noise=0.3, strategy=strategy, num_samples=2
    )  # no step of conjugate gradients
    assert bool(blind.samples.isfinite().all()) and blind.status is iv.Status.SUCCESS
    assert result.nfe == 5 and 5 < result.vjps <= 15
    one = iv.strategies.MMPS(covariance="jacobian", max_iter=1, num_steps=5)
    assert iv.solve(A, y, made, noise=0.3, strategy=one, num_samples=2).vjps == 5  # none to apply what was found
    assert all(p.grad is None and not p.requires_grad for p in made.network.parameters())
    again = iv.solve(A, y[:1], made, noise=0.3, strategy=strategy, num_samples=2)
    assert torch.allclose(again.samples[:, 0], result.samples[:, 0], atol=1e-3)


def test_solves_through_a_network_know_the_least_curvature(monkeypatch):
    """Without it a sample can go astray (docs/design/learned.md); exact denoisers have no need of it."""
    known = []

    def recorded(*args, **options):
        known.append(options["least"])
        return conjugate_gradients(*args, **options)

    monkeypatch.setattr("invsolve.strategies.guidance.mmps.conjugate_gradients", recorded)
    A = iv.operators.Mask(mask=torch.ones(8, 12, dtype=torch.bool))
    exact = iv.priors.GaussianFieldPrior(shape=(8, 12), spectrum=iv.priors.Matern(std=1.0, length=0.2))
    for one in (prior(), exact):
        strategy = iv.strategies.MMPS(covariance="jacobian", num_steps=2)
        iv.solve(A, torch.ones(1, 8, 12), one, noise=0.3, strategy=strategy, num_samples=1)
    assert known == [0.99, 0.99, 0.0, 0.0]


def test_a_law_is_checked():
    law = iv.priors.GaussianFieldPrior(shape=(8, 12), spectrum=iv.priors.Matern(std=1.0, length=0.2)).law
    assert prior(law=law.to(dtype=torch.float64)).law.mean.dtype == torch.float32
    for bad, message in (("x", "GaussianLaw"), (replace(law, mean=law.mean + 0j), "of real signals")):
        with pytest.raises(InputTypeError, match=message):
            prior(law=bad)
    with pytest.raises(InputError, match=r"of signals of shape \(4, 4\)"):
        prior(shape=(4, 4), law=law)


def test_a_network_beside_a_law_of_one_grid_stays_there():
    made = beside_law()
    dense = iv.priors.training.estimate_law(torch.randn(50, 8, 12), form="low rank", rank=3)
    A = iv.operators.Mask(mask=torch.ones(8, 8, dtype=torch.bool))
    problem = iv.Problem(A, torch.randn(1, 8, 8), noise=0.1)
    flat = replace(dense, mean=torch.zeros(8, 12))
    with pytest.raises(iv.errors.UnsupportedError, match="has one grid"):
        replace(made, law=flat).on(problem, keep="pixel")
    with pytest.raises(InputTypeError, match=r"an iv.Problem"):
        made.on("data")


def beside_law(levels=(0.01, 500.0)):
    field = iv.priors.GaussianFieldPrior(
        shape=(8, 12), spectrum=iv.priors.Matern(std=1.0, length=0.2), basis="periodic"
    )
    network = unet()
    for p in network.head.parameters():  # so that it is close to the law, and not it
        p.data.mul_(0.05)
    return NetworkPrior(
        network=network,
        shape=(8, 12),
        scale=field.scale,
        sigma_range=levels,
        law=field.law,
        mean=field.mean,
        detail=0.1,
        prediction=iv.priors.BesideLaw(),
    )


def test_rows_with_levels_of_their_own_choose_for_themselves():
    made = beside_law()
    mask = torch.rand(2, 8, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    A = iv.operators.Mask(mask=mask, in_shape=(8, 12))
    problem = iv.Problem(
        A, A(torch.randn(2, 8, 12)), noise=iv.noise.Gaussian(std=torch.tensor([0.01, 1.0]).view(2, 1, 1))
    )
    x, t = torch.randn(2, 8, 12), torch.tensor([6.0, 1.0]).view(2, 1, 1)  # on either side of twice the rms
    guidance = iv.strategies.MMPS().guidance
    both = guidance.bind(problem, made)(x, t)[0]
    bound = guidance.bind(problem, made)
    assert torch.equal(both[0], bound.law(x, t)[0][0]) and torch.equal(both[1], bound.jacobian(x, t)[0][1])
    law = iv.strategies.MMPS(covariance="law").guidance.bind(problem, made)(x, t)[0]
    assert not torch.allclose(law[1], both[1], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"network": 3}, InputTypeError, "`network` must be a torch.nn.Module"),
        ({"prediction": "eps"}, InputTypeError, "`prediction`"),
        ({"kind": "x"}, InputError, "`kind`"),
        ({"channels": "x"}, InputError, "`channels`"),
        ({"channels": "first", "kind": "complex"}, InputError, "`channels` must be 'hidden' for complex"),
        ({"scale": 0.0}, InputError, "`scale`"),
        ({"unit": -1.0}, InputError, "`unit`"),
        ({"detail": 0.0}, InputError, "`detail`"),
        ({"sigma_range": (1.0, 0.5)}, InputError, "low < high"),
        ({"sigma_range": (0.0, 0.5)}, InputError, r"sigma_range\[0\]"),
        ({"offset": torch.zeros(3)}, InputError, "`offset` must be a number or of shape"),
        ({"mean": float("nan")}, InputError, "mean"),
    ],
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        NetworkPrior(**({"network": unet(), "shape": (8, 12), "scale": 1.0, "sigma_range": (0.1, 9.0)} | options))


def test_a_level_for_every_entry_is_refused():
    with pytest.raises(InputError, match="one noise level for every row"):
        prior().denoise(torch.zeros(1, 8, 12), torch.ones(1, 8, 12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels"),
        ({"width": 12}, "multiple of 8"),
        ({"blocks": 0}, "blocks"),
        ({"multipliers": ()}, "multipliers"),
        ({"multipliers": (0,)}, "multipliers"),
        ({"attention": 2}, "attention"),
    ],
)
def test_configs_are_checked(options, message):
    with pytest.raises((InputError, InputTypeError), match=message):
        UNetConfig(**options)


# --- other people's networks -------------------------------------------------------------------------------------------
def deepinv_models():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deepinv's own imports
        import deepinv

        models = deepinv.models
        return {
            "DRUNet": (models.DRUNet(in_channels=1, out_channels=1, nc=[8, 8, 8, 8], nb=1, pretrained=None), (16, 16)),
            "DRUNet, two channels": (
                models.DRUNet(in_channels=2, out_channels=2, nc=[8, 8, 8, 8], nb=1, pretrained=None),
                "complex",
            ),
            "NCSNpp": (
                models.NCSNpp(img_resolution=16, model_channels=32, num_blocks=1, channel_mult=(1, 1), pretrained=None),
                (3, 16, 16),
            ),
            "ADMUNet": (
                models.ADMUNet(
                    img_resolution=16, model_channels=32, num_blocks=1, channel_mult=(1, 1), pretrained=None
                ),
                (3, 16, 16),
            ),
            "DiffUNet": (models.DiffUNet(pretrained=None), (3, 32, 32)),
        }


def test_denoisers_of_deepinv():
    from invsolve.priors import Direct

    for name, (network, shape) in deepinv_models().items():
        kind, shape = ("complex", (16, 16)) if shape == "complex" else ("real", shape)
        channels = "first" if len(shape) == 3 else "hidden"
        prior = NetworkPrior(
            network=network.eval(),
            prediction=Direct(),
            shape=shape,
            kind=kind,
            channels=channels,
            scale=5.0,
            sigma_range=(0.01, 50.0),
        )
        x = torch.rand(2, *shape, dtype=torch.complex64 if kind == "complex" else torch.float32)
        level = torch.tensor([0.1, 0.3])
        given = torch.stack([x.real, x.imag], 1) if kind == "complex" else x if channels == "first" else x[:, None]
        with torch.no_grad():
            out = network(given, level)
        want = torch.complex(out[:, 0], out[:, 1]) if kind == "complex" else out if channels == "first" else out[:, 0]
        assert torch.allclose(prior.denoise(x, level), want, atol=1e-6), name
        if name == "DRUNet":
            _, pull = prior.pullback(x, 0.2)
            assert torch.isfinite(pull(x)).all()
            moved = NetworkPrior(
                network=network,
                prediction=Direct(),
                shape=shape,
                scale=500.0,
                offset=10.0,
                unit=100.0,
                sigma_range=(1.0, 5000.0),
            )
            assert torch.allclose(moved.denoise(10 + 100 * x, 100 * level), 10 + 100 * want, atol=1e-3)


def test_the_network_may_be_given_by_position():
    net, options = unet(), {"shape": (8, 12), "scale": 3.0, "sigma_range": (0.01, 50.0)}
    assert NetworkPrior(net, **options).fingerprint() == NetworkPrior(network=net, **options).fingerprint()
    with pytest.raises(TypeError, match="positional"):
        NetworkPrior(net, (8, 12), scale=3.0, sigma_range=(0.01, 50.0))


def test_how_a_prior_is_saved_is_said():
    prior = NetworkPrior(unet(), shape=(8, 12), scale=3.0, sigma_range=(0.01, 50.0))
    with pytest.raises(AttributeError, match="no attribute 'save'. Did you mean iv.priors.save_prior.prior, path"):
        _ = prior.save
    assert not hasattr(prior, "nonsense") and copy.deepcopy(prior).shape == (8, 12)
