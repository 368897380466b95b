"""Learned priors of fields: law, noise and network on every grid of a box."""

from __future__ import annotations

import pytest
import torch

import invsolve as iv
from invsolve.errors import FileError, InputError, InputTypeError, UnsupportedError
from invsolve.gaussian.law import DenseModes
from invsolve.priors import BesideLaw, GaussianFieldPrior, Matern, NetworkPrior, Spectrum, TabulatedSpectrum
from invsolve.priors.learned.field_header import field_of
from invsolve.priors.networks import NeuralOperator, NeuralOperatorConfig
from invsolve.priors.training import Options, Selection, train
from invsolve.priors.training.loss import denoising_loss

NOISE = Matern(std=1.0, length=0.4, smoothness=0.5)
TABLE = TabulatedSpectrum([9.0, 90.0, 900.0], [0.1, 0.004, 0.0001], at_zero=0.3)


def box(n=8, spectrum=TABLE, noise=NOISE, dtype=torch.float64, **more):
    return GaussianFieldPrior((n, n), spectrum, noise_spectrum=noise, dtype=dtype, **more)


def learned(field, *, std=0.0, **more):
    torch.manual_seed(0)
    network = NeuralOperator(NeuralOperatorConfig(width=8, layers=1, modes=6, knots=3)).to(field.dtype)
    for p in network.parameters() if std else ():
        torch.nn.init.normal_(p, std=std)
    scale = float(field.law.variances.max()) ** 0.5
    return NetworkPrior(
        network=network,
        shape=field.shape,
        prediction=BesideLaw(),
        sigma_range=(1e-3, 100.0),
        field=field,
        **({"scale": scale} | more),
    )


