"""Non-Cartesian MRI: the model with coils, items, units, off resonance; its normal operator; posteriors; refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import invsolve as iv
from invsolve.operators.mri import kooshball, radial, spiral, stack_of_stars
from invsolve.operators.mri.off_resonance import segments

ops = iv.operators
F64, COMPLEX = torch.float64, torch.complex128


def random(*shape: int, seed: int = 0, dtype: torch.dtype = COMPLEX) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def dense(A: ops.NonCartesianMRI, item: int = 0) -> Tensor:
    """The matrix of the model, ``(coils samples, pixels)``, of one item, by the sum itself."""

    def of(value: Tensor | None, axes: int) -> Tensor | None:
        return value if value is None or value.ndim == axes else value[item]

    d = len(A.in_shape)
    omega, maps, field = of(A.omega, 2), of(A.maps, d + 1), of(A.field_map, d)
    assert omega is not None
    out = torch.ones(len(omega), 1, dtype=COMPLEX)
    for a, n in enumerate(A.in_shape):
        wave = torch.exp(-1j * omega[:, a, None] * (torch.arange(n) - n // 2))
        out = (out[:, :, None] * wave[:, None, :]).flatten(1)
    if field is not None and A.times is not None:
        out = out * torch.exp(-2j * math.pi * A.times[:, None] * field.flatten())
    out = out / math.sqrt(math.prod(A.in_shape))
    return out if maps is None else (out * maps.to(COMPLEX).flatten(1)[:, None]).flatten(0, 1)


def apply(matrix: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return (x.flatten(1).to(COMPLEX) @ matrix.mT).view(-1, *shape)


def far(found: Tensor, want: Tensor) -> float:
    return float((found - want).norm() / want.norm())


SHAPE = (9, 8)
TRAJECTORY = radial(7, 11, angles="golden")
TIMES = (torch.arange(11, dtype=F64) * 1e-3).repeat(7)
MAPS, FIELD = random(3, *SHAPE), 120 * random(*SHAPE, dtype=F64)
MODELS = {
    "one coil": {},
    "coils": {"maps": MAPS},
    "real images": {"maps": MAPS, "in_kind": "real"},
    "on the fly": {"maps": MAPS, "backend": "on the fly"},
    "off resonance": {"maps": MAPS, "field_map": FIELD, "times": TIMES},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tol", [5e-4, 1e-4, 1e-11])
def test_the_model_is_the_sum_of_its_definition(name, tol):
    A = ops.NonCartesianMRI(TRAJECTORY, SHAPE, tol=tol, **MODELS[name])
    matrix = dense(A)
    x, y = random(2, *SHAPE), random(2, *A.out_shape, seed=1)
    x = x.real.contiguous() if A.in_kind == "real" else x
    back = apply(matrix.mH, y.flatten(1), SHAPE)
    back = back.real if A.in_kind == "real" else back
    allowed = 1.5 * tol  # the transform, and off resonance a half more
    assert far(A(x), apply(matrix, x, A.out_shape)) < allowed and far(A.adjoint(y), back) < allowed


@pytest.mark.parametrize("kind", ["complex", "real"])
def test_the_normal_operator_is_that_of_the_exact_transform(kind):
    """By convolution: better than the transform, 1e-7 of its kernel; as good as that where it is better."""
    for tol, allowed in ((5e-4, 1e-7), (1e-11, 1e-11)):
        A = ops.NonCartesianMRI(TRAJECTORY, SHAPE, maps=MAPS, tol=tol, in_kind=kind)
        x = random(3, *SHAPE) if kind == "complex" else random(3, *SHAPE, dtype=F64)
        want = apply(dense(A).mH @ dense(A), x, SHAPE)
        want = want if kind == "complex" else want.real
        assert far(A.normal(x), want) < allowed
        assert far(A.normal(x), A.adjoint(A(x))) < A.normal_rtol
    B = ops.NonCartesianMRI(TRAJECTORY, SHAPE, maps=MAPS, field_map=FIELD, times=TIMES)
    x = random(1, *SHAPE)
    assert torch.equal(B.normal(x), B.adjoint(B(x))) and B.normal_rtol == 0


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (1, 5), (6, 1), (1, 1), (4, 3, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_contract_in_every_shape(shape, dtype):
    kind, samples = dtype.to_complex(), 15
    trajectory = radial(5, 3) if len(shape) == 2 else kooshball(5, 3)
    maps = random(2, *shape, dtype=kind)
    field = 100 * random(*shape, dtype=F64)
    for options in (
        {"maps": maps},
        {"maps": maps, "in_kind": "real", "backend": "on the fly", "tol": 5e-4},
        {"maps": maps[:1], "field_map": field, "times": torch.arange(samples) * 1e-3},
        {"in_kind": "real", "tol": 1e-11},
    ):
        A = ops.NonCartesianMRI(trajectory, shape, **options)
        report = iv.testing.check_operator(A)
        assert report.passed
        rows = random(5, *shape, dtype=dtype if A.in_kind == "real" else kind)
        alone = torch.cat([A(row[None]) for row in rows])
        assert far(A(rows), alone) < 100 * torch.finfo(dtype).eps
        assert torch.allclose(A(rows[:1]), alone[:1]) and A(rows[:0]).shape == (0, *A.out_shape)
        assert A.normal(rows[:0]).shape == A.adjoint(A(rows[:0])).shape == (0, *shape)


def test_the_contract_knows_what_a_normal_operator_promises():
    """It may be off by what it says, also inside of others; not by more."""
    A = ops.NonCartesianMRI(TRAJECTORY, SHAPE, maps=MAPS, tol=5e-4)
    for B in (A, 2.0 * A, A + A):
        assert iv.testing.check_operator(B).passed
    vars(A)["_made"][("normal", A._keys[0], F64)] *= 1 + 1e-2
    failures = iv.testing.check_operator(A, throw=False).failures
    assert [p.name for p in failures] == ["normal"]


def test_on_a_grid_it_is_cartesian_mri():
    shape = (6, 5)
    k = [2 * math.pi / n * (torch.arange(n, dtype=F64) - n // 2) for n in shape]
    grid = torch.stack(torch.meshgrid(*k, indexing="ij"), -1).reshape(-1, 2)
    maps, x = random(3, *shape), random(2, *shape)
    want = ops.MRI(torch.ones(shape, dtype=torch.bool), shape, maps=maps)(x).flatten(2)
    assert far(ops.NonCartesianMRI(grid, shape, maps=maps, tol=1e-11)(x), want) < 1e-11


def test_units_are_one_trajectory():
    A = ops.NonCartesianMRI(TRAJECTORY, SHAPE)
    x = random(1, *SHAPE)
    for unit, scale in (("cycles/FOV", torch.tensor(SHAPE) / (2 * math.pi)), ("cycles/pixel", 1 / (2 * math.pi))):
        B = ops.NonCartesianMRI(TRAJECTORY * scale, SHAPE, unit=unit)
        assert torch.allclose(B.omega, A.omega) and torch.allclose(B(x), A(x), atol=1e-12)
        moved = B.to(dtype=torch.float32)  # in its own unit again
        assert torch.equal(moved.trajectory, B.trajectory)


def test_items():
    """Trajectories, maps and field maps of their own for every row; equal trajectories are planned once."""
    paths = torch.stack([TRAJECTORY, TRAJECTORY.flip(-1), TRAJECTORY])
    maps, field = random(3, 2, *SHAPE), 50 * random(3, *SHAPE, dtype=F64)
    x = random(3, *SHAPE)
    for options in ({"maps": maps}, {"maps": maps[0], "field_map": field, "times": TIMES}, {}):
        A = ops.NonCartesianMRI(paths, SHAPE, tol=1e-9, **options)
        assert A.batch == 3
        want = torch.cat([apply(dense(A, i), x[i : i + 1], A.out_shape) for i in range(3)])
        assert far(A(x), want) < 2e-9 and iv.testing.check_operator(A).passed
        assert sum(key[0] == "transform" and key[-1] == F64 for key in A._made) == 2
        some = A.take(torch.tensor([2, 1]))
        assert some._made is A._made and far(some(x[[2, 1]]), want[[2, 1]]) < 2e-9


def test_derivatives():
    A = ops.NonCartesianMRI(radial(2, 2), (3, 2), maps=random(2, 3, 2))
    x, y = random(1, 3, 2).requires_grad_(), random(1, *A.out_shape).requires_grad_()
    for function, at in ((A._normal, x), (A._adjoint, y), (A._apply, x)):
        assert torch.autograd.gradcheck(function, (at,), fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda v, f=function: f(v).abs().square(), (at,), fast_mode=True)
    many = torch.func.vmap(A._apply)(random(4, 2, 3, 2))
    assert torch.allclose(many.flatten(0, 1), A(random(4, 2, 3, 2).flatten(0, 1)))


@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-11])
def test_off_resonance_against_the_waves(tol):
    """The largest error of all pixels and times; without a spread one term is enough."""
    times = torch.linspace(2e-3, 12e-3, 300, dtype=F64)
    field = 40 + 150 * (2 * torch.rand(500, dtype=F64, generator=torch.Generator().manual_seed(0)) - 1)
    field[:2] = torch.tensor([-110.0, 190.0])
    a, b = segments(times, field, tol, (-110.0, 190.0))
    exact = torch.exp(-2j * math.pi * field[:, None] * times)
    assert float((a.mT @ b - exact).abs().max()) <= tol and len(a) < 8 - 1.2 * math.log10(tol)
    assert float(b.abs().max()) < 10
    for flat_times, flat_field in ((times, torch.full((5,), 30.0, dtype=F64)), (times[:1], field), (times, field * 0)):
        a, b = segments(flat_times, flat_field, tol, (float(flat_field.min()), float(flat_field.max())))
        assert len(a) == 1
        assert torch.allclose(a.mT @ b, torch.exp(-2j * math.pi * flat_field[:, None] * flat_times), atol=1e-12)


def test_a_posterior_is_that_of_the_dense_model():
    """A Gaussian prior: the mean in closed form, by guidance with conjugate gradients and the convolution."""
    A = ops.NonCartesianMRI(TRAJECTORY, SHAPE, maps=MAPS, tol=1e-7)
    matrix, std = dense(A), 0.1
    # Noise of std in each real component, a prior of variance 1 in each.
    prior = iv.priors.GaussianFieldPrior(SHAPE, iv.priors.Matern(std=1.0, length=0.2), kind="complex").to(dtype=F64)
    truth = prior.sample(1, seed=0).to(COMPLEX)
    y = A(truth) + std * random(1, *A.out_shape, seed=3)
    result = iv.solve(A, y, prior, noise=std, num_samples=4)
    # Its denoiser is D = C (C + sigma^2)^-1, so C = sigma^2 D (1 - D)^-1.
    one = torch.eye(math.prod(SHAPE), dtype=COMPLEX)
    D = prior.denoise(one.view(-1, *SHAPE), torch.tensor(0.5, dtype=F64)).flatten(1).mT
    C = 0.25 * torch.linalg.solve(one - D, D, left=False)
    S = matrix @ C @ matrix.mH + std**2 * torch.eye(len(matrix), dtype=COMPLEX)
    want = (C @ matrix.mH @ torch.linalg.solve(S, y.flatten())).view(SHAPE)
    assert far(result.mean.reshape(SHAPE), want) < 1e-4


REFUSED = {
    "one axis": (lambda: ops.NonCartesianMRI(TRAJECTORY, (8,)), r"`in_shape` must be \(H, W\) or \(D, H, W\)"),
    "axes first": (lambda: ops.NonCartesianMRI(TRAJECTORY.T, SHAPE), r"`trajectory` must be of shape .*trajectory.T"),
    "spokes apart": (
        lambda: ops.NonCartesianMRI(TRAJECTORY.view(1, 7, 11, 2), SHAPE),
        r"trajectory.reshape\(-1, 2\)",
    ),
    "another unit": (
        lambda: ops.NonCartesianMRI(TRAJECTORY * 4 / math.pi, SHAPE),
        r"`trajectory` must be within \+-pi, in rad/pixel, got 3.63636 in it.*fits unit='cycles/FOV'",
    ),
    "in no unit": (lambda: ops.NonCartesianMRI(TRAJECTORY * 100, SHAPE), r"must be within \+-pi"),
    "NaN": (lambda: ops.NonCartesianMRI(TRAJECTORY * math.nan, SHAPE), "`trajectory` must be finite"),
    "complex": (lambda: ops.NonCartesianMRI(TRAJECTORY + 0j, SHAPE), "`trajectory` must be real"),
    "unit": (lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, unit="Hz"), "`unit` must be one of 'rad/pixel'"),
    "tol": (lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, tol=0.0), "`tol` must be positive"),
    "kind": (lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, in_kind="both"), "`in_kind` must be one of"),
    "backend": (lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, backend="cuda"), "`backend` must be one of"),
    "maps": (lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, maps=MAPS[:, :4]), r"`maps` must be of shape \(coils, 9, 8\)"),
    "maps elsewhere": (
        lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, maps=MAPS.to("meta")),
        "`maps` must be on the device of `trajectory`",
    ),
    "field without times": (lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, field_map=FIELD), "`times` must be given with"),
    "times without field": (lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, times=TIMES), "`field_map` must be given with"),
    "field": (
        lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, field_map=FIELD.T, times=TIMES),
        r"`field_map` must be of shape \(9, 8\)",
    ),
    "milliseconds": (
        lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, field_map=200 * FIELD / FIELD.abs().max(), times=2e4 * TIMES / TIMES.max()),
        "`times` must be so short.* at most 1000 turns, got .* turns. Are they in milliseconds",
    ),
    "times": (
        lambda: ops.NonCartesianMRI(TRAJECTORY, SHAPE, field_map=FIELD, times=TIMES[:11]),
        r"`times` must be of shape \(77,\).*times.repeat\(readouts\)",
    ),
    "items": (
        lambda: ops.NonCartesianMRI(TRAJECTORY.expand(3, -1, -1), SHAPE, maps=MAPS.expand(2, -1, -1, -1)),
        "item axes of one length",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        make()


def test_what_is_said():
    A = ops.NonCartesianMRI(radial(10, 16) / 4, (16, 16), maps=random(2, 16, 16), in_kind="real")
    assert repr(A) == (
        "NonCartesianMRI((16, 16) -> (2, 160), real -> complex, error 6e-05, "
        "reaches 25 % of the edge of k-space, stored matrix, 0 MiB)"
    )
    large = ops.NonCartesianMRI(stack_of_stars(64, 200, 128), (64, 64, 64))
    assert "weights on the fly" in repr(large) and A.dtype == F64 and large.dtype is None
    assert "stored matrix, " in repr(ops.NonCartesianMRI(spiral(2, 9, turns=1.0), (8, 8), backend="matrix"))
