"""Maps of fields that are the same on every grid: odd, even, fine, coarse."""

import math

import numpy as np
import pytest
import torch

from invsolve.errors import InputError, InputTypeError
from invsolve.priors.networks import NeuralOperator, NeuralOperatorConfig, SpectralLayer
from invsolve.priors.networks.spectral_layer import cosines

BASES = ("cosine", "fourier")
EVERY = pytest.mark.parametrize("basis", BASES)


def field(n, m, basis, modes=10):
    """Two times three random fields of few frequencies, the same functions on every grid, float64."""
    rng = np.random.default_rng(0)
    if basis == "cosine":
        c = torch.from_numpy(rng.standard_normal((2, 3, modes, modes)))
        like = torch.zeros((), dtype=torch.float64)
        return cosines(n, modes, like) @ c @ cosines(m, modes, like).mT
    z = rng.standard_normal((2, 3, 2 * modes - 1, modes)) + 1j * rng.standard_normal((2, 3, 2 * modes - 1, modes))
    k, across = np.arange(-modes + 1, modes), np.arange(modes)
    rows, columns = (
        np.exp(2j * math.pi * np.outer(np.arange(n) / n, k)),
        np.exp(2j * math.pi * np.outer(np.arange(m) / m, across)),
    )
    return torch.from_numpy((rows @ z @ columns.T).real.copy())


def layer(basis, outside=3, **more):
    torch.manual_seed(0)
    return SpectralLayer(3, outside, modes=12, basis=basis, **more).double().requires_grad_(False)


@EVERY
@pytest.mark.parametrize("n", [23, 24, 32, 33, 63, 64, 65])
def test_identity_weights_give_the_field_back(basis, n):
    identity = layer(basis)
    identity.weight.zero_()
    identity.weight.view(identity.sizes)[:, :, 0] = torch.eye(3, dtype=torch.float64)
    x = field(n, n + 1, basis)
    assert float((identity(x) - x).abs().max()) < 1e-12


@EVERY
@pytest.mark.parametrize("knots", [None, 5])
@pytest.mark.parametrize("n", [24, 33])
def test_the_output_is_that_of_a_finer_grid_where_they_share_points(basis, knots, n):
    some = layer(basis, 2, knots=knots)
    # every second node of a torus, the middle of three cells between walls
    share = (lambda y: y[..., ::2, ::2], 2) if basis == "fourier" else (lambda y: y[..., 1::3, 1::3], 3)
    fine = some(field(share[1] * n, share[1] * n, basis))
    assert float((share[0](fine) - some(field(n, n, basis))).abs().max()) < 1e-11


@EVERY
def test_what_the_modes_do_not_hold_is_dropped_and_small_grids_go_without_it(basis):
    some = layer(basis)
    n = 64
    if basis == "cosine":
        high = cosines(n, 30, torch.zeros((), dtype=torch.float64))[:, 20:21]
    else:
        high = torch.cos(2 * math.pi * 20 * torch.arange(n, dtype=torch.float64) / n)[:, None]
    assert float(some((high * torch.ones(1, n)).expand(1, 3, n, n)).abs().max()) < 1e-12
    for shape in ((1, 1), (1, 5), (2, 3), (4, 4)):
        assert some(torch.ones(1, 3, *shape, dtype=torch.float64)).shape == (1, 3, *shape)


def test_the_half_spectrum_is_that_of_a_real_field():
    some = layer("fourier")
    x = field(32, 32, "fourier")
    both = torch.fft.fft2(some(x), norm="forward")
    mirrored = torch.roll(both.flip(-1, -2), (1, 1), (-2, -1)).conj()
    assert float((both - mirrored).abs().max()) < 1e-13


@EVERY
def test_gradients_are_those_of_differences(basis):
    torch.manual_seed(0)
    some = SpectralLayer(2, 1, modes=3, basis=basis, knots=2).double()
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(some, x)
    assert torch.autograd.gradgradcheck(some, x)


def network(**more):
    torch.manual_seed(0)
    made = NeuralOperator(NeuralOperatorConfig(**({"width": 16, "layers": 2, "modes": 8, "knots": 4} | more))).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return made.requires_grad_(False)


@EVERY
def test_finer_grids_show_the_same_map(basis):
    # Products of fields have frequencies that a grid folds back: of a smooth map these fall off fast.
    made = network(basis=basis)
    c = torch.tensor([-0.1, 0.2], dtype=torch.float64)
    share = (lambda y, k: y[..., ::k, ::k]) if basis == "fourier" else (lambda y, k: y[..., k // 2 :: k, k // 2 :: k])
    weak = 0.2 if basis == "fourier" else 1.0  # of about one size

    def shown(n):
        return made(weak * field(n, n, basis, 3)[:, :1], c)

    finest = shown(135)
    gaps = [float((share(finest, 135 // n) - shown(n)).abs().max()) for n in (9, 15, 27, 45)]
    scale = float(finest.abs().max())
    assert gaps[-1] < 5e-3 * scale
    assert gaps[-1] < gaps[0] / 20


def test_a_new_network_returns_zero_and_rows_do_not_see_each_other():
    torch.manual_seed(0)
    new = NeuralOperator(NeuralOperatorConfig(width=16, channels=2))
    x, c = torch.randn(3, 2, 9, 7), torch.tensor([-0.5, 0.0, 1.0])
    assert bool((new(x, c) == 0).all())
    made = network(channels=2)
    x, c = x.double(), c.double()
    assert float((made(x, c)[1:2] - made(x[1:2], c[1:2])).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SpectralLayer(0, 1, modes=2), InputError, "inside"),
        (lambda: SpectralLayer(1, 1, modes=2, basis="sine"), InputError, "basis"),
        (lambda: SpectralLayer(1, 1, modes=2, knots=3), InputError, "at most the 2 modes"),
        (lambda: NeuralOperatorConfig(width=12), InputError, "a multiple of 8"),
        (lambda: NeuralOperatorConfig(modes=4, knots=5), InputError, "2 to modes"),
        (lambda: NeuralOperatorConfig(layers=1.5), InputTypeError, "layers"),
        (lambda: NeuralOperatorConfig(basis="haar"), InputError, "basis"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