def noisy(n=8, rows=3):
    return torch.randn(rows, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("noise", [NOISE, None])
def test_a_network_that_adds_nothing_is_the_field(noise):
    exact = box(noise=noise, mean=0.4)
    prior = learned(box(noise=noise, mean=0.2), offset=-0.2, unit=3.0)  # -0.2 + 3 * 0.2
    exact = GaussianFieldPrior(
        (8, 8),
        TabulatedSpectrum(TABLE.eigenvalues, 9 * TABLE.values, at_zero=2.7),
        noise_spectrum=noise,
        mean=0.4,
        dtype=torch.float64,
    )
    x = noisy()
    for sigma in (0.01, 1.0, 30.0):
        assert torch.allclose(prior.denoise(x, sigma), exact.denoise(x, sigma), rtol=1e-12, atol=1e-12)
    assert prior.white_noise == exact.white_noise == (noise is None)
    assert torch.allclose(prior.noise_covariance(x), exact.noise_covariance(x))
    # of unit level: C^(1/2) twice is C
    assert torch.allclose(prior.noise(prior.noise(x)), exact.noise_covariance(x))
    y = iv.operators.Mask(torch.arange(64).view(8, 8) % 3 == 0)(exact.sample(1, seed=0))
    A = iv.operators.Mask(torch.arange(64).view(8, 8) % 3 == 0)
    # covariance by guidance with the stated law, exact here, against the closed form; 64 draws, 4.5 standard errors
    result = iv.solve(A, y, prior, noise=0.1, strategy=iv.strategies.MMPS(), num_samples=64, seed=1)
    want = exact.posterior(A, y, 0.1)
    gap = (result.samples[:, 0].mean(0) - want.mean[0]) / want.std[0]
    assert float(gap.abs().max()) < 4.5 / 8 + 0.1  # and a tenth for the steps
    ratio = float((result.samples[:, 0].std(0) / want.std[0]).square().mean().sqrt())
    assert ratio == pytest.approx(1, abs=0.1)


def test_on_other_grids_it_is_the_same_distribution():
    prior = learned(box(8), std=0.3, offset=1.0, unit=2.0)
    fine = prior.on((12, 10))
    assert fine.shape == (12, 10)
    assert fine.notes == ("the same distribution on (12, 10) points of its box, (8, 8) before",)
    want = box(8).on((12, 10)).law
    assert torch.allclose(fine.law.variances, 4 * want.variances)
    assert float(fine.law.mean.mean()) == pytest.approx(1.0)
    assert fine.scale == pytest.approx(float(fine.law.variances.max()) ** 0.5)
    assert prior.on((8, 8)).shape == (8, 8)
    # What samples must show: the finest mode of a finer grid, in units of the noise.
    stds = prior.law.variances.sqrt()
    finest = float(fine.law.variances.min()) ** 0.5
    assert finest < 0.99 * float(stds.min())
    told = learned(box(8), offset=1.0, unit=2.0, detail=float(stds.min()))
    assert told.on((12, 10)).detail == pytest.approx(finest)
    assert told.on((4, 4)).detail == told.detail
    assert fine.detail is None
    # Of a field of few modes the network adds the same on every grid.
    sigma = 0.5
    smooth = box(8, spectrum=Spectrum(lambda k2: torch.where(k2 < 40.0, 1.0, 0.0)))
    u = torch.zeros(1, 8, 8, dtype=torch.float64)
    u[0, :2, :2] = torch.tensor([[1.0, 0.5], [-0.7, 0.3]], dtype=torch.float64)
    added = []
    for n in (9, 27, 81):
        here = prior.on((n, n))
        grid = smooth.on((n, n))
        modes = torch.zeros(1, n, n, dtype=torch.float64)
        modes[:, :8, :8] = u * n  # coefficients of the orthonormal transform grow with the root of the points
        x = 1.0 + grid._modes.transform.inverse(modes)
        added.append((here.denoise(x, sigma) - here.law.denoise(x, torch.tensor([sigma]))).double())
    # The scale of what it adds is that of the grid of the training.
    x, level = 1.0 + noisy(9, 1), torch.tensor([sigma / 2], dtype=torch.float64)
    here, seen = prior.on((9, 9)), ((x - 1.0) / 2)[:, None] / (level**2 + 1).sqrt()
    want = 2.0 * box(8).law.left(level) * prior.network(seen, level.log() / 4)[:, 0]
    assert torch.allclose(here.denoise(x, sigma) - here.law.denoise(x, 2 * level), want, rtol=1e-9)
    first = float((added[0] - added[2][:, 4::9, 4::9]).abs().max())
    second = float((added[1] - added[2][:, 1::3, 1::3]).abs().max())
    assert second < first / 4
    assert second < 0.02 * float(added[2].abs().max())


def test_on_a_problem_its_grid_is_taken():
    prior = learned(box(8))
    A = iv.operators.Mask(torch.ones(12, 12, dtype=torch.bool))
    data = box(12).sample(1, seed=3)
    fitted = prior.on(iv.Problem(A, data, 0.1))
    assert fitted.shape == (12, 12)
    assert "the same distribution" in fitted.notes[0]


def test_the_loss_of_a_field_is_one_where_nothing_is_learnt():
    exact = box(6)
    number = 4000
    w = exact.sample(number, seed=0)[:, None]
    sigma = torch.logspace(-2, 1.5, number, dtype=torch.float64)
    noise = exact.noise(torch.randn(number, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    loss = denoising_loss(lambda x, c: torch.zeros_like(x), w, sigma, noise[:, None], exact.law)
    for part in loss.chunk(4):
        error = float(part.std()) / len(part) ** 0.5
        assert abs(float(part.mean()) - 1) < 4.5 * error


def test_the_rms_that_a_law_leaves_is_one_over_entries():
    torch.manual_seed(0)
    scale = torch.rand(5, dtype=torch.float64) + 0.2
    q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    modes = DenseModes(shape=(5,), matrix=q, scale=scale)
    variances = torch.rand(2, 5, dtype=torch.float64)
    S = scale[:, None] * q
    want = torch.stack([(S @ v.diag() @ S.mT).diagonal().mean() for v in variances])
    assert torch.allclose(modes.mean_square(variances), want)
    assert torch.allclose(DenseModes(shape=(5,), matrix=q).mean_square(variances), variances.mean(1))


def test_training_takes_a_field_and_files_keep_it(tmp_path):
    law = box(8, mean=2.0, dtype=torch.float32)

    def data(numbers, seed):
        return torch.cat([law.sample(1, seed=(seed << 20) + i) for i in numbers])

    prior = train(
        data,
        steps=3,
        field=law,
        network=NeuralOperatorConfig(width=8, layers=1, modes=4, knots=2),
        options=Options(batch=4),
        selection=Selection(measured=64, held_out=8),
        out=tmp_path,
    )
    assert isinstance(prior.network, NeuralOperator)
    assert torch.allclose(prior.law.variances, law.law.variances, rtol=1e-4)
    assert torch.allclose(prior.law.mean, law.law.mean)
    back = iv.priors.load(tmp_path / "prior.safetensors")
    x = noisy().float()
    assert torch.allclose(back.denoise(x, 0.4), prior.denoise(x, 0.4), atol=1e-6)
    assert torch.allclose(back.on((9, 9)).noise(noisy(9).float()), prior.on((9, 9)).noise(noisy(9).float()), atol=1e-5)


def test_units_and_precisions_take_the_field_along():
    prior = learned(box(8), std=0.3, offset=1.0, unit=2.0)
    larger = prior.rescaled(3.0)
    x = noisy()
    assert torch.allclose(larger.denoise(3 * x, 1.5), 3 * prior.denoise(x, 0.5), rtol=1e-9)
    assert torch.allclose(larger.law.variances, 9 * prior.law.variances)
    single = prior.to(dtype=torch.float32)
    assert single.field.dtype == torch.float32
    assert torch.allclose(single.denoise(x.float(), 0.5).double(), prior.denoise(x, 0.5), atol=1e-4)


def test_the_field_is_as_precise_as_the_weights():
    double = learned(box(8))
    mixed = NetworkPrior(
        network=double.network,
        shape=(8, 8),
        prediction=BesideLaw(),
        sigma_range=(1e-3, 100.0),
        field=box(8, dtype=torch.float32),
        scale=double.scale,
    )
    assert mixed.field.dtype == torch.float64
    assert torch.equal(mixed.denoise(noisy(), 0.5), double.denoise(noisy(), 0.5))


def test_what_does_not_fit_a_field_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"`field.noise_spectrum` must be given for another grid"):
        learned(box(8, noise=None)).on((12, 12))
    bent = box(8, mean=torch.eye(8, dtype=torch.float64))
    long = TabulatedSpectrum(torch.arange(1.0, 5001.0), torch.ones(5000))
    for field, why in ((bent, "mean that is not constant"), (box(8, spectrum=long), "more than 4096 values")):
        with pytest.raises(UnsupportedError, match=why):
            iv.priors.save_prior(learned(field), tmp_path / "p.safetensors")
    with pytest.raises(InputTypeError, match="a GaussianFieldPrior"):
        learned(box(8)).__class__(
            network=torch.nn.Identity(), shape=(8, 8), scale=1.0, sigma_range=(0.1, 1.0), field=TABLE
        )
    with pytest.raises(InputError, match="left out for complex signals"):
        NetworkPrior(network=torch.nn.Identity(), shape=(8,), scale=1.0, sigma_range=(0.1, 1.0), field=box(8))
    with pytest.raises(InputError, match="a number beside a field"):
        learned(box(8), offset=torch.zeros(8, 8, dtype=torch.float64))
    with pytest.raises(UnsupportedError, match="has no file format"):
        iv.priors.save_prior(learned(box(8, spectrum=Spectrum(lambda k2: 1 / (1 + k2)))), tmp_path / "p.safetensors")
    header = {"shape": [8, 8], "basis": "neumann", "extent": [1.0, 1.0], "mean": 0.0, "noise_spectrum": None}
    table = {"eigenvalues": [1.0] * 5000, "values": [1.0] * 5000, "at_zero": None}
    with pytest.raises(FileError, match="5000 values is absurd"):
        field_of(header | {"spectrum": {"table": table}}, torch.float32)
    with pytest.raises(FileError, match="is absurd"):
        field_of(
            header | {"shape": [2**13, 2**12], "spectrum": {"whittle": {"kappa": 1.0, "alpha": 2.0}}}, torch.float32
        )
    with pytest.raises(FileError, match="is absurd"):
        field_of(header | {"shape": [2**20, 2**20], "spectrum": {}}, torch.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"field": TABLE}, InputTypeError, "a GaussianFieldPrior"),
        ({"field": box(9)}, InputError, "beside real signals of its shape"),
        ({"field": box(8), "options": Options(skip="white")}, InputError, "'law' with a field"),
        ({"field": box(8, mean=torch.eye(8, dtype=torch.float64))}, InputError, "of a constant mean"),
    ],
)
def test_training_refuses_fields_of_other_signals(arguments, error, message):
    with pytest.raises(error, match=message):
        train(noisy(8, 30), steps=1, network=NeuralOperatorConfig(width=8), **arguments)
