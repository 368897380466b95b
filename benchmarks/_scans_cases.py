"""The problems of `scans.py`: what was measured of what, and the region that is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from _heads_scans import HELD_OUT, Scans, phantoms, slices, spokes
from torch import Tensor

import invsolve as iv
from invsolve.operators import LinearOperator, NonCartesianMRI, ParallelBeam
from invsolve.operators.mri import radial, radial_density

GRID, FINE = 128, 256  # pixels a side of what is reconstructed, and of what is measured: no inverse crime
EXTENT, BINS = 240.0, 184  # mm, the field of view; detector bins of a pixel's width
WATER = 0.019  # attenuation of water at 70 keV, 1/mm
LINE = 0.02  # noise of a line integral; a head's largest is nearly 5
PHOTONS = 4096.0  # a bin without an object, in a scan of low dose
GREY = 0.01  # noise of a picture with values in [0, 1]
# Nothing was tuned or trained on these, nor on the four that baselines' weights are chosen on.
PICTURES = (
    *("astronaut", "brick", "camera", "clock", "coffee", "coins"),
    *("gravel", "moon", "page", "rocket", "chelsea", "retina"),
)
OTHER_PICTURES = ("grass", "immunohistochemistry", "hubble_deep_field", "text")

Images = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    """Signals as images."""
    return x


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Several measurements of one kind. ``gaussian``: the linear problem with Gaussian noise that TV and deepinv solve,
    the same one unless the noise is of another kind; ``image`` and ``image_of_gaussian`` take their signals to images in
    the units of ``truth``."""

    problem: iv.Problem
    gaussian: iv.Problem
    truth: Tensor  # (n, H, W)
    region: Tensor  # (n, H, W) bool
    peak: Tensor  # (n,) of PSNR and SSIM
    classical: Callable[[iv.Problem], Tensor]  # image in the units of the truth
    image: Images = field(default=unchanged)
    image_of_gaussian: Images = field(default=unchanged)
    lines: Tensor | None = None  # of CT: the line integrals that were measured


# ---------------------------------------------------------------------------------------------------------- CT
def projector(grid: int, bins: int, angles: Tensor, offset: float = 0.0) -> ParallelBeam:
    """Line integrals of attenuation in 1/mm, by a detector that is off by so many mm."""
    return ParallelBeam(
        angles,
        (grid, grid),
        pixel_size=EXTENT / grid,
        bins=bins,
        bin_size=EXTENT / GRID * BINS / bins,
        detector_offset=offset,
        backend="matrix",
    )


def heads(count: int, *, seed: int) -> Tensor:
    """Held-out CT heads in Hounsfield units, on the fine grid."""
    return iv.datasets.heads.ct(count, (FINE, FINE), seed=seed)


