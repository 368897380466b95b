"""What people type for a scan first: it works, or the message has the line to type."""

from __future__ import annotations

import numpy as np
import pytest

import invsolve as iv
from invsolve.errors import InputError

ANGLES = np.deg2rad(np.arange(0, 180, 10))
A = iv.operators.ParallelBeam(ANGLES, (16, 16))  # 18 views, 23 bins
PRIOR = iv.priors.GaussianFieldPrior((16, 16), iv.priors.Matern(std=1.0, length=0.2))
DISTANCES = dict(source_to_center=500.0, source_to_detector=1000.0)


@pytest.mark.parametrize(
    "angles",
    [
        np.arange(0, 180, 10),
        np.arange(0, 360.0),
        np.arange(-60, 61, 1.5).astype(np.float32),
        np.linspace(0, 180, 37, endpoint=False),
        np.linspace(0, 360, 37),
        np.random.default_rng(0).permutation(np.linspace(0, 180, 37)),
        [[0, 45, 90, 135], [5, 50, 95, 140]],
    ],
)
def test_angles_in_degrees_are_refused(angles):
    words = r"`angles` must be in radians, got .*, which look like degrees. Give np.deg2rad\(angles\), or"
    with pytest.raises(InputError, match=words):
        iv.operators.ParallelBeam(angles, (16, 16))
    with pytest.raises(InputError, match=words):
        iv.operators.FanBeam(angles, (16, 16), **DISTANCES)


@pytest.mark.parametrize(
    "angles",
    [
        np.deg2rad(np.arange(0, 1441, 7.0)),
        np.pi * (3 - 5**0.5) * np.arange(100),  # by the golden angle
        np.deg2rad(111.246117975) * np.arange(93),
        np.random.default_rng(0).uniform(0, 180, 50),
        [0.0],
    ],
)
def test_angles_in_radians_are_not(angles):
    assert iv.operators.ParallelBeam(angles, (4, 4)).out_shape == (len(angles), 6)


def test_the_order_of_arguments_and_a_number_of_views():
    for call in (lambda: iv.operators.ParallelBeam((16, 16), ANGLES), lambda: iv.operators.ParallelBeam(ANGLES, 16)):
        with pytest.raises(InputError, match=r"`in_shape` must be \(H, W\).*ParallelBeam\(angles, \(H, W\)\)"):
            call()
    with pytest.raises(InputError, match=r"got \(\). Of half a turn in 180 views: np.deg2rad\(np.arange\(180\)\)"):
        iv.operators.ParallelBeam(180, (16, 16))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((18, 16), "A row is a view: of 16 bins say bins=16, and bin_size= in mm"),
        ((5, 18, 16), "A row is a view: of 16 bins say bins=16"),
        ((16, 18), r"A row is a view: np.swapaxes\(y, -1, -2\), of 16 bins; say bins=16"),
        ((23, 18), r"np.moveaxis\(y, -1, 0\)"),
        ((17, 23), "A row is a view: there are 18 angles, and bins=23"),
        ((414,), r"got \(414,\)\.$"),
    ],
)
def test_data_of_another_shape(shape, words):
    y = np.zeros(shape)
    with pytest.raises(InputError, match=rf"solve: `y` must be of shape \(batch, 18, 23\), .*{words}"):
        iv.solve(A, y, PRIOR, noise=0.1)
    with pytest.raises(InputError, match=words):
        iv.baselines.fbp(A, y)


def test_a_detector_in_front_of_the_axis_is_refused():
    with pytest.raises(InputError, match="at least source_to_center, 500, got 300.* as in astra, add source_to_center"):
        iv.operators.FanBeam(ANGLES, (16, 16), source_to_center=500.0, source_to_detector=300.0)


@pytest.mark.parametrize("size", [33, 32])
def test_the_table_of_the_page_about_skimage(size):
    """Its angles in radians, its sinogram transposed; of even sizes it turns about the pixel behind the middle.

    It interpolates the turned image, Joseph's weights the image itself: 1.2 % apart for blocks of a few pixels, 20 % and
    more where the centre is half a pixel off.
    """
    transform = pytest.importorskip("skimage.transform")
    image = np.zeros((size, size))
    image[8:13, 18:26], image[22:26, 7:10] = 1.0, 0.5
    degrees = np.arange(0, 180, 10)
    want = transform.radon(image, degrees, circle=True).T
    even = {} if size % 2 else {"center": (0.5, -0.5), "detector_offset": -0.5}
    found = iv.operators.ParallelBeam(np.deg2rad(degrees), image.shape, bins=size, **even)(image[None])[0].numpy()
    assert np.linalg.norm(found - want) < 0.02 * np.linalg.norm(want)
