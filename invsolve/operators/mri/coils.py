"""Receive coils: their noise, fewer of them, and images combined of theirs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invsolve.core.arrays import parameter
from invsolve.core.torch_state import in_defined_state
from invsolve.core.validation import check_choice, check_finite, check_int, check_positive, kind_dtype
from invsolve.errors import invalid
from invsolve.operators.mri.maps import check_coil_axis


@in_defined_state
def noise_covariance(data: Tensor, *, edge: float | None = None, coil_axis: int = -3) -> Tensor:
    """The covariance of the coils' noise, from a noise scan or from the edge of k-space.

    Parameters
    ----------
    data : Tensor or array, complex, shape (..., coils, *axes)
        A noise scan (for (coils, samples): ``coil_axis=-2``), all of whose samples count; or centred k-space with
        ``edge``, where samples that are 0 in all coils were not measured, and do not.
    edge : float, optional
        Take the share ``edge`` of the measured samples that are furthest from the origin, index n // 2, in units of
        the half axes; in (0, 1]. What signal there is adds to the noise: the estimate is too large rather than too
        small.
    coil_axis : int
        The axis of the coils, -3 by default; leading axes are repetitions of one scanner, and all count.

    Returns
    -------
    Tensor, complex, shape (coils, coils)
        ``E[n n^H] / 2``: its diagonal is the variance of a real component, as everywhere here. The mean is taken for 0.

    Raises
    ------
    InputError
        If ``data`` has too few axes, ``edge`` is out of its range, or there are fewer samples than coils.

    See Also
    --------
    prewhiten : Makes the noise white.
    """
    owner = "noise_covariance"
    data = _complex(owner, "data", data)
    check_coil_axis(owner, "data", data, coil_axis)
    check_finite(owner, "data", data)
    coils = data.shape[coil_axis]
    samples = data.movedim(coil_axis, 0).flatten(1)
    if edge is not None:
        edge = check_positive(owner, "edge", edge)
        if edge > 1:
            raise invalid(owner, "edge", "at most 1", edge)
        far = torch.zeros((), dtype=torch.float64, device=data.device)
        for n in data.shape[coil_axis + 1 :]:
            k = (torch.arange(n, dtype=torch.float64, device=data.device) - n // 2) / (n // 2 + 1)
            far = far.unsqueeze(-1) + k.square()
        far = far.expand(*data.shape[:coil_axis], *far.shape).flatten()
        measured = (samples != 0).any(0)
        samples, far = samples[:, measured], far[measured]
        samples = samples[:, far.topk(round(edge * len(far))).indices]
    if samples.shape[1] < coils:
        raise invalid(owner, "data", f"at least as many samples as coils, {coils}", samples.shape[1])
    wide = samples.to(torch.complex128)
    return (wide @ wide.mH / (2 * samples.shape[1])).to(data.dtype)


@in_defined_state
def prewhiten(data: Tensor, covariance: Tensor, *, coil_axis: int = -3) -> Tensor:
    """Coils whose noise is independent and of std 1 in every real component: ``L^-1 y`` with ``covariance = L L^H``.

    Maps that belong to such data are those of the new coils: estimated from them, or made of the old ones by this
    function too.

    Parameters
    ----------
    data : Tensor or array, complex, shape (..., coils, *axes)
        k-space, images or maps.
    covariance : Tensor or array, shape (coils, coils)
        Hermitian and positive definite, of one real component: see `noise_covariance`.
    coil_axis : int
        The axis of the coils, -3 by default.

    Returns
    -------
    Tensor
        In the shape and precision of ``data``; what is 0 in all coils stays 0.

    Raises
    ------
    InputError
        If a shape does not fit, or ``covariance`` is not Hermitian and positive definite.
    """
    owner = "prewhiten"
    data = _complex(owner, "data", data)
    check_coil_axis(owner, "data", data, coil_axis)
    wide = _complex(owner, "covariance", covariance).to(data.device, torch.complex128)
    coils = data.shape[coil_axis]
    if tuple(wide.shape) != (coils, coils):
        raise invalid(owner, "covariance", f"of shape {(coils, coils)}", tuple(wide.shape))
    check_finite(owner, "covariance", wide)
    gap, size = float((wide - wide.mH).abs().max()), float(wide.abs().max())
    if not gap <= 1e-5 * size:
        raise invalid(owner, "covariance", "Hermitian", f"a difference of {gap:.3g} from its adjoint")
    root, failed = torch.linalg.cholesky_ex(wide)
    if bool(failed):
        raise invalid(owner, "covariance", "positive definite", f"a singular or indefinite one, {coils} x {coils}")
    eye = torch.eye(coils, dtype=torch.complex128, device=data.device)
    return _mixed(torch.linalg.solve_triangular(root, eye, upper=False), data, coil_axis)


@in_defined_state
def compress_coils(
    data: Tensor,
    num_coils: int,
    *,
    calibration: int | None = None,
    readout: int | None = None,
    coil_axis: int = -3,
) -> tuple[Tensor, Tensor]:
    """Fewer, virtual coils: the combinations that hold most of the energy, by a singular value decomposition.

    Whiten before (`prewhiten`): the combinations are orthonormal, so that white noise stays white.

    Parameters
    ----------
    data : Tensor or array, complex, shape (..., coils, *axes)
        k-space, origin at index n // 2. Leading axes are items, each with coils of its own.
    num_coils : int
        Virtual coils, from 1 to the number of coils.
    calibration : int, optional
        The side of the block around the origin that is decomposed; all data by default.
    readout : int, optional
        A fully sampled axis behind that of the coils, counted from the end: combinations may change along it in the
        image (geometric compression [3]_), which takes fewer coils. By default they are the same everywhere.
    coil_axis : int
        The axis of the coils, -3 by default.

    Returns
    -------
    compressed : Tensor, shape (..., num_coils, *axes)
        In order of falling energy (without ``readout``).
    matrix : Tensor, complex, shape (..., num_coils, coils)
        ``compressed = matrix @ data``, for maps or further data; with orthonormal rows. The largest part of every row
        is real and positive. With ``readout`` (..., n, num_coils, coils), for every place along that axis of the image,
        each turned towards its neighbour's.

    Raises
    ------
    InputError
        If ``data`` has too few axes or ``num_coils`` is out of its range.

    References
    ----------
    .. [1] Buehrer et al. 2007, "Array compression for MRI with large coil arrays", Magn. Reson. Med. 57, 1131.
    .. [2] Huang et al. 2008, "A software channel compression technique", Magn. Reson. Imaging 26, 133.
    .. [3] Zhang, Pauly, Vasanawala & Lustig 2013, "Coil compression for accelerated imaging with Cartesian sampling",
       Magn. Reson. Med. 69, 571.
    """
    owner = "compress_coils"
    data = _complex(owner, "data", data)
    check_coil_axis(owner, "data", data, coil_axis)
    check_finite(owner, "data", data)
    coils = data.shape[coil_axis]
    num_coils = check_int(owner, "num_coils", num_coils, minimum=1)
    if num_coils > coils:
        raise invalid(owner, "num_coils", f"at most the number of coils, {coils}", num_coils)
    if readout is not None:
        check_choice(owner, "readout", readout, range(coil_axis + 1, 0))
        data = _centred(data, readout, torch.fft.ifft)
    block = data
    if calibration is not None:
        side = check_int(owner, "calibration", calibration, minimum=1)
        for axis in set(range(coil_axis + 1, 0)) - {readout}:
            n = data.shape[axis]
            first = max(0, n // 2 - side // 2)
            block = block.narrow(axis, first, min(n, n // 2 - side // 2 + side) - first)
    if readout is not None:
        return _geometric(data, block, num_coils, readout, coil_axis)
    wide = block.flatten(coil_axis + 1).to(torch.complex128)
    vectors = torch.linalg.eigh(wide @ wide.mH)[1].flip(-1)[..., :num_coils]  # columns of U, by falling energy
    largest = vectors.gather(-2, vectors.abs().argmax(-2, keepdim=True))
    matrix = (vectors * torch.sgn(largest).conj()).mH
    return _mixed(matrix, data, coil_axis), matrix.to(data.dtype)


def _geometric(data: Tensor, block: Tensor, num_coils: int, readout: int, coil_axis: int) -> tuple[Tensor, Tensor]:
    """`compress_coils` of data that are images along ``readout``, at each place of it by the block's energy there."""
    wide = _by_place(block, readout, coil_axis).to(torch.complex128)  # (..., n, coils, others)
    rows = torch.linalg.eigh(wide @ wide.mH)[1].flip(-1)[..., :num_coils].mH  # (..., n, num_coils, coils)
    places = list(rows.unbind(-3))
    middle = len(places) // 2
    for here in (*range(middle + 1, len(places)), *range(middle - 1, -1, -1)):
        before = places[here - 1 if here > middle else here + 1]
        left, _, right = torch.linalg.svd(places[here] @ before.mH)
        places[here] = (left @ right).mH @ places[here]  # the unitary map that takes it nearest to its neighbour
    matrix = torch.stack(places, -3).to(data.dtype)
    mixed = matrix @ _by_place(data, readout, coil_axis)
    others = [data.shape[axis] for axis in range(coil_axis + 1, 0) if axis != readout]
    mixed = mixed.reshape(*mixed.shape[:-1], *others)  # (..., n, num_coils, *others)
    place = -len(others) - 2
    return _centred(mixed.movedim(place, readout), readout, torch.fft.fft), matrix


