"""Flow through a medium: manufactured solutions at their order, sparse LU, derivatives, batches; what is refused."""

import math

import pytest
import torch

import invsolve as iv
from invsolve.core.conjugate_gradients import conjugate_gradients
from invsolve.errors import InputError, InputTypeError
from invsolve.operators.pde import diffusion
from invsolve.operators.pde.multigrid import Multigrid, Paired
from invsolve.testing import check_operator

D = torch.float64
Grid, Darcy = iv.CartesianGrid, iv.operators.Darcy


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def two_media(n, low, high, rows=1, seed=0):
    """The sign of a smooth Gaussian field, as in benchmarks of Darcy's law."""
    k, x = torch.arange(64, dtype=D), (torch.arange(n, dtype=D) + 0.5) / n
    scale = 1 / (math.pi**2 * (k[:, None] ** 2 + k**2) + 9)
    scale[0, 0] = 0
    modes = torch.cos(math.pi * k * x[:, None])
    field = modes @ (noise(rows, 64, 64, seed=seed) * scale) @ modes.mT
    return torch.where(field > 0, high, low).to(D)


def source_of(u, a, coordinates):
    """``-div(a grad u)`` by torch."""
    at = [x.clone().requires_grad_() for x in coordinates]
    slopes = torch.autograd.grad(u(*at).sum(), at, create_graph=True)
    flows = [torch.autograd.grad((a(*at) * s).sum(), at[i], retain_graph=True)[0] for i, s in enumerate(slopes)]
    return -sum(flows)


def test_a_smooth_medium_at_nodes_has_the_errors_of_the_reference():
    def a(x, y):
        return torch.exp(torch.sin(2 * x) * torch.cos(3 * y))

    def u(x, y):
        return torch.sin(math.pi * x) * torch.sin(math.pi * y) * torch.exp(x)

    errors = []
    for n in (15, 31, 63, 127):
        grid = Grid((n, n), points="interior")
        A = Darcy(grid, source=source_of(u, a, grid.mesh()), mean="arithmetic", coefficient="points and walls")
        line = torch.linspace(0, 1, n + 2, dtype=D)
        found = A(a(*torch.meshgrid(line, line, indexing="ij"))[None])[0]
        errors.append(float((found - u(*grid.mesh())).abs().max()))
    assert errors == pytest.approx([6.793e-3, 1.722e-3, 4.301e-4, 1.075e-4], rel=2e-4)
    orders = [math.log2(p / q) for p, q in zip(errors, errors[1:], strict=False)]
    assert orders == pytest.approx([2.0] * 3, abs=0.1)


@pytest.mark.parametrize("mean", ["harmonic", "arithmetic"])
def test_cells_with_mixed_walls_are_of_second_order(mean):
    # u = cos(pi x) (1 + y): nothing flows through x = 0 and 1; unequal spacings; y has walls at 0 and 1.5
    def a(x, y):
        return torch.exp(torch.sin(2 * x) * torch.cos(3 * y))

    def u(x, y):
        return torch.cos(math.pi * x) * torch.sin(math.pi * y / 1.5) + 1.0 + y

    errors = []
    for n in (16, 32, 64, 128):
        grid = Grid((n, n + 1), extent=(1.0, 1.5))
        A = Darcy(grid, source=source_of(u, a, grid.mesh()), mean=mean, walls=(("no flow", "no flow"), (1.0, 2.5)))
        errors.append(float((A(a(*grid.mesh())[None])[0] - u(*grid.mesh())).square().mean().sqrt()))
    orders = [math.log2(p / q) for p, q in zip(errors, errors[1:], strict=False)]
    assert orders[1:] == pytest.approx([2.0] * 2, abs=0.1)


def test_layers_in_series_are_exact():
    # one-dimensional flow through layers of cells, walls at 1 and 0: u falls by the resistance of what lies before
    a = torch.tensor([1.0, 5.0, 5.0, 0.2, 2.0], dtype=D)
    u = Darcy(Grid((5,)), source=0.0, walls=((1.0, 0.0),))(a[None])[0]
    resistance = 0.2 / a
    before = torch.cumsum(resistance, 0) - resistance / 2
    assert torch.allclose(u, 1 - before / resistance.sum(), rtol=1e-12)


def test_a_constant_source_has_the_value_in_the_middle_of_a_membrane():
    gaps = [
        float(Darcy(Grid((n, n), points="interior"))(torch.ones(1, n, n, dtype=D))[0, n // 2, n // 2]) - 0.0736713532815
        for n in (15, 31, 63)
    ]
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.1)
    assert (4 * gaps[2] - gaps[1]) / 3 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("walls", [0.0, ((0.0, "no flow"), ("no flow", 2.0))])
def test_it_is_the_sparse_factorisation(walls):
    a, grid = two_media(33, 3.0, 12.0, rows=2)[:, :, :26], Grid((33, 26), extent=(1.0, 0.6))
    one, other = (Darcy(grid, walls=walls, solver=s)(a) for s in ("multigrid", "direct"))
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-12 * float(other.max()))
    assert float(one.min()) > 0  # a positive source, a positive solution
    single = Darcy(grid, walls=walls)(a.float())
    assert float((single - other).norm() / other.norm()) < 1e-4


@pytest.mark.parametrize(("low", "limit"), [(3.0, 12), (12e-4, 25)])
def test_iterations_hardly_depend_on_the_grid(low, limit):
    counts = []
    for n in (32, 126):
        A = Darcy(Grid((n, n)))
        faces = A.faces(two_media(n, low, 12.0))
        f = torch.full((1, n, n), 1 / n**2, dtype=D)
        made = Multigrid(faces, A.grid.spacing)
        counts.append(conjugate_gradients(faces.apply, f, rtol=1e-8, precondition=made)[1].iterations)
    assert max(counts) < limit


