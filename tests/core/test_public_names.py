"""Names that are looked for in the wrong module: what the error suggests, and that asking costs nothing."""

from __future__ import annotations

import pickle

import pytest

import invsolve as iv
from invsolve.core import public_names

WRONG = {  # what was typed: what must be among what is said, first
    "train": ["iv.priors.training.train"],
    "priors.train": ["iv.priors.training.train"],
    "Gaussian": ["iv.noise.Gaussian", "iv.operators.GaussianBlur", "iv.priors.GaussianPrior"],
    "operators.Gaussian": ["iv.noise.Gaussian"],
    "MRI": ["iv.operators.MRI"],
    "mri": ["iv.operators.MRI"],
    "Matern": ["iv.priors.Matern"],
    "priors.LogNormal": ["iv.LogNormal"],
    "noise.Normal": ["iv.Normal"],
    "samplers.DDPM": ["iv.priors.DDPM"],
    "load": ["iv.priors.load", "iv.load_result"],
    "psnr": ["iv.metrics.psnr"],
    "operators.parallel_beam": ["iv.operators.ParallelBeam"],
    "strategies.DSP": ["iv.strategies.DPS"],
    "check_operator": ["iv.testing.check_operator"],
    "testing.check_operatr": ["iv.testing.check_operator"],
    "progress.tqdm": ["iv.progress.TqdmProgress"],
    # by what a description says
    "operators.Radon": ["iv.operators.ParallelBeam"],
    "strategies.posterior": ["iv.posterior_metrics"],
    "operators.CT": ["iv.operators.ParallelBeam", "iv.operators.FanBeam"],
    "operators.Tomography": ["iv.operators.FanBeam"],
    "operators.convolve": ["iv.operators.Blur"],
    "operators.PSF": ["iv.operators.Blur", "iv.operators.GaussianBlur"],
    "operators.Inpainting": ["iv.operators.Mask"],
    "operators.Fourier": ["iv.operators.MRI"],
    "operators.estimate_maps": ["iv.operators.mri.estimate_maps"],
    "operators.PDE": ["iv.operators.from_callable"],
    "priors.GRF": ["iv.priors.GaussianFieldPrior"],
    "priors.Positive": ["iv.priors.exp"],
    "priors.TV": ["iv.baselines.total_variation"],
}


@pytest.mark.parametrize("typed", WRONG)
def test_what_was_meant_is_named(typed):
    *modules, name = typed.split(".")
    where = getattr(iv, modules[0]) if modules else iv
    with pytest.raises(AttributeError) as caught:
        getattr(where, name)
    said = str(caught.value)
    assert said.startswith(f"module {where.__name__!r} has no attribute {name!r}. Did you mean iv.")
    assert [meant for meant in WRONG[typed] if meant not in said] == []
    assert said.count("iv.") <= public_names._MOST


def test_where_nothing_is_alike_it_says_where_to_look():
    with pytest.raises(AttributeError, match=r"has no attribute 'xyzzy'. dir\(iv.operators\) lists what there is\.$"):
        _ = iv.operators.xyzzy
    with pytest.raises(ImportError, match="cannot import name 'Gauss'"):
        from invsolve.noise import Gauss  # noqa: F401


def test_what_is_named_is_there():
    for number, (page, name, value) in enumerate(public_names._public()):
        assert value is not None, (page, name)
        for path in public_names.alike("invsolve", name.lower()) if number % 20 == 0 else ():
            found = iv
            for part in path.split(".")[1:]:
                found = getattr(found, part)


def test_asking_looks_for_nothing(monkeypatch):
    """Python asks for every submodule that is imported from a package, and so do notebooks."""

    def look(*names):
        raise AssertionError(names)

    monkeypatch.setattr(public_names, "alike", look)
    assert not hasattr(iv, "train") and not hasattr(iv.operators, "_repr_html_") and getattr(iv.priors, "x", 1) == 1
    with pytest.raises(AttributeError, match="no attribute '_ipython_display_'$"):
        _ = iv._ipython_display_
    error = pickle.loads(pickle.dumps(public_names.MissingName("invsolve", "_x")))
    assert str(error) == "module 'invsolve' has no attribute '_x'"


def test_names_that_are_imported_later_are_what_they_were():
    from invsolve.priors.density import log_density

    assert iv.log_likelihood is iv.log_density is log_density
    assert iv.strategies.DAPS.__name__ == "DAPS" and iv.priors.training.train.__name__ == "train"