def _by_place(data: Tensor, readout: int, coil_axis: int) -> Tensor:
    """(..., coils, *axes) as (..., n, coils, others), n of the axis ``readout``."""
    return (
        data.movedim(readout, coil_axis).flatten(coil_axis + 2) if coil_axis < -2 else data.movedim(-1, -2)[..., None]
    )


def _centred(data: Tensor, axis: int, transform: Callable[..., Tensor]) -> Tensor:
    """The centred orthonormal transform along one axis."""
    shifted: Tensor = torch.fft.fftshift(transform(torch.fft.ifftshift(data, axis), dim=axis, norm="ortho"), axis)
    return shifted


@in_defined_state
def rss(images: Tensor, *, coil_axis: int = -3) -> Tensor:
    """The root of the sum of squares of the coils' images: no maps are needed; noise makes it larger.

    Parameters
    ----------
    images : Tensor or array, shape (..., coils, *axes)
        Real or complex.
    coil_axis : int
        The axis of the coils, -3 by default.

    Returns
    -------
    Tensor, shape (..., *axes)
        Real, >= 0.

    Raises
    ------
    InputError
        If ``images`` has too few axes.
    """
    images = parameter("rss", "images", images)
    check_coil_axis("rss", "images", images, coil_axis)
    length: Tensor = torch.linalg.vector_norm(images, dim=coil_axis)
    return length