def ct(
    objects: Tensor,
    angles: Tensor,
    *,
    seed: int,
    photons: float | None = None,
    offset: float = 0.0,
    assumed: float | None = None,
) -> Case:
    """Parallel beams over ``objects`` in Hounsfield units; the fine projections average two lines a datum. Noise of
    `LINE`, or counts of ``photons`` a bin without an object. The unknown: Hounsfield units. ``offset``: of the
    detector, mm; what the reconstruction takes for it: ``assumed``, by default the same."""
    n = len(objects)
    fine = projector(FINE, 2 * BINS, angles, offset)
    A = projector(GRID, BINS, angles, offset if assumed is None else assumed)
    unit = WATER / 1000
    through_water = A(torch.full((1, GRID, GRID), WATER, dtype=torch.float32, device="cpu"))
    lines = fine(unit * (objects + 1000)).view(n, len(angles), BINS, 2).mean(-1)
    generator = torch.Generator().manual_seed(seed)
    scaled = unit * A
    if photons is None:
        data = lines - through_water + LINE * torch.randn(lines.shape, generator=generator, device="cpu")
        problem = gaussian = iv.Problem(scaled, data, noise=LINE)
    else:
        counts = torch.poisson(photons * torch.exp(-lines), generator=generator)
        noise = iv.noise.PoissonTransmission(photons * torch.exp(-through_water[0]))
        problem = iv.Problem(scaled, counts, noise=noise)
        logs = -torch.log(counts.clamp_min(1) / photons) - through_water
        gaussian = iv.Problem(scaled, logs, noise=float((1 / counts.clamp_min(1)).mean().sqrt()))
    truth = torch.nn.functional.avg_pool2d(objects, FINE // GRID)

    def filtered(p: iv.Problem) -> Tensor:
        return iv.baselines.fbp(A, p.data + through_water, window="hann") / unit - 1000

    region = truth > -500
    return Case(
        problem=problem,
        gaussian=gaussian,
        truth=truth,
        region=region,
        peak=torch.stack([t[r].max() + 1000 for t, r in zip(truth, region, strict=True)]),
        classical=filtered,
        lines=gaussian.data + through_water,
    )


def views(number: int, over: float = math.pi) -> Tensor:
    """Equal steps over an angle."""
    return over * torch.arange(number, dtype=torch.float64, device="cpu") / number


def real_slice() -> Tensor:
    """pydicom's CT slice on the fine grid, ``(1, FINE, FINE)`` in Hounsfield units."""
    import pydicom
    from pydicom.data import get_testdata_file

    file = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    pixels = torch.from_numpy(file.pixel_array.astype("float32"))
    hounsfield = float(file.RescaleSlope) * pixels + float(file.RescaleIntercept)
    fine = torch.nn.functional.interpolate(hounsfield[None, None], (FINE, FINE), mode="bicubic")
    return fine[0].clamp(-1000.0, 3000.0)


# --------------------------------------------------------------------------------------------------------- MRI
def mri(objects: str, count: int, acceleration: float, *, seed: int = HELD_OUT) -> Case:
    """Cartesian scans of 8 coils of phantoms or the real slice."""
    scans = phantoms(count, acceleration, seed=seed) if objects == "phantoms" else slices(count, acceleration)
    return scanned(scans, lambda p: iv.baselines.zero_filled(linear(p), p.data))


def radial_mri(objects: str, count: int, number: int, *, seed: int = HELD_OUT) -> Case:
    """The same objects by ``number`` spokes."""
    if objects == "phantoms":
        images = iv.datasets.heads.slices(count, (FINE, FINE), seed=seed)
    else:
        images, seed = iv.datasets.t1_slice().expand(count, -1, -1), 0

    def gridded(p: iv.Problem) -> Tensor:
        assert isinstance(p.operator, NonCartesianMRI)
        density = radial_density(radial(number, 2 * GRID, angles="golden"), number)
        return iv.baselines.gridding(p.operator, p.data, density=density)

    return scanned(spokes(images, number, seed=seed), gridded)


def scanned(scans: Scans, classical: Callable[[iv.Problem], Tensor]) -> Case:
    """The case of MRI scans."""
    return Case(
        problem=scans.problem,
        gaussian=scans.problem,
        truth=scans.truth,
        region=scans.head,
        peak=scans.peak,
        classical=classical,
    )


def linear(problem: iv.Problem) -> LinearOperator:
    """The operator of a problem that is known to be linear."""
    assert isinstance(problem.operator, LinearOperator)
    return problem.operator


# ---------------------------------------------------------------------------------------------------- pictures
def pictures(names: tuple[str, ...]) -> Tensor:
    """Grey pictures of scikit-image, values in [0, 1], ``(n, FINE, FINE)``: the largest square in the middle, averaged
    to the fine grid."""
    import skimage.color
    import skimage.data

    found = []
    for name in names:
        picture = getattr(skimage.data, name)()
        grey = skimage.color.rgb2gray(picture[..., :3]) if picture.ndim == 3 else picture / 255.0
        values = torch.from_numpy(grey.astype("float32"))
        side = min(values.shape)
        top, left = ((s - side) // 2 for s in values.shape)
        square = values[top : top + side, left : left + side]
        found.append(torch.nn.functional.adaptive_avg_pool2d(square[None], FINE)[0])
    return torch.stack(found)


def halved(fine: Tensor) -> Tensor:
    """Means of 2 x 2 pixels."""
    return torch.nn.functional.avg_pool2d(fine, 2)


def grey(
    problem: iv.Problem,
    truth: Tensor,
    *,
    classical: Callable[[iv.Problem], Tensor] = lambda p: p.data,
    gaussian: iv.Problem | None = None,
    image_of_gaussian: Images = unchanged,
) -> Case:
    """A case whose whole picture is judged, with a peak of 1."""
    return Case(
        problem=problem,
        gaussian=gaussian or problem,
        truth=truth,
        region=torch.ones_like(truth, dtype=torch.bool),
        peak=torch.ones(len(truth), dtype=torch.float32, device="cpu"),
        classical=classical,
        image_of_gaussian=image_of_gaussian,
    )


def noisy(clean: Tensor, seed: int) -> Tensor:
    """Data with noise of `GREY`."""
    generator = torch.Generator().manual_seed(seed)
    return clean + GREY * torch.randn(clean.shape, generator=generator, device="cpu")


def gaussian_blur(fine: Tensor, *, seed: int, std: float = 1.5) -> Case:
    """A blur of 1.5 pixels, made on the fine grid."""
    lens = iv.operators.GaussianBlur(std=2 * std, in_shape=(FINE, FINE), boundary="reflect")
    A = iv.operators.GaussianBlur(std=std, in_shape=(GRID, GRID), boundary="reflect")
    return grey(iv.Problem(A, noisy(halved(lens(fine)), seed), noise=GREY), halved(fine))


def line(length: float, angle: float) -> Tensor:
    """The kernel of a straight motion in pixels, of sum 1: many points of the line, each shared by four pixels."""
    side = 2 * math.ceil(length / 2) + 3
    t = length * (torch.arange(400, dtype=torch.float64, device="cpu") + 0.5) / 400 - length / 2
    i, j = (side // 2 - t * math.sin(angle), side // 2 + t * math.cos(angle))
    kernel = torch.zeros(side, side, dtype=torch.float64, device="cpu")
    for di in (0, 1):
        for dj in (0, 1):
            weight = (1 - (i - i.floor() - di).abs()) * (1 - (j - j.floor() - dj).abs())
            kernel.index_put_((i.floor().long() + di, j.floor().long() + dj), weight, accumulate=True)
    return (kernel / kernel.sum()).float()


def motion_blur(fine: Tensor, *, seed: int, length: float = 9.0, angle: float = math.pi / 6) -> Case:
    """A straight motion of 9 pixels at 30 degrees, made on the fine grid."""
    lens = iv.operators.Blur(line(2 * length, angle), (FINE, FINE), boundary="reflect")
    A = iv.operators.Blur(line(length, angle), (GRID, GRID), boundary="reflect")
    return grey(iv.Problem(A, noisy(halved(lens(fine)), seed), noise=GREY), halved(fine))


def super_resolution(fine: Tensor, factor: int, *, seed: int) -> Case:
    """One datum for ``factor x factor`` pixels, their mean."""
    truth = halved(fine)
    A = iv.operators.Downsample(factor, (GRID, GRID))

    def bicubic(p: iv.Problem) -> Tensor:
        return torch.nn.functional.interpolate(p.data[:, None], (GRID, GRID), mode="bicubic")[:, 0]

    return grey(iv.Problem(A, noisy(A(truth), seed), noise=GREY), truth, classical=bicubic)


def missing(fine: Tensor, *, seed: int) -> Case:
    """Half of the pixels."""
    truth = halved(fine)
    seen = torch.rand(GRID, GRID, generator=torch.Generator().manual_seed(seed), device="cpu") < 0.5
    A = iv.operators.Mask(seen)
    return grey(iv.Problem(A, noisy(A(truth), seed), noise=GREY), truth, classical=lambda p: linear(p).adjoint(p.data))


def counts(fine: Tensor, mean: float, *, seed: int) -> Case:
    """Counts of photons, ``mean`` a pixel on average over all pictures."""
    truth = halved(fine)
    unit = mean / float(truth.mean())
    data = torch.poisson(unit * truth, generator=torch.Generator().manual_seed(seed))
    A = iv.operators.Identity((GRID, GRID))
    # Anscombe's root has noise of std 1; its inverse is the one without bias at many counts.
    scale = 2 * unit**0.5
    roots = iv.Problem(A, 2 * (data + 0.375).sqrt() / scale, noise=1 / scale)
    return grey(
        iv.Problem(A, data, noise=iv.noise.Poisson(unit)),
        truth,
        classical=lambda p: p.data / unit,
        gaussian=roots,
        image_of_gaussian=lambda x: ((x * scale / 2).square() - 0.125).clamp_min(0) / unit,
    )
