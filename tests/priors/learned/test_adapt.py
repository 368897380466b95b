"""A learned prior meets a problem: scale, grid, refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import invsolve as iv
from invsolve.errors import InputError, UnsupportedError
from invsolve.priors import GaussianFieldPrior, Matern, NetworkPrior, ResampledPrior
from invsolve.priors.learned.adapt import scale_factor


class Wiener(torch.nn.Module):
    """F of a field with independent entries of unit variance: the exact network of that law."""

    def forward(self, x, c):
        return 0 * x  # c_skip x is the posterior mean of N(0, 1)


FIELD = GaussianFieldPrior(shape=(8, 12), spectrum=Matern(std=1.0, length=0.02), basis="periodic")


def prior(kind="real", **more):
    law = GaussianFieldPrior(shape=(8, 12), spectrum=Matern(std=1.0, length=0.02), basis="periodic", kind=kind).law
    return NetworkPrior(
        network=Wiener(), shape=(8, 12), kind=kind, scale=2.0, sigma_range=(1e-3, 100.0), law=law, detail=0.1, **more
    )


def problem(scale=1.0, items=2, shape=(8, 12), noise=0.01, kind="real"):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.7
    field = GaussianFieldPrior(shape=shape, spectrum=Matern(std=1.0, length=0.02), basis="periodic", kind=kind)
    A = iv.operators.Mask(mask=mask, kind=kind)
    return iv.Problem(A, A(scale * field.sample(items, seed=3)), noise=noise * scale)


@pytest.mark.parametrize("scale", [1e-5, 0.3, 1.0, 1.7, 1e4])
def test_the_scale_is_inferred_and_stated(scale):
    task = problem(scale)
    factor = scale_factor(task, prior())
    # A root of the ratio of the energies of 67 data and of 8 draws of 67: relative std about 0.1.
    assert torch.allclose(factor, torch.full((2,), scale, dtype=torch.float64), rtol=0.45)
    fitted = prior().on(task)
    (note,) = fitted.notes
    if 0.5 < scale < 2:
        assert fitted.scale == 2.0 and "left as it is" in note
    else:
        assert fitted.scale == pytest.approx(2.0 * scale, rel=0.45) and note.startswith("rescaled by")
        x = torch.randn(2, 8, 12) * scale
        f = fitted.unit
        assert torch.allclose(fitted.denoise(x, 0.5 * f), f * prior().denoise(x / f, 0.5), rtol=1e-4, atol=1e-5 * scale)
    result = iv.solve(task, fitted, strategy=iv.strategies.MMPS(num_steps=3), num_samples=2)
    assert result.settings["prior notes"] == list(fitted.notes)


def test_another_scale_never_meets_it_silently():
    with pytest.raises(
        InputError,
        match=r"`prior` must be on the scale of the data, got one of signals .* times as large. prior.on\(problem\)",
    ):
        iv.solve(problem(1e-5), prior(), num_samples=2)
    iv.solve(problem(3.0), prior(), strategy=iv.strategies.MMPS(num_steps=3), num_samples=2)


def test_what_cannot_be_inferred_is_said():
    assert "no larger than their noise" in prior().on(replace(problem(1.0, noise=50.0))).notes[0]
    blind = replace(prior(), law=None)
    assert "cannot be inferred" in blind.on(problem(1e-5)).notes[0]
    with pytest.raises(InputError, match="of items of one scale"):
        task = problem()
        prior().on(replace(task, data=task.data * torch.tensor([1.0, 50.0]).view(2, 1, 1)))


def test_the_same_pixels_elsewhere():
    for shape in ((16, 12), (6, 8), (9, 13)):
        fitted = prior().on(problem(shape=shape), keep="pixel")
        assert (
            isinstance(fitted, NetworkPrior) and fitted.shape == shape and "pixels of the same size" in fitted.notes[0]
        )
        assert fitted.denoise(torch.randn(2, *shape), 1.0).shape == (2, *shape)
        # White on its own pixels, hence white on others: the law's variances stay.
        assert torch.allclose(fitted.law.variances.mean(), prior().law.variances.mean(), rtol=0.1)


def test_finer_pixels_of_the_same_field_of_view():
    task = problem(shape=(16, 24))
    fitted = prior().on(task, keep="field of view")
    assert isinstance(fitted, ResampledPrior) and fitted.shape == (16, 24) and fitted.learned
    assert "resampled from (8, 12) to (16, 24)" in fitted.notes[0]
    big = prior().on(problem(1e4, shape=(16, 24)), keep="field of view")
    assert big.scale == pytest.approx(1e4 * fitted.scale, rel=0.5) and len(big.notes) == 2
    bare = replace(prior(), law=None).on(task, keep="field of view")
    assert "continued by nothing" in bare.notes[0]
    plain = ResampledPrior(prior=FIELD, shape=(16, 24))
    with pytest.raises(UnsupportedError, match="cannot be rescaled"):
        plain.rescaled(2.0)


@pytest.mark.parametrize(
    ("task", "keep", "error", "message"),
    [
        ({"shape": (16, 24)}, None, InputError, "`keep` must be stated"),
        ({"shape": (16, 24)}, "size", InputError, "'pixel' or 'field of view'"),
        ({"shape": (4, 24)}, "field of view", InputError, "at least as fine as the prior's"),
        ({"shape": (3, 12)}, "pixel", InputError, "at least half as large"),
        ({"kind": "complex"}, None, InputError, "about real signals, as the prior is, got complex"),
    ],
)
def test_refusals(task, keep, error, message):
    with pytest.raises(error, match=message):
        prior().on(problem(**task), keep=keep)


def test_other_axes_and_mean_images_are_refused():
    A = iv.operators.Mask(mask=torch.ones(96, dtype=torch.bool))
    with pytest.raises(InputError, match="axes like"):
        prior().on(iv.Problem(A, torch.zeros(1, 96), noise=1.0), keep="pixel")
    with pytest.raises(UnsupportedError, match="a mean image cannot be moved"):
        prior(mean=torch.randn(8, 12)).on(problem(shape=(16, 12)), keep="pixel")


def test_precision_is_looked_at_before_the_scale():
    task = problem(1e-5).to(dtype=torch.float64)
    with pytest.raises(iv.errors.InputTypeError, match="of the prior's precision"):
        iv.solve(task, prior(), num_samples=2)


# --- the size of pixels ---------------------------------------------------------------------------------------------
def sized(shape, voxel, **more):
    """A problem whose pixels have a size, mm."""
    task = problem(shape=shape, **more)
    return iv.Problem(task.operator, task.data, task.noise, grid=iv.Grid(voxel_size=voxel))


KNOWN = {"card": {"voxel size": [1.9, 2.1]}}  # of 8 x 12 pixels: 16 x 24 mm


@pytest.mark.parametrize(
    ("shape", "voxel", "inner"),
    [
        ((8, 12), (2.0, 2.0), None),  # as it is
        ((8, 12), (1.85, 2.15), None),  # within five per cent
        ((16, 10), (2.0, 1.95), (16, 10)),  # pixels of its own size, on another number of them
        ((16, 24), (1.0, 1.0), (8, 12)),  # its own grid, resampled
        ((16, 12), (1.0, 2.0), (8, 12)),
        ((20, 30), (1.2, 1.2), (12, 18)),  # 24 x 36 mm in pixels of 2 mm, resampled
        ((8, 12), (1.0, 2.0), (4, 12)),  # the same number of pixels, of another size
    ],
)
def test_pixels_of_known_size_need_no_keep(shape, voxel, inner):
    fitted = prior(**KNOWN).on(sized(shape, voxel))
    assert tuple(fitted.shape) == shape
    assert "the prior's are 1.9 to 2.1 mm" in fitted.notes[0]
    resampled = inner is not None and inner != shape
    assert isinstance(fitted, ResampledPrior) == resampled
    assert tuple(fitted.prior.shape if resampled else fitted.shape) == (inner or shape)
    if inner == (8, 12):  # the same as by hand
        by_hand = prior(**KNOWN).on(sized(shape, voxel), keep="field of view")
        x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(fitted.denoise(x, 0.5), by_hand.denoise(x, 0.5))


def test_sizes_that_are_not_known_and_pixels_that_are_too_large():
    assert prior().voxel_size is None and prior(**KNOWN).voxel_size == (1.9, 2.1)
    for card in ({"voxel size": 2.0}, {"voxel size": [2.0]}, {"voxel size": [2.0, "x"]}, {"voxel size": [3.0, 2.0]}):
        assert prior(card=card).voxel_size is None
    with pytest.raises(InputError, match="`keep` must be stated"):
        prior().on(sized((16, 24), (1.0, 1.0)))
    with pytest.raises(InputError, match="`keep` must be stated"):
        prior(**KNOWN).on(problem(shape=(16, 24)))
    with pytest.raises(
        InputError, match=r"`problem` must be of pixels up to 2.21 mm, as the prior was trained on, got 3 mm"
    ):
        prior(**KNOWN).on(sized((8, 12), (2.0, 3.0)))
    stated = prior(**KNOWN).on(sized((8, 12), (3.0, 3.0)), keep="pixel")  # the user knows better
    assert stated.shape == (8, 12)