@pytest.mark.parametrize("shape", [(1, 1), (13, 10), (40, 1), (5, 6, 7)])
def test_the_preconditioner_is_symmetric_and_interpolation_has_its_transpose(shape):
    A = Darcy(Grid(shape, extent=(1.0, 8.0, 2.0)[: len(shape)]), log=True)
    faces = A.faces(noise(2, *shape).exp())
    made, x, y = Multigrid(faces, A.grid.spacing), noise(2, *shape, seed=1), noise(2, *shape, seed=2)
    assert torch.allclose((made(x) * y).sum(), (x * made(y)).sum(), rtol=1e-10)
    assert bool(((made(x) * x).flatten(1).sum(1) > 0).all())
    for axis, n in enumerate(shape):
        if n > 1:
            pairs = Paired(faces, axis)
            coarse = noise(2, *pairs.coarse.shape, seed=3)
            assert torch.allclose((pairs.spread(coarse) * x).sum(), (coarse * pairs.gather(x)).sum(), rtol=1e-10)


CASES = {
    "1x1": lambda: Darcy(Grid((1, 1)), log=True),
    "line": lambda: Darcy(Grid((1, 9)), log=True, walls=(("no flow", "no flow"), (0.0, 1.0))),
    "odd, even": lambda: Darcy(Grid((6, 5), extent=(1.0, 2.0)), log=True),
    "space": lambda: Darcy(Grid((3, 4, 2)), log=True, mean="arithmetic"),
    "nodes": lambda: Darcy(
        Grid((4, 3), points="interior"), log=True, coefficient="points and walls", mean="arithmetic"
    ),
    "direct": lambda: Darcy(Grid((4, 3)), source=noise(4, 3), log=True, solver="direct"),
    "items": lambda: Darcy(Grid((4, 3)), source=noise(3, 4, 3), log=True),
}


@pytest.mark.parametrize("case", CASES)
def test_products_and_derivatives(case):
    A = CASES[case]()
    assert check_operator(A).passed
    rows = A.batch or 2
    x, dx = noise(rows, *A.in_shape, seed=1), noise(rows, *A.in_shape, seed=2)
    y, dy = A.jvp(x, dx)
    v = noise(*y.shape, seed=3)
    back = A.vjp(x)[1](v)
    assert float(((dy * v).sum() - (dx * back).sum()).abs()) < 1e-10 * float(dy.norm() * v.norm())
    assert torch.autograd.gradcheck(A._apply, x.clone().requires_grad_())
    if case not in ("items",):
        one = x[:1].clone().requires_grad_()
        assert torch.autograd.gradgradcheck(A._apply, one)
        jacobians = torch.func.jacrev(A._apply)(x[:1]), torch.func.jacfwd(A._apply)(x[:1])
        assert torch.allclose(*jacobians, rtol=1e-8, atol=1e-12)


def test_a_row_alone_is_that_row_of_a_batch_and_nothing_gives_nothing():
    a = two_media(21, 3.0, 12.0, rows=5)
    A = Darcy(Grid((21, 21)))
    assert torch.allclose(A(a)[3:4], A(a[3:4]), rtol=1e-11)
    assert A(a[:0]).shape == (0, 21, 21)
    for solver in ("multigrid", "direct"):
        still = Darcy(Grid((21, 21)), source=0.0, solver=solver)
        value, pull = still.vjp(a)
        assert torch.equal(value, torch.zeros_like(a))
        assert torch.equal(pull(torch.zeros_like(a)), torch.zeros_like(a))


def test_a_pullback_takes_one_solve_and_a_pushforward_one_more(monkeypatch):
    solves = []

    def counted(*args, **kwargs):
        solves.append(bool(args[1].any()))
        return conjugate_gradients(*args, **kwargs)

    monkeypatch.setattr(diffusion, "conjugate_gradients", counted)
    A, x = Darcy(Grid((6, 5)), log=True), noise(2, 6, 5)
    _, pull = A.vjp(x)
    assert len(solves) == 1
    pull(x)
    assert len(solves) == 2
    A.jvp(x, x)
    assert len(solves) == 4


def test_refusals():
    cells, nodes = Grid((4, 3)), Grid((4, 3), points="interior")
    for grid, options, words in (
        (Grid((4, 3), points="periodic"), {}, "with walls"),
        (cells, {"mean": "geometric"}, "mean"),
        (cells, {"coefficient": "walls"}, "coefficient"),
        (cells, {"coefficient": "points and walls"}, "whose walls have none"),
        (cells, {"solver": "lu"}, "solver"),
        (cells, {"rtol": 0.0}, "rtol"),
        (cells, {"source": torch.ones(3, 4)}, "a number or of shape"),
        (cells, {"source": torch.full((4, 3), torch.nan)}, "source"),
        (cells, {"walls": ((0.0, 1.0),)}, "a pair"),
        (cells, {"walls": "no flow"}, "one at least holds u"),
        (nodes, {"walls": ((0.0, "no flow"), (0.0, 0.0))}, "numbers for points='interior'"),
    ):
        with pytest.raises(InputError, match=words):
            Darcy(grid, **options)
    for grid, options, words in (
        ((4, 3), {}, "CartesianGrid"),
        (cells, {"log": 1}, "log"),
        (cells, {"walls": True}, "walls"),
        (cells, {"source": torch.ones(4, 3, dtype=torch.complex64)}, "source"),
    ):
        with pytest.raises(InputTypeError, match=words):
            Darcy(grid, **options)
    a = torch.ones(1, 4, 3)
    a[0, 2, 1] = 0
    with pytest.raises(InputError, match="> 0 everywhere: a is a conductivity.*log=True"):
        Darcy(cells)(a)
