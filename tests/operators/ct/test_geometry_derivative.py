"""Derivatives of line integrals by the geometry: against closed forms and differences; what they say of an unknown one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ct_phantoms import F64, FAN, blob, blob_data, turn
from operator_cases import Numbers

import invsolve as iv
from invsolve.operators.ct import GeometryDerivative

ops = iv.operators
SIZE = 256  # pixels of 0.7 mm: steps of Taylor's test pass many
PIXEL = {"pixel_size": 0.7, "backend": "on the fly"}
SCANS = {
    "parallel": lambda **more: ops.ParallelBeam(turn(8, first=0.1), (SIZE, SIZE), bins=100, **{**PIXEL, "bin_size": 1.3}, **more),
    "fan": lambda **more: ops.FanBeam(
        turn(8, 2 * math.pi, first=0.1), (SIZE, SIZE), bins=100, **{**FAN, "bin_size": 3.1, **PIXEL, **more}
    ),
    "fan, curved": lambda **more: ops.FanBeam(
        turn(8, 2 * math.pi, first=0.1), (SIZE, SIZE), bins=100, detector="curved", **{**FAN, "bin_size": 3.1, **PIXEL, **more}
    ),
}  # fmt: skip
ALL = ("detector_offset", "center_x", "center_y", "bin_size", "angle")
OF_FANS = ("source_to_center", "source_to_detector", "detector_tilt")
CASES = [
    (beam, name)
    for beam in SCANS
    for name in (*ALL, *(OF_FANS[: 2 if "curved" in beam else 3] if "fan" in beam else ()))
]


def moved(A: ops.LinearOperator, name: str, by: float) -> ops.LinearOperator:
    """The scan with another number."""
    if name == "angle":
        return replace(A, angles=A.angles + by)
    if name.startswith("center"):
        x, y = A.center
        return replace(A, center=(x + by, y) if name == "center_x" else (x, y + by))
    return replace(A, **{name: getattr(A, name) + by})


@pytest.mark.parametrize(("beam", "name"), CASES)
def test_taylor_and_the_closed_form(beam, name):
    """What is left of a step is of second order, slope 2.0 +- 0.1; the derivative of a blob is that of its integrals."""
    A = SCANS[beam](detector_offset=0.37, center=(1.3, -0.6))
    image = blob(A, 7.0, -11.0, 18.0)[None]
    J = GeometryDerivative(A, name)
    # Steps that move rays by pixels: many kinks are passed, each a little one.
    largest = {
        "angle": 0.1,
        "detector_tilt": 0.3,
        "bin_size": 0.15,
        "source_to_center": 30.0,
        "source_to_detector": 50.0,
    }
    steps = [largest.get(name, 3.0) / 2**k for k in range(3)]
    change = J(image)
    left = torch.tensor([float((moved(A, name, h)(image) - A(image) - h * change).norm()) for h in steps], dtype=F64)
    slope = (left[:-1] / left[1:]).log2()
    assert abs(float(slope.mean()) - 2) < 0.1, slope
    # By differences of the closed form: the error of the weights of a blob is (pixel / std)^2 / 12 or so.
    h = 1e-4 * steps[0]
    exact = (blob_data(moved(A, name, h), 7.0, -11.0, 18.0) - blob_data(moved(A, name, -h), 7.0, -11.0, 18.0)) / (2 * h)
    assert float((change[0] - exact).norm() / exact.norm()) < 4 * (0.7 / 18) ** 2


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_contract(kind):
    """The adjoint is the transpose, derivatives in the image are those of a linear map; items, borders, one pixel."""
    for shape in ((6, 5), (1, 4), (1, 1)):
        for A in (
            ops.ParallelBeam(torch.stack([turn(3), turn(3, first=0.2)]), shape, bins=7, kind=kind, center=(0.1, 0.2)),
            ops.FanBeam(
                turn(4, 6.0), shape, kind=kind, detector_tilt=0.2, source_to_center=9.0, source_to_detector=15.0
            ),
        ):
            J = GeometryDerivative(A, "detector_offset")
            assert iv.testing.check_operator(J).passed
            x = Numbers(0).signals(A, A.batch or 3)
            h = 1e-7  # no kink within: the pixels are passed elsewhere
            B, C = (moved(A, "detector_offset", 0.013 + s * h) for s in (1, -1))
            J = GeometryDerivative(moved(A, "detector_offset", 0.013), "detector_offset")
            assert torch.allclose(J(x), (B(x) - C(x)) / (2 * h), atol=1e-6)
    assert repr(J).endswith("complex, d/d detector_offset)") or kind == "real"
    taken = GeometryDerivative(ops.ParallelBeam(torch.stack([turn(3), turn(3, 1.0)]), (4, 4), bins=5), "angle")
    x = Numbers(0).signals(taken, 2)
    assert torch.allclose(taken.take(torch.tensor([1]))(x[1:]), taken(x)[1:]) and taken.batch == 2
    assert taken.to("cpu").device == taken.device == torch.device("cpu") and taken.dtype is None


@pytest.mark.slow
def test_what_a_scan_says_of_its_centre():
    """`Family` gives the standard deviation of the Fisher information of an offset, which needs the derivative only.

    Data of a Gaussian image are Gaussian with covariance ``S = A C A^T + s^2``, and their information on a parameter is
    ``1/2 tr (S^-1 S')^2``. Intervals of 90 % hold the truth in 7 of 12 rows or more: fewer has probability 6e-4.
    """
    s, truth, rows = 0.02, 0.8, 12

    def scan(offset: float) -> ops.ParallelBeam:
        return ops.ParallelBeam(turn(12), (10, 10), bins=15, pixel_size=2.0, detector_offset=offset)

    field = iv.priors.GaussianFieldPrior((10, 10), iv.priors.Matern(std=0.01, length=0.3))
    A = scan(truth)
    y = A(field.sample(rows, seed=3)) + s * Numbers(0).randn(rows, 12, 15, dtype=torch.float32)
    found = iv.solve(ops.Family(scan, offset=iv.Uniform(low=-3.0, high=4.0)), y, field, noise=s, num_samples=19)
    offset = found["operator.offset"]
    eye = torch.eye(100, dtype=F64).view(100, 10, 10)
    matrix, change = (B(eye).flatten(1).mT for B in (A, GeometryDerivative(A, "detector_offset")))
    samples = field.sample(4000, seed=1).flatten(1).double()
    C = samples.mT @ samples / len(samples)
    S = matrix @ C @ matrix.mT + s**2 * torch.eye(len(matrix), dtype=F64)
    half = torch.linalg.solve(S, change @ C @ matrix.mT)
    information = float((half @ half).trace() + (half @ torch.linalg.solve(S, matrix @ C @ change.mT)).trace())
    # Curvatures of single rows spread about it; a covariance of 4000 samples is good for some per cents.
    found_information = offset.std**-2
    tolerance = 3 * float(found_information.std()) / math.sqrt(rows) + 0.05 * information
    assert abs(float(found_information.mean()) - information) < tolerance < 0.5 * information
    interval = offset.interval(0.9)
    assert int(((interval.low < truth) & (truth < interval.high)).sum()) >= 7
    assert abs(float(offset.mean.mean()) - truth) < 4 * float(offset.std.mean()) / math.sqrt(rows)


def test_a_tilted_detector():
    """A tilted detector sees a point where its line meets the ray; the default bins see the whole image."""
    A = ops.FanBeam([0.3], (4, 4), bins=5, detector_tilt=0.2, bin_size=30.0, **FAN)
    u = A.geometry.positions
    point, direction = A.geometry.rays(0, 1)
    angle = A.angles[0]
    along, ahead = torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])
    place = 200 * ahead + u[:, None] * (
        math.cos(0.2) * along + math.sin(0.2) * ahead
    )  # 500 mm - 300 mm behind the axis
    to = place - point[0]
    assert torch.allclose(to / to.norm(dim=-1, keepdim=True), direction[0], atol=1e-12)
    for tilt in (0.4, -0.4):
        wide = ops.FanBeam(turn(8, 2 * math.pi), (16, 16), detector_tilt=tilt, **FAN)
        edges = wide(torch.ones(1, 16, 16, dtype=F64))[0, :, [0, -1]]
        assert float(edges.max()) < 1e-12 or wide.bins > 2  # the image is inside of the rays at the ends
        x = Numbers(0).signals(wide, 2)
        assert torch.allclose(wide(x), replace(wide, backend="on the fly")(x), atol=1e-11)  # without symmetry
        assert float(wide(torch.ones(1, 16, 16, dtype=F64)).sum(-1).min()) > 0


REFUSED = {
    "no scan": (lambda: GeometryDerivative(ops.Identity((3,)), "angle"), "`operator` must be an iv.operators.ParallelBeam"),
    "not of parallel rays": (
        lambda: GeometryDerivative(SCANS["parallel"](), "source_to_center"), "`parameter` must be one of 'detector_offset'"
    ),
    "not of an arc": (lambda: GeometryDerivative(SCANS["fan, curved"](), "detector_tilt"), "`parameter` must be one of"),
    "a tilted arc": (lambda: SCANS["fan, curved"](detector_tilt=0.1), "`detector_tilt` must be 0 of a curved detector"),
    "degrees": (lambda: SCANS["fan"](detector_tilt=10.0), "`detector_tilt` must be between .* radians.*in degrees?"),
    "no number": (lambda: SCANS["fan"](detector_tilt="left"), "`detector_tilt` must be a real number"),
    "fbp": (
        lambda: iv.baselines.fbp(SCANS["fan"](detector_tilt=0.1), torch.ones(1, 8, 100)),
        "a fan with a detector that is not tilted, got a tilt of 0.1 radians. Use sirt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    make, message = REFUSED[name]
    with pytest.raises((iv.errors.InputError, iv.errors.InputTypeError), match=message):
        make()


def test_siddons_weights_have_none():
    with pytest.raises(iv.errors.InputError, match="a scan with weights='joseph'"):
        GeometryDerivative(ops.ParallelBeam(turn(3), (4, 4), weights="siddon"), "angle")
