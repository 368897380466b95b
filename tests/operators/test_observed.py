"""Which data exist: through compositions and bridges, in evidence and inferred noise; and zeros that nobody measured."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator

import invsolve as iv
from invsolve.solving.validation import filler_warning

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepinv

ops, physics = iv.operators, deepinv.physics
F64 = torch.float64


def bits(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """``n`` of the entries of ``shape`` True."""
    flat = torch.arange(math.prod(shape)) < n
    return flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))].view(shape)


M, N = bits(6, 3, 4), bits(7, 3, 4, seed=1)
ITEMS = torch.stack([M, N])
INDEX = torch.tensor([0, 5, 5, 11, 2])
CLIP = ops.Saturation((3, 4), low=0.5, high=2.0, softness=0.1)  # of 0 it makes 0.5, which is no datum either


# --- compositions ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("A", "want"),
    {
        "behind a sensor": (CLIP @ ops.Mask(M), M),
        "in front of it": (ops.Mask(M) @ CLIP, M),
        "two masks": (ops.Mask(M) @ ops.Mask(N), M & N),
        "three": (ops.Mask(M) @ (CLIP @ ops.Mask(N)), M & N),
        "three, the other way": ((ops.Mask(M) @ CLIP) @ ops.Mask(N), M & N),
        "items behind": (CLIP @ ops.Mask(ITEMS, in_shape=(3, 4)), ITEMS),
        "items and one": (ops.Mask(M) @ ops.Mask(ITEMS, in_shape=(3, 4)), ITEMS & M),
        "a multiple": ((2.0 * ops.Mask(M)) @ ops.Mask(N), M & N),
        "a sum": (ops.Mask(M) + ops.Mask(N), M | N),
        "a sum behind": ((ops.Mask(M) + ops.Mask(N)) @ ops.Mask(N), N),
        "an adjoint": (ops.Mask(M).H, M),
        "an adjoint behind": (ops.Mask(M).H @ ops.Mask(N), M & N),
        "some entries": (ops.Subsample(INDEX, (3, 4)) @ ops.Mask(M), M.flatten()[INDEX]),
        "some entries of items": (
            ops.Subsample(INDEX, (3, 4)) @ ops.Mask(ITEMS, in_shape=(3, 4)),
            ITEMS.flatten(1)[:, INDEX],
        ),
        "items of entries": (
            ops.Subsample(torch.stack([INDEX, INDEX.flip(0)]), (3, 4)) @ ops.Mask(M),
            torch.stack([M.flatten()[INDEX], M.flatten()[INDEX.flip(0)]]),
        ),
        "a stack": (
            ops.Stack([ops.Mask(M), ops.Subsample(INDEX, (3, 4))]) @ ops.Mask(N),
            torch.cat([(M & N).flatten(), N.flatten()[INDEX]]),
        ),
        "a stack in front of items": (
            ops.Stack([ops.Mask(M), ops.Mask(N)]) @ ops.Mask(ITEMS, in_shape=(3, 4)),
            torch.cat([(M & ITEMS).flatten(1), (N & ITEMS).flatten(1)], 1),
        ),
        "intensities": (ops.PhaseRetrieval(ops.Mask(M)) @ ops.Mask(N), M & N),
        "a blur of a masked scene is measured everywhere": (
            ops.GaussianBlur(std=1.0, in_shape=(3, 4)) @ ops.Mask(M),
            None,
        ),
        "all entries": (ops.Subsample(INDEX, (3, 4)), None),
        "an adjoint that mixes": (ops.GaussianBlur(std=1.0, in_shape=(3, 4)).H, None),
        "a sum with what sees all": (ops.Mask(M) + ops.GaussianBlur(std=1.0, in_shape=(3, 4)), None),
    }.values(),
)
def test_what_is_observed_through_a_composition(A, want):
    assert (A.observed is None) == (want is None)
    assert want is None or (A.observed.dtype == torch.bool and A.observed.equal(want))
    assert iv.testing.check_operator(A).passed


def test_a_linearised_sensor_behind_a_mask():
    J = (CLIP @ ops.Mask(M)).linearize(torch.ones(2, 3, 4))
    assert J.observed.equal(M) and J.entrywise and not ops.GaussianBlur(std=1.0, in_shape=(3, 4)).entrywise


def test_an_operator_that_hides_what_depends_on_the_signal_is_found_out():
    class Wrong(ops.Operator):
        in_shape = out_shape = (12,)
        observed = M.flatten()

        def _apply(self, x):
            return x

    with pytest.raises(iv.errors.OperatorError, match="depend on the signal where `observed` says there are no data"):
        iv.testing.check_operator(Wrong())


# --- deepinv ---------------------------------------------------------------------------------------------------------
def inpainting(mask):
    return physics.Inpainting(img_size=tuple(mask.shape), mask=mask.float())


def coils(mask):
    return physics.MultiCoilMRI(mask=mask.float(), coil_maps=torch.ones(1, 2, 3, 4, dtype=torch.complex64))


COMPLEX = {"in_kind": "complex", "out_kind": "complex"}
CHANNELS = {"in_channel": "keep", "out_channel": "keep"}
BLUR = physics.Blur(filter=torch.ones(1, 1, 3, 3) / 9, padding="circular")


@pytest.mark.parametrize(
    ("A", "want"),
    {
        "an image": (ops.from_deepinv(inpainting(M[None]), (3, 4), (3, 4)), M),
        "colours": (ops.from_deepinv(inpainting(ITEMS), (2, 3, 4), (2, 3, 4)), ITEMS),
        "one mask for colours": (
            ops.from_deepinv(physics.Inpainting((2, 3, 4), mask=M[None, None].float()), (2, 3, 4), (2, 3, 4)),
            M.expand(2, 3, 4),
        ),
        "a vector": (
            ops.from_deepinv(inpainting(M.flatten()), (12,), (12,), in_channel="keep", out_channel="keep"),
            M.flatten(),
        ),
        "MRI": (ops.from_deepinv(physics.MRI(mask=M.float()), (3, 4), (3, 4), **COMPLEX), M),
        "MRI as channels": (
            ops.from_deepinv(physics.MRI(mask=M.float()), (2, 3, 4), (2, 3, 4), **CHANNELS),
            M.expand(2, 3, 4),
        ),
        "MRI of two coils": (ops.from_deepinv(coils(M), (3, 4), (2, 3, 4), **COMPLEX), M.expand(2, 3, 4)),
        "last of a composition": (
            ops.from_deepinv(physics.ComposedLinearPhysics(BLUR, inpainting(M[None])), (3, 4), (3, 4)),
            M,
        ),
        "first of one": (
            ops.from_deepinv(physics.ComposedLinearPhysics(inpainting(M[None]), BLUR), (3, 4), (3, 4)),
            None,
        ),
        "singular values that are called mask": (
            ops.from_deepinv(physics.BlurFFT((1, 3, 4), filter=torch.ones(1, 1, 3, 3) / 9), (3, 4), (3, 4)),
            None,
        ),
    }.values(),
)
def test_what_deepinv_masks_is_not_observed(A, want):
    assert (A.observed is None) == (want is None)
    assert want is None or A.observed.equal(want)
    if want is not None:
        silent = (
            A(torch.ones(1, *A.in_shape, dtype=torch.complex64 if A.in_kind == "complex" else torch.float32))[0] == 0
        )
        assert silent[~want].all()


def test_masks_of_several_rows_and_a_mask_that_is_not_set():
    several = physics.Inpainting((1, 3, 4), mask=ITEMS[:, None].float())
    assert ops.from_deepinv(several, (3, 4), (3, 4)).observed is None
    assert ops.from_deepinv(physics.Inpainting((1, 3, 4)), (3, 4), (3, 4)).observed is None


# --- evidence, noise -------------------------------------------------------------------------------------------------
def setting():
    """32 of 64 pixels of a smooth image, std 0.1 of noise; 0 where nothing was measured."""
    rng = torch.Generator().manual_seed(0)
    mask = bits(32, 8, 8)
    grid = torch.linspace(0, 1, 64, dtype=F64)
    covariance = torch.exp(-((grid[:, None] - grid) ** 2) / 0.02) + 1e-6 * torch.eye(64, dtype=F64)
    prior = iv.priors.GaussianPrior(torch.zeros(8, 8, dtype=F64), covariance)
    x = prior.sample(1, seed=1)[0]
    return mask, prior, torch.where(mask, x + 0.1 * torch.randn(8, 8, generator=rng, dtype=F64), 0.0)


MAKERS = {
    "deepinv": lambda m: ops.from_deepinv(physics.Inpainting((1, 8, 8), mask=m[None].double()), (8, 8), (8, 8)),
    "scipy behind a mask": lambda m: ops.Mask(m) @ empty_rows(m),
    "adjoint": lambda m: ops.Mask(m).H,
    "twice": lambda m: ops.Mask(m) @ ops.Mask(m),
}


def empty_rows(mask):
    return ops.from_scipy(scipy.sparse.diags_array(mask.flatten().double().numpy()), (8, 8), (8, 8))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_evidence_noise_and_chi2_are_those_of_a_mask(make):
    """Against log N(y_seen; 0, C_seen + 0.01 I), and the inferred noise against that of our own mask."""
    mask, prior, y = setting()
    seen = mask.flatten()
    covariance = prior.covariance[seen][:, seen] + 0.01 * torch.eye(32, dtype=F64)
    law = torch.distributions.MultivariateNormal(torch.zeros(32, dtype=F64), covariance)
    result = iv.solve(make(mask), y, prior, noise=0.1, num_samples=4)
    assert abs(float(result.info["log_evidence"][0]) - float(law.log_prob(y[mask]))) < 1e-8
    own = iv.solve(ops.Mask(mask), y, prior, noise=0.1, num_samples=4)
    torch.testing.assert_close(result.chi2, own.chi2, rtol=1e-9, atol=0)
    assert result.warnings == ()
    unknown = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=3))
    stds = [iv.solve(A, y, prior, noise=unknown, num_samples=8)["noise.std"].mean for A in (make(mask), ops.Mask(mask))]
    torch.testing.assert_close(*stds, rtol=1e-6, atol=0)


NOISES = {
    "Gaussian": iv.noise.Gaussian(0.3),
    "Laplace": iv.noise.Laplace(0.3),
    "Poisson": iv.noise.Poisson(counts_per_unit=5.0),
    "transmission": iv.noise.PoissonTransmission(100.0),
    "quantised": iv.noise.Quantised(std=0.3, step=1.0),
}


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_a_sensor_behind_a_mask_has_the_likelihood_of_what_is_measured(noise):
    y = torch.arange(12.0).view(1, 3, 4) % 3
    x = torch.linspace(0.6, 1.9, 12).view(1, 3, 4)
    keep = M.flatten().nonzero()[:, 0]
    all_, kept = CLIP @ ops.Mask(M), ops.Subsample(keep, (3, 4)) @ CLIP
    whole, part = iv.Problem(all_, y, noise=noise), iv.Problem(kept, y.flatten(1)[:, keep], noise=noise)
    torch.testing.assert_close(whole.log_likelihood(x), part.log_likelihood(x))
    torch.testing.assert_close(whole.chi2(x), part.chi2(x))
    assert whole.num_data.tolist() == [6]


# --- zeros that look never measured ----------------------------------------------------------------------------------
def said(A, y, prior, noise=0.1):
    result = iv.solve(A, y, prior, noise=noise, num_samples=2, strategy=iv.strategies.MMPS(num_steps=3))
    return [warning for warning in result.warnings if "look never measured" in warning]


SILENT = {
    "CSR": empty_rows,
    "scipy": lambda m: ops.from_scipy(aslinearoperator(np.diag(m.flatten().double().numpy())), (8, 8), (8, 8)),
    "dense": lambda m: ops.Matrix(torch.diag(m.flatten().double())) @ ops.Subsample(torch.arange(64), (8, 8)),
    "a function": lambda m: ops.from_callable(lambda x: torch.tanh(x * m), (8, 8), (8, 8)),
    "a linear function": lambda m: ops.from_callable(lambda x: x * m, (8, 8), (8, 8), kind="linear"),
    "our sensor": lambda m: ops.Saturation((8, 8), high=9.0, softness=0.1) @ empty_rows(m),
}


@pytest.mark.parametrize("make", SILENT.values(), ids=SILENT)
def test_zeros_where_no_signal_has_a_part_are_named(make):
    mask, prior, y = setting()
    A = make(mask)
    (words,) = said(A, y.flatten() if A.out_shape == (64,) else y, prior)
    assert words.startswith("32 of the 64 data are exactly 0 where no signal has a part in them")
    assert words.endswith("iv.operators.Mask(measured) @ A")


def test_measured_zeros_are_not_named():
    mask, prior, y = setting()
    measured = torch.where(mask, y, 0.1 * torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=F64))
    assert said(empty_rows(mask), measured, prior) == []  # rays that miss the object
    assert said(ops.Mask(mask), y, prior) == []  # not data at all
    few = torch.where(torch.arange(64).view(8, 8) < 60, torch.where(mask, y, 0.1), 0.0)
    assert said(ops.Mask(torch.ones_like(mask)), few, prior) == []  # four of them may be anything
    rounded = (4 * torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=F64)).round() / 4
    assert said(ops.Mask(torch.ones_like(mask)), torch.where(mask, rounded, 0.0), prior) == []  # rounded to 0
    one = measured.clone()
    one[tuple(mask.logical_not().nonzero()[0].tolist())] = 0.0
    assert said(empty_rows(mask), one, prior) == []  # the other readings there are none
    counts = torch.where(mask, torch.ones(8, 8, dtype=F64), 0.0)
    assert said(empty_rows(mask), counts, prior, iv.noise.PoissonTransmission(10.0)) == []  # no count is a reading
    assert said(empty_rows(mask), counts, prior, iv.noise.Quantised(std=0.3, step=1.0)) == []  # rounded to 0


def test_a_mask_along_the_wrong_axis_is_named():
    """Columns were measured, rows are said to be: of the data in these rows all in the other columns are exactly 0."""
    _, prior, _ = setting()
    columns = torch.arange(8) % 2 == 0
    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(3), dtype=F64)
    y = noise * columns
    (words,) = said(ops.Mask(columns[:, None].expand(8, 8)), y, prior)
    assert words.startswith(
        "16 of the 32 data are exactly 0 (all at 4 positions along axis 1: is a mask along the wrong"
    )
    assert said(ops.Mask(columns[None].expand(8, 8)), y, prior) == []
    scattered = torch.where(torch.rand(8, 8, generator=torch.Generator().manual_seed(5)) < 0.3, 0.0, noise + 1)
    (words,) = said(ops.Mask(torch.ones(8, 8, dtype=torch.bool)), scattered, prior)
    assert "exactly 0: they look never measured" in words and "axis" not in words


def test_one_item_of_several_is_enough_and_black_boxes_are_not_run():
    mask, prior, y = setting()
    both = torch.stack([y + 0.01, y])
    assert len(said(empty_rows(mask), both, prior)) == 1
    box = ops.from_callable(lambda x: x * mask, (8, 8), (8, 8), kind="black box")
    problem = iv.Problem(box, y, noise=0.1)
    assert filler_warning(problem, prior) == ()


def test_zeros_are_named_where_the_noise_is_inferred():
    mask, prior, y = setting()
    unknown = iv.noise.Gaussian(std=iv.LogNormal(median=0.1, factor=3))
    result = iv.solve(empty_rows(mask), y, prior, noise=unknown, num_samples=4)
    assert any("look never measured" in warning for warning in result.warnings)
