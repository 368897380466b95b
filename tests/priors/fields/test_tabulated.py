"""Spectra that were measured."""

import numpy as np
import pytest
import torch

from invsolve.errors import InputError, UnsupportedError
from invsolve.priors import GaussianFieldPrior, Matern, Spectrum, TabulatedSpectrum, Whittle, estimate_spectrum
from invsolve.priors.fields.spectra import FieldSpectrum
from invsolve.priors.fields.tabulated import scaled

LAW = Spectrum(lambda k2: 9.0 / (k2 + 9.0) ** 2)


def test_power_laws_between_and_beyond_the_table():
    k2 = torch.tensor([4.0, 40.0, 400.0], dtype=torch.float64)
    made = TabulatedSpectrum(k2, 7.0 * k2**-1.5, at_zero=0.25)
    at = torch.tensor([0.0, 1.0, 4.0, 10.0, 300.0, 1e5], dtype=torch.float64)
    want = torch.cat([torch.tensor([0.25, 7.0 * 4**-1.5], dtype=torch.float64), 7.0 * at[2:] ** -1.5])
    assert torch.allclose(made.variances(at, "neumann", (1.0, 1.0)), want, rtol=1e-12)
    assert float(TabulatedSpectrum(k2, k2 / k2).variances(at, "neumann", (1.0,))[0]) == 1.0


@pytest.mark.parametrize("basis", ["neumann", "periodic", "dirichlet"])
def test_the_spectrum_of_a_field_is_found_again(basis):
    number = 400
    prior = GaussianFieldPrior((24, 18), LAW, basis=basis, extent=(1.0, 0.75), mean=2.0, dtype=torch.float64)
    found = estimate_spectrum(prior.sample(number, seed=0), basis=basis, extent=(1.0, 0.75))
    # A bin of m modes holds m * number squares of normal numbers; lower bins hold one to a few.
    ratio = found.values[4:-1] / LAW.variances(found.eigenvalues[4:-1], basis, (1.0, 0.75))
    # within a bin a tenth wide the law falls by 1.1^2: the mean over it is that at its middle to 1 %
    assert float((ratio - 1).abs().max()) < 0.01 + 4.5 * (2 / (8 * number)) ** 0.5
    again = GaussianFieldPrior((24, 18), found, basis=basis, extent=(1.0, 0.75), dtype=torch.float64)
    assert float(again.law.variances.sum() / prior.law.variances.sum()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("basis", ["neumann", "periodic"])
def test_the_variance_of_the_constant_mode_is_that_of_a_sample(basis):
    level = torch.tensor([1.0, 4.0, -2.0], dtype=torch.float64)
    wave = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)
    found = estimate_spectrum(level[:, None] + wave, basis=basis)
    assert found.at_zero == pytest.approx(float(level.var()))  # divided by n - 1: unbiased where the mean is unknown


@pytest.mark.parametrize("smoothness", [1e-7, 1e12])
def test_a_smoothness_that_no_quadrature_ends_for_is_refused(smoothness):
    with pytest.raises(InputError, match="`smoothness` must be from 0.001 to 1e6"):
        GaussianFieldPrior((4,), Matern(1.0, 0.3, smoothness=smoothness))
    for end in (0.001, 1e6):
        assert bool(GaussianFieldPrior((4,), Matern(1.0, 0.3, smoothness=end)).law.variances.isfinite().all())


@pytest.mark.parametrize(
    "spectrum",
    [
        Matern(std=1.0, length=0.2),
        LAW,
        Whittle(3.0, 2.0),
        TabulatedSpectrum([1.0, 9.0], [2.0, 1.0], at_zero=0.5),
        torch.ones(4, 4),
    ],
)
def test_the_spectrum_of_a_multiple(spectrum):
    one, two = (GaussianFieldPrior((4, 4), s).law.variances for s in (spectrum, scaled(spectrum, 3.0)))
    assert torch.allclose(two, 9 * one)


def test_a_spectrum_without_a_unit_that_is_known_is_refused():
    class Own(FieldSpectrum):
        def variances(self, eigenvalues, basis, extent):
            return torch.ones_like(eigenvalues)

    with pytest.raises(UnsupportedError, match="no unit that could be changed"):
        scaled(Own(), 2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TabulatedSpectrum([1.0], [1.0]), "two numbers > 0"),
        (lambda: TabulatedSpectrum([1.0, 2.0], [1.0, -1.0]), "two numbers > 0"),
        (lambda: TabulatedSpectrum([1.0, 2.0], [1.0, 1.0, 1.0]), "one for each of 2"),
        (lambda: TabulatedSpectrum([2.0, 1.0], [1.0, 1.0]), "increasing"),
        (lambda: TabulatedSpectrum([1.0, 2.0], [1.0, 1.0], at_zero=-1.0), "at_zero"),
        (lambda: estimate_spectrum(np.zeros((1, 4, 4))), "at least two real fields"),
        (lambda: estimate_spectrum(np.ones((3, 4, 4))), "different from each other"),
        (lambda: estimate_spectrum(np.tile(np.arange(4.0), (3, 4, 1))), "different from each other"),
        (lambda: estimate_spectrum(np.ones((3, 4)), basis="haar"), "basis"),
    ],
)
def test_what_is_no_spectrum_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