@in_defined_state
def sense_combine(images: Tensor, maps: Tensor, *, coil_axis: int = -3) -> Tensor:
    """The image of which the coils' images are ``S_c x``, by least squares: ``sum_c conj(S_c) x_c / sum_c |S_c|^2``.

    It is the pseudo-inverse of what the coils see of an image, and with white noise the estimate of least variance.
    Of undersampled data use `MRI.pinv`, the iterative SENSE reconstruction.

    Parameters
    ----------
    images : Tensor or array, complex, shape (..., coils, *axes)
        The inverse transforms of fully sampled k-space.
    maps : Tensor or array, complex, broadcastable to ``images``
        The sensitivities.
    coil_axis : int
        The axis of the coils, -3 by default.

    Returns
    -------
    Tensor, complex, shape (..., *axes)
        0 where all maps are 0.

    Raises
    ------
    InputError
        If a shape does not fit.

    References
    ----------
    Roemer et al. 1990, "The NMR phased array", Magn. Reson. Med. 16, 192; Pruessmann et al. 1999, "SENSE", Magn. Reson.
    Med. 42, 952.
    """
    owner = "sense_combine"
    images, maps = _complex(owner, "images", images), _complex(owner, "maps", maps)
    check_coil_axis(owner, "images", images, coil_axis)
    check_coil_axis(owner, "maps", maps, coil_axis)
    shapes = zip(maps.shape[::-1], images.shape[::-1], strict=False)
    if maps.ndim > images.ndim or any(a not in (1, b) for a, b in shapes):
        raise invalid(owner, "maps", f"broadcastable to images of shape {tuple(images.shape)}", tuple(maps.shape))
    power = maps.abs().square().sum(coil_axis)
    combined = (maps.conj() * images).sum(coil_axis)
    return torch.where(power > 0, combined / power, 0.0)


def _complex(owner: str, name: str, value: Tensor) -> Tensor:
    value = parameter(owner, name, value)
    return value.to(kind_dtype(value.dtype, "complex"))


def _mixed(matrix: Tensor, data: Tensor, coil_axis: int) -> Tensor:
    """``matrix @ data`` over the coils, in the precision of the data: (..., a, coils) and (..., coils, *axes)."""
    shape = (*data.shape[:coil_axis], matrix.shape[-2], *data.shape[coil_axis + 1 :])
    return (matrix.to(data.dtype) @ data.flatten(coil_axis + 1)).reshape(shape)


__all__ = ["compress_coils", "noise_covariance", "prewhiten", "rss", "sense_combine"]
