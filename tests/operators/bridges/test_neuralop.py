"""Trained networks as operators: of torch, and of neuralop where it is installed."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import invsolve as iv
from invsolve.errors import InputError, InputTypeError, OperatorError
from invsolve.testing import check_operator

GRID = iv.CartesianGrid((6, 7), extent=(1.0, 2.0))
from_neuralop = iv.operators.from_neuralop


def seeded(make, *args, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **options)


def network(inside=1, outside=1, axes=2):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
    return seeded(lambda: nn.Sequential(conv(inside, 4, 3, padding=1), nn.Tanh(), conv(4, outside, 1)))


def rows(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, f):
        super().__init__()
        self.f, self.weight = f, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.f(self.weight * x)


@pytest.mark.parametrize("shape", [(6,), (7,), (1,), (6, 7), (5, 1), (4, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_network_and_keeps_the_contract(shape, dtype):
    net = network(axes=len(shape)).to(dtype)
    A = from_neuralop(net, iv.CartesianGrid(shape))
    assert A.in_shape == A.out_shape == shape == A.out_grid.shape and A.dtype == dtype
    for batch in (1, 5):
        x = rows(batch, *shape, dtype=dtype)
        assert torch.equal(A(x), net(x[:, None])[:, 0])
    assert A(rows(0, *shape, dtype=dtype)).shape == (0, *shape)
    assert check_operator(A).passed


def test_channels():
    net = network(2, 3)
    net.in_channels = 2  # as neuralop's models say
    A = from_neuralop(net, GRID)
    assert (A.in_shape, A.out_shape) == ((2, 6, 7), (3, 6, 7)) and check_operator(A).passed
    assert from_neuralop(network(2), GRID, in_channels=2).in_shape == (2, 6, 7)
    one = from_neuralop(network(), GRID, in_channels=1, out_channels=1)
    assert one.in_shape == one.out_shape == (1, 6, 7)
    assert torch.equal(one(rows(2, 1, 6, 7))[:, 0], from_neuralop(network(), GRID)(rows(2, 6, 7)))


def test_an_output_on_another_grid_of_the_same_box():
    A = from_neuralop(nn.Sequential(network(), nn.Upsample(scale_factor=2)), GRID)
    assert A.out_shape == (12, 14) and A.out_grid == GRID.on((12, 14)) and check_operator(A).passed
    sensors = iv.operators.PointValues(A.out_grid, [[0.5, 1.0], [0.1, 0.3]])
    assert (A >> sensors)(rows(3, 6, 7)).shape == (3, 2)


@pytest.mark.parametrize("form", ["numbers", "channels", "points", "normaliser"])
def test_the_scaling_of_the_training_data(form):
    net = network(2, 3)
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    out_mean, out_std = torch.tensor([3.0, 4.0, 5.0]), torch.tensor([0.1, 0.2, 0.3])
    if form == "numbers":
        mean, std, out_mean, out_std = 1.5, 2.0, -1.0, 0.25
    pairs = [(mean, std), (out_mean, out_std)]
    wide = [[torch.as_tensor(v).view(-1, 1, 1) for v in pair] for pair in pairs]
    if form == "points":
        pairs = [tuple(v.expand(-1, 6, 7) for v in pair) for pair in wide]
    if form == "normaliser":
        pairs = [SimpleNamespace(mean=m[None], std=s[None] - 1e-3, eps=1e-3) for m, s in wide]
    A = from_neuralop(net, GRID, in_channels=2, in_scaling=pairs[0], out_scaling=pairs[1])
    x = rows(3, 2, 6, 7)
    want = net((x - wide[0][0]) / wide[0][1]) * wide[1][1] + wide[1][0]
    assert torch.allclose(A(x), want, atol=1e-5) and check_operator(A).passed


def test_the_model_of_the_caller_is_left_alone_and_later_training_changes_nothing():
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))
    )
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    A = from_neuralop(net, GRID)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    x = rows(3, 6, 7)
    y, name = A(x), A.fingerprint()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    assert torch.equal(A(x), y) and A.fingerprint() == name != from_neuralop(net, GRID).fingerprint()
    leaf = x.clone().requires_grad_()
    A(leaf).sum().backward()
    assert leaf.grad is not None and all(p.grad is None for p in [*net.parameters(), *A.model.parameters()])
    assert check_operator(A).passed


def test_other_precisions_are_converted_around_the_model():
    A = from_neuralop(network(), GRID, in_scaling=(1.0, 2.0))
    wide = A.to(dtype=torch.float64)
    x = rows(2, 6, 7, dtype=torch.float64)
    assert wide(x).dtype == torch.float64 and torch.allclose(wide(x).float(), A(x.float()), atol=1e-6)
    assert next(wide.model.parameters()).dtype == torch.float32
    assert torch.equal(A.to("cpu")(x.float()), A(x.float()))


def test_the_bridge_itself_does_not_import_neuralop():
    tree = ast.parse(Path(inspect.getsourcefile(from_neuralop)).read_text(encoding="utf-8"))
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in names if name.startswith("neuralop")] == []


def mixing(x):
    return x - x.mean(0, keepdim=True)


REFUSED = [
    (lambda: (lambda x: x, GRID), {}, InputTypeError, "torch.nn.Module.*from_callable"),
    (lambda: (3, GRID), {}, InputTypeError, "`model` must be a torch.nn.Module, got int"),
    (lambda: (network(), (6, 7)), {}, InputTypeError, "`grid` must be an iv.CartesianGrid"),
    (lambda: (network(), GRID), {"in_channels": 0}, InputError, "`in_channels` must be at least 1"),
    (
        lambda: (network(), GRID),
        {"in_channels": 2},
        OperatorError,
        r"cannot take fields \(2, 2, 6, 7\).*Check in_channels",
    ),
    (lambda: (network(), GRID), {"out_channels": 2}, InputError, "`out_channels` must be 1, what the model gives"),
    (lambda: (network(), GRID), {"allow_odd": 1}, InputTypeError, "`allow_odd` must be True or False"),
    (lambda: (network(), GRID), {"in_scaling": 2.0}, InputTypeError, r"`in_scaling` must be a pair \(mean, std\)"),
    (lambda: (network(), GRID), {"in_scaling": (0.0, 0.0)}, InputError, "with std > 0, got a std of 0"),
    (lambda: (network(), GRID), {"out_scaling": ([1.0, 2.0], 1.0)}, InputError, r"`out_scaling` must be of numbers"),
    (
        lambda: (network(), GRID),
        {"in_scaling": SimpleNamespace(mean=None, std=None)},
        InputError,
        "must be a normaliser that was fitted",
    ),
    (lambda: (Of(lambda x: x.detach()), GRID), {}, OperatorError, "does not depend on its input for torch"),
    (lambda: (Of(mixing), GRID), {}, OperatorError, "a field alone must give what it gives in a batch"),
    (lambda: (Of(lambda x: x + torch.randn_like(x)), GRID), {}, OperatorError, "The model is random"),
    (lambda: (nn.BatchNorm2d(1, track_running_stats=False), GRID), {}, OperatorError, "BatchNorm needs its running"),
    (lambda: (Of(lambda x: x / 0), GRID), {}, InputError, "`the output of the model` must be finite"),
    (lambda: (Of(lambda x: x + 0j), GRID), {}, OperatorError, "must return a real tensor, got torch.complex64"),
    (lambda: (Of(lambda x: (x, x)), GRID), {}, OperatorError, "must return a real tensor, got tuple"),
    (lambda: (Of(lambda x: x.flatten(1)), GRID), {}, OperatorError, r"shape \(2, channels, 6, 7\), got \(2, 42\)"),
]


@pytest.mark.parametrize(("made", "options", "error", "message"), REFUSED)
def test_refusals(made, options, error, message):
    with pytest.raises(error, match=message):
        from_neuralop(*made(), **options)


def test_a_random_model_does_not_move_the_random_numbers_of_the_caller():
    state = torch.get_rng_state()
    with pytest.raises(OperatorError, match="The model is random"):
        from_neuralop(Of(lambda x: x + torch.randn_like(x)), GRID)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_copied_is_refused():
    net = nn.Conv2d(1, 1, 1)
    net.kept = net.weight * 2  # the result of a computation
    with pytest.raises(InputError, match="a module that can be copied"):
        from_neuralop(net, GRID)


def test_a_shape_that_changes_later_is_refused():
    A = from_neuralop(Of(lambda x: x[..., :5] if len(x) == 3 else x), GRID)
    with pytest.raises(OperatorError, match=r"must return shape \(3, 1, 6, 7\), got \(3, 1, 6, 5\)"):
        A(rows(3, 6, 7))


# --- neuralop's own ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def models():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        found = pytest.importorskip("neuralop.models")
    return found


def fno(models, axes=2, **options):
    options = {"in_channels": 1, "out_channels": 1, "hidden_channels": 6, "n_layers": 2, **options}
    return seeded(models.FNO, n_modes=(4,) * axes, **options)


@pytest.mark.parametrize("shape", [(8,), (9,), (8, 10), (8, 9), (6, 8, 7)])
def test_fno_on_grids_where_it_is_right(models, shape):
    net = fno(models, len(shape))
    A = from_neuralop(net, iv.CartesianGrid(shape))
    x = rows(2, *shape)
    assert torch.equal(A(x), net(x[:, None])[:, 0]) and A.out_grid.shape == shape
    assert check_operator(A, tol=1e-2).passed  # of differences in single precision


@pytest.mark.parametrize("shape", [(9, 8), (7, 7), (8, 9, 8)])
def test_odd_grids_are_refused_by_name(models, shape):
    even = tuple(n + n % 2 for n in shape)
    layer = fno(models, len(shape)).fno_blocks.convs[0]
    one = layer(torch.ones(1, 6, *shape)).detach()
    assert float((one - one.mean(tuple(range(2, one.ndim)), keepdim=True)).abs().max()) > 0.1  # the defect itself
    grid = iv.CartesianGrid(shape)
    with pytest.raises(InputError) as refused:
        from_neuralop(fno(models, len(shape)), grid)
    assert f"grid.on({even})" in str(refused.value) and "fno_blocks.convs.0" in str(refused.value)
    trained_there = from_neuralop(fno(models, len(shape)), grid, allow_odd=True)
    x = rows(2, *shape)
    assert torch.equal(trained_there(x), fno(models, len(shape))(x[:, None])[:, 0])


def test_a_uno_and_its_levels(models):
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        net = seeded(
            models.UNO,
            in_channels=1,
            out_channels=1,
            hidden_channels=6,
            uno_out_channels=[6, 6, 6],
            uno_n_modes=[[4, 4]] * 3,
            uno_scalings=[[0.5, 0.5], [1, 1], [2, 2]],
            n_layers=3,
            channel_mlp_skip="linear",
            horizontal_skips_map={2: 0},
        )
    A = from_neuralop(net, iv.CartesianGrid((12, 12)))
    x = rows(2, 12, 12)
    assert torch.equal(A(x), net.eval()(x[:, None])[:, 0])
    assert check_operator(A, tol=1e-2).passed
    with pytest.raises(InputError, match="gets .*, and makes a wave of a constant. Take a grid that stays even"):
        from_neuralop(net, iv.CartesianGrid((10, 10)))  # 5 in the middle


def test_its_normalisers_are_read(models):
    from neuralop.data.transforms.normalizers import UnitGaussianNormalizer

    x = 3 + 2 * rows(20, 1, 8, 8)
    normaliser = UnitGaussianNormalizer(dim=[0, 2, 3])
    normaliser.fit(x)
    net = fno(models)
    A = from_neuralop(net, iv.CartesianGrid((8, 8)), in_scaling=normaliser, out_scaling=normaliser)
    want = normaliser.inverse_transform(net(normaliser.transform(x)))
    assert torch.allclose(A(x[:, 0]), want[:, 0], atol=1e-5)
    with pytest.raises(InputError, match="a normaliser that was fitted"):
        from_neuralop(net, iv.CartesianGrid((8, 8)), in_scaling=UnitGaussianNormalizer())


def test_the_error_of_an_fno_trained_for_a_few_steps(models):
    """A surrogate of a smoother: the measured variance is that of fresh fields, and far above that of the noise."""
    grid = iv.CartesianGrid((16,), points="periodic")
    prior = iv.priors.GaussianFieldPrior(grid, iv.priors.Matern(std=1.0, length=0.3))
    exact = iv.operators.Heat(grid, diffusivity=0.01, times=0.1)
    net = fno(models, 1)
    x = prior.sample(64)
    y = exact(x)
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (net(x[:, None])[:, 0] - y).square().mean()
        loss.backward()
        optimiser.step()
    A = from_neuralop(net, grid)
    error = iv.noise.surrogate_error(A, exact, prior, seed=1)
    fresh = prior.sample(200, seed=2)
    misfit = exact(fresh) - A(fresh).detach() - error.mean
    scaled = (misfit / error.std).square().mean(1)  # of each field; of either 200 fields it has this spread
    off = float(scaled.mean()) - 1.0
    assert abs(off) < 5 * float(scaled.std()) * (2 / 200) ** 0.5
    assert float((misfit / 1e-3).square().mean()) > 10
