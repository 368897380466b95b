"""Non-linear operators: the contract, derivatives against finite differences and closed forms, what each is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from curved_cases import CASES, positive
from operator_cases import COMPLEX as C128
from operator_cases import F64, Numbers
from torch import Tensor

import invsolve as iv
from invsolve.baselines.variational import _spectral_start
from invsolve.operators.base import Operator

ops = iv.operators


def signals(draw: Numbers, A: Operator) -> Tensor:
    return draw.signals(A, A.batch or 3)


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_contract_in_float64_and_float32(A):
    assert iv.testing.check_operator(A).passed
    assert iv.testing.check_operator(A.to(dtype=torch.float32)).passed


def test_names_tell_operators_apart():
    assert len({A.fingerprint() for A in CASES.values()}) == len(CASES)


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_gradients_against_finite_differences_in_every_component(A):
    """Of a squared misfit, in the real and in the imaginary part of every entry: error h^2 and eps / h."""
    draw = Numbers(1)
    x, y = signals(draw, A), A(signals(draw, A)) + 0.1

    def loss(z: Tensor) -> Tensor:
        return (A(z) - y).square().flatten(1).sum(1) / 2

    value, pull = A.vjp(x)
    grad = pull(value - y)
    h, parts = 1e-5, (1.0, 1j) if x.is_complex() else (1.0,)
    for row_index in range(x[0].numel()):
        for part in parts:
            step = torch.zeros(x[0].numel(), dtype=x.dtype)
            step[row_index] = h * part
            step = step.view(1, *A.in_shape)
            slope = (loss(x + step) - loss(x - step)) / (2 * h)
            entry = grad.flatten(1)[:, row_index]
            stated = entry.imag if part == 1j else entry.real
            assert torch.allclose(stated, slope, atol=1e-7 * (1 + float(loss(x).max())))


@pytest.mark.parametrize("A", CASES.values(), ids=CASES)
def test_closed_derivatives_are_those_of_autograd(A):
    draw = Numbers(1)
    x, dx, v = signals(draw, A), signals(draw, A), A(signals(draw, A))
    assert torch.allclose(A.vjp(x)[1](v), Operator._vjp(A, x)[1](v), atol=1e-10)
    assert torch.allclose(A.jvp(x, dx)[1], Operator._jvp(A, x, dx)[1], atol=1e-10)


# --- phase retrieval ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["amplitude", "intensity", "coded patterns", "missing pixels"])
def test_a_global_phase_is_not_seen(name):
    """Neither by data nor by gradients, which turn with the signal."""
    A, draw = CASES[name], Numbers(1)
    x = signals(draw, A)
    turn = torch.exp(1j * torch.linspace(0.3, 5.0, len(x), dtype=F64)).view(-1, *[1] * (x.ndim - 1))
    assert torch.allclose(A(turn * x), A(x), atol=1e-13)
    v = A(signals(draw, A))
    assert torch.allclose(A.vjp(turn * x)[1](v), turn * A.vjp(x)[1](v), atol=1e-12)
    assert float(A.jvp(x, 1j * x)[1].abs().max()) < 1e-12  # the direction of the phase


@pytest.mark.parametrize("measure", ["amplitude", "intensity"])
@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
def test_where_nothing_arrives_the_gradient_is_zero(measure, dtype):
    matrix = torch.tensor([[1, 0], [0, 1], [1, 1]]).to(dtype)
    A = ops.PhaseRetrieval(operator=ops.Matrix(matrix=matrix), measure=measure)
    x = torch.tensor([[2.0, 0.0], [0.0, 0.0]]).to(dtype)
    y, pull = A.vjp(x)
    v = torch.tensor([[0.0, 5.0, 0.0], [1.0, 2.0, 3.0]], dtype=F64)
    assert torch.equal(pull(v), torch.zeros_like(x)) and torch.equal(y[:, 1], torch.zeros(2, dtype=F64))
    assert torch.equal(A.jvp(x, torch.ones_like(x))[1][1], torch.zeros(3, dtype=F64))


def test_amplitudes_and_intensities_of_a_pattern_are_numpys():
    x = Numbers(1).randn(2, 3, 4, dtype=C128)
    want = np.abs(np.fft.fftshift(np.fft.fft2(x.numpy(), s=(6, 8), norm="ortho"), axes=(1, 2)))
    B = ops.Diffraction(in_shape=(3, 4))
    assert np.allclose(ops.PhaseRetrieval(operator=B)(x), want)
    assert np.allclose(ops.PhaseRetrieval(operator=B, measure="intensity")(x), want**2)
    assert torch.allclose(B.norm(rtol=1e-6), torch.ones((), dtype=torch.float32), atol=1e-5)
    # doubled frequencies hold the autocorrelation, so a shift within the padding and the reversal are not seen
    assert np.allclose(ops.PhaseRetrieval(operator=B)(x.conj().flip(1, 2)), want)


def test_codes_are_quarter_turns_in_equal_parts():
    codes = ops.random_codes(6, (16, 16), seed=3, dtype=C128)
    turns = torch.view_as_real(codes)
    assert codes.shape == (6, 16, 16) and torch.equal(codes, ops.random_codes(6, (16, 16), seed=3, dtype=C128))
    assert torch.equal(turns.abs().sum(-1), torch.ones(6, 16, 16, dtype=F64))
    for turn in (1, 1j, -1, -1j):
        share = float((codes == turn).double().mean())
        assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / codes.numel())
    assert not torch.equal(codes, ops.random_codes(6, (16, 16), seed=4, dtype=C128))
    assert not torch.equal(codes[0], codes[1])


@pytest.mark.parametrize("seed", range(5))
def test_six_coded_masks_give_the_image(seed):
    """A complex image of 16^2 up to one phase, from amplitudes without noise."""
    x = Numbers(seed).randn(1, 16, 16, dtype=C128)
    B = ops.Diffraction(in_shape=(16, 16), codes=ops.random_codes(6, (16, 16), seed=seed, dtype=C128), oversampling=1)
    A = ops.PhaseRetrieval(operator=B)
    assert iv.testing.dot_test(B) < 1e-12
    start = _spectral_start(B, A(x))
    overlap = float((start.conj() * x).sum().abs() / (start.norm() * x.norm()))
    assert overlap > 0.6  # 0.8 is usual; a random start has about 1 / 16
    found = iv.baselines.amplitude_flow(A, A(x))
    phase = torch.sgn((found.conj() * x).sum())
    assert float((phase * found - x).norm() / x.norm()) < 1e-12


def test_amplitude_flow_treats_rows_alone_and_real_signals_up_to_their_sign():
    draw = Numbers(1)
    B = ops.Matrix(matrix=draw.randn(60, 8))
    A = ops.PhaseRetrieval(operator=B)
    x = draw.randn(3, 8) * torch.tensor([[1.0], [100.0], [0.01]], dtype=F64)
    found = iv.baselines.amplitude_flow(A, A(x))
    sign = torch.sign((found * x).sum(1, keepdim=True))
    assert float(((sign * found - x).norm(dim=1) / x.norm(dim=1)).max()) < 1e-12
    alone = iv.baselines.amplitude_flow(A, A(x)[1:2])
    assert torch.allclose(alone, found[1:2], rtol=1e-10)
    assert torch.equal(iv.baselines.amplitude_flow(A, torch.zeros(1, 60, dtype=F64)), torch.zeros(1, 8, dtype=F64))


# --- saturation and response -------------------------------------------------------------------------------------------
def test_saturation_is_the_clip_averaged_over_logistic_noise():
    """By quadrature over the logistic density; and the bound on its distance from the clip."""
    A = ops.Saturation(in_shape=(41,), low=-0.5, high=0.8, softness=0.2)
    x = torch.linspace(-4, 4, 41, dtype=F64)[None]
    u = torch.linspace(-12, 12, 200_001, dtype=F64)
    density = torch.sigmoid(u / 0.2) * torch.sigmoid(-u / 0.2) / 0.2 * float(u[1] - u[0])
    want = torch.stack([(density * (point + u).clamp(-0.5, 0.8)).sum() for point in x[0]])
    assert torch.allclose(A(x)[0], want, atol=1e-8)
    assert float((A(x) - x.clamp(-0.5, 0.8)).abs().max()) <= 0.2 * math.log(2)
    slope = A.jvp(x, torch.ones_like(x))[1]
    assert bool((slope > 0).all()) and bool((slope < 1).all()) and bool((A(x).diff() > 0).all())


def test_saturation_far_beyond_its_levels_is_flat_and_finite():
    A = ops.Saturation(in_shape=(2,), low=0.0, high=1.0, softness=1e-3)
    x = torch.tensor([[-1e6, 1e6]])
    y, pull = A.vjp(x)
    assert torch.allclose(y, torch.tensor([[0.0, 1.0]]), atol=0.1)  # the rounding of a million in float32
    assert torch.equal(pull(torch.ones(1, 2)), torch.zeros(1, 2))


def test_a_log_response_averages_light():
    """Two points of which one is brighter by c = 3 in the exponent; and the limits of no and of much contrast."""
    kernel = torch.tensor([0.5, 0.5], dtype=F64)
    blur = ops.Blur(kernel=kernel, in_shape=(2,), boundary="valid")
    x = torch.tensor([[0.0, 1.0], [0.3, 0.3]], dtype=F64)
    y = ops.NonlinearBlur(blur=blur, contrast=3.0)(x)[:, 0]
    assert torch.allclose(y, torch.tensor([math.log((1 + math.exp(3)) / 2) / 3, 0.3], dtype=F64), atol=1e-14)
    assert torch.allclose(ops.NonlinearBlur(blur=blur, contrast=1e-6)(x), blur(x), atol=1e-6)
    assert torch.allclose(ops.NonlinearBlur(blur=blur, contrast=200.0)(x)[0], x[0].max(), atol=4e-3)  # log 2 / 200


def test_a_log_response_in_the_transform_is_that_of_the_sum():
    """Against a plain sum over the kernel, in a large range and in float32."""
    draw = Numbers(1)
    blur = ops.Blur(kernel=positive(draw, 3, 3), in_shape=(12, 12))
    x = 2 * draw.randn(2, 12, 12)
    A = ops.NonlinearBlur(blur=blur, contrast=2.0)
    light = torch.zeros_like(x)
    for i in range(3):
        for j in range(3):
            light += blur.kernel[i, j] * torch.exp(2 * x).roll((i - 1, j - 1), (1, 2))
    want = light.log() / 2
    assert torch.allclose(A(x), want, atol=1e-9)
    assert torch.allclose(A.to(dtype=torch.float32)(x.float()), want.float(), atol=2e-6)
    dark = torch.zeros(1, 12, 12, dtype=F64)
    dark[0, 0, 0] = 100.0  # the rest is exp(-200) of it: below rounding, finite
    assert bool(torch.isfinite(A(dark)).all()) and bool(torch.isfinite(A.vjp(dark)[1](A(dark))).all())


REAL = ops.Matrix(matrix=torch.eye(2))
REFUSED = {
    "modulus of a function": (
        lambda: ops.PhaseRetrieval(operator=ops.from_callable(torch.sin, (2,), (2,))),
        "`operator` must be a LinearOperator, got CallableOperator",
    ),
    "measure": (
        lambda: ops.PhaseRetrieval(operator=REAL, measure="phase"),
        "`measure` must be one of 'amplitude', 'intensity'",
    ),
    "softness": (lambda: ops.Saturation(in_shape=(2,), high=1.0, softness=0.0), "`softness` must be positive"),
    "no level": (lambda: ops.Saturation(in_shape=(2,), softness=1.0), "`low/high` must be given, at least one"),
    "levels": (
        lambda: ops.Saturation(in_shape=(2,), low=1.0, high=1.0, softness=1.0),
        "`low` must be less than `high`, 1.0",
    ),
    "blur of a mask": (
        lambda: ops.NonlinearBlur(blur=REAL, contrast=1.0),
        "`blur` must be an iv.operators.Blur, got Matrix",
    ),
    "blur complex": (
        lambda: ops.NonlinearBlur(blur=ops.Blur(kernel=torch.ones(1), in_shape=(2,), kind="complex"), contrast=1.0),
        "`blur` must be real",
    ),
    "blur negative": (
        lambda: ops.NonlinearBlur(blur=ops.Blur(kernel=torch.tensor([1.0, -1.0]), in_shape=(2,)), contrast=1.0),
        "`blur` must be of a kernel >= 0",
    ),
    "blur zero": (
        lambda: ops.NonlinearBlur(blur=ops.Blur(kernel=torch.zeros(2), in_shape=(2,)), contrast=1.0),
        "`blur` must be of a kernel >= 0",
    ),
    "contrast": (
        lambda: ops.NonlinearBlur(blur=ops.Blur(kernel=torch.ones(2), in_shape=(2,)), contrast=-1.0),
        "`contrast` must be positive",
    ),
    "flow of a matrix": (
        lambda: iv.baselines.amplitude_flow(REAL, torch.ones(1, 2)),
        "`A` must be an iv.operators.PhaseRetrieval with measure='amplitude', got Matrix",
    ),
    "flow of intensities": (
        lambda: iv.baselines.amplitude_flow(ops.PhaseRetrieval(operator=REAL, measure="intensity"), torch.ones(1, 2)),
        "with measure='amplitude'",
    ),
    "flow of zero": (
        lambda: iv.baselines.amplitude_flow(ops.PhaseRetrieval(operator=0 * REAL), torch.ones(1, 2)),
        "`A` must be of an operator that is not zero",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, message):
    with pytest.raises(iv.errors.InvsolveError, match=message):
        call()
