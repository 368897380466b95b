"""References of results: every public strategy and sampler has one, or is the package's own."""

import inspect
from dataclasses import dataclass, replace
from typing import final

import pytest
import torch

import invsolve as iv
from invsolve.results.citations import OWN, SOURCES, papers
from invsolve.samplers import Sampler
from invsolve.strategies import Guidance, Strategy
from invsolve.strategies.choice.catalogue import catalogue

A, Y = iv.operators.Mask(mask=torch.tensor([True, False])), torch.tensor([1.0, 0.0])
PRIOR = iv.priors.GaussianPrior(mean=torch.zeros(2), covariance=torch.eye(2))


def keys(*what):
    return [c.key for c in iv.cite(*what)]


def public():
    """Strategies, guidances, functions that build strategies, and samplers."""
    for module in (iv.strategies, iv.samplers):
        for name in module.__all__:
            value = getattr(module, name)
            if (
                inspect.isclass(value)
                and issubclass(value, (Strategy, Guidance, Sampler))
                and not inspect.isabstract(value)
            ):
                yield name
            if inspect.isfunction(value) and str(inspect.signature(value).return_annotation) in ("Guided", "Strategy"):
                yield name


def test_every_public_strategy_and_sampler_has_a_reference_or_is_the_packages_own():
    names = set(public())
    assert {"MMPS", "Guided", "SMC", "UniPC", "DEIS", "AdaptiveSDE", "DeqParallel", "PiGDM", "Unconditional"} <= names
    assert sorted(n for n in names if n not in SOURCES and n not in OWN) == []
    assert not OWN & set(SOURCES)


def test_every_paper_is_used_and_every_source_is_a_paper():
    used = {key for sources in SOURCES.values() for key in sources}
    assert used == set(papers())
    for paper in papers().values():
        assert 1990 < paper.year <= 2026 and paper.authors and paper.title and paper.venue
        number = paper.arxiv.split(".")
        assert paper.arxiv == "" or (len(number) == 2 and all(n.isdigit() for n in number) and len(number[0]) == 4)
        if paper.arxiv:  # not before it was posted
            assert paper.year >= 2000 + int(number[0][:2]) - (paper.key == "neal2011hmc")


def test_a_result_names_guidance_sampler_and_prior():
    result = iv.solve(A, Y, PRIOR, noise=0.5, strategy=iv.strategies.MMPS(sampler=iv.samplers.ERSDE()), num_samples=2)
    assert keys(result) == ["rozet2024mmps", "cui2023ersde"]
    field = iv.priors.GaussianFieldPrior(shape=(2,), spectrum=iv.priors.Matern(std=1.0, length=0.3))
    strategy = iv.strategies.AdaptiveSDE(guidance=iv.strategies.MomentMatching())
    assert keys(iv.solve(A, Y, field, noise=0.5, strategy=strategy, num_samples=2)) == [
        "jolicoeur2021fast", "rozet2024mmps", "lindgren2011spde",
    ]  # fmt: skip
    assert keys(iv.solve(A, Y, PRIOR, noise=0.5, num_samples=2)) == []  # the closed form
    assert keys(iv.strategies.Unconditional()) == ["zhao2023unipc"]
    corrected = iv.samplers.PredictorCorrector(predictor=iv.samplers.Heun())
    assert keys(corrected) == ["song2021sde", "karras2022edm"]


def test_a_network_of_edm_and_the_embedded_slice():
    assert keys(iv.priors.load("head-mr-128"), "t1_slice") == ["karras2022edm", "garyfallidis2014dipy"]
    assert keys("DPS", "DAPS", "DPS") == ["chung2023dps", "zhang2025daps"]  # each once


def test_a_result_read_from_a_file_knows_its_strategys_name(tmp_path):
    result = iv.solve(A, Y, PRIOR, noise=0.5, strategy=iv.strategies.TMPD(), num_samples=2)
    result.save(tmp_path / "r.nc")
    assert keys(iv.load_result(tmp_path / "r.nc")) == ["boys2024tmpd"]


@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *catalogue(),
        (
            "DeqParallel",
            iv.strategies.DeqParallel(guidance=iv.strategies.MomentMatching()),
        ),
        ("AdaptiveSDE", iv.strategies.AdaptiveSDE(guidance=iv.strategies.MomentMatching())),
    ],
)
def test_the_name_in_a_file_is_enough_for_the_strategys_papers(name, strategy):
    """All of them but the sampler's, which a name does not tell."""
    if strategy is None:
        return
    papers = {paper for source in iv.samplers.__all__ for paper in SOURCES.get(source, ())} - {"song2021ddim"}
    result = iv.solve(A, Y, PRIOR, noise=0.5, num_samples=2)
    saved = replace(result, strategy=strategy.name, solver=None)
    assert set(keys(saved)) >= set(keys(strategy)) - papers


def test_what_is_not_known_gives_nothing():
    @final
    @dataclass(frozen=True, kw_only=True)
    class DPS(Strategy):
        """A user's own strategy, whose name is that of another."""

        num_steps: int = 1

        def init(self, run):
            raise AssertionError

        def step(self, run, state, i):
            raise AssertionError

    assert iv.cite(DPS(), PRIOR) == () and iv.cite() == ()
    with pytest.raises(ValueError, match="DDRM, .*'DSP'. Did you mean 'DPS'"):
        iv.cite("DSP")
    with pytest.raises(ValueError, match=r"'\?\?\?'\.$"):
        iv.cite("???")


def test_bibtex():
    (paper,) = iv.cite(iv.samplers.Euler())
    assert str(paper) == (
        "@misc{song2021ddim,\n  author = {Jiaming Song and Chenlin Meng and Stefano Ermon},\n"
        "  title = {{Denoising Diffusion Implicit Models}},\n  howpublished = {ICLR},\n  year = {2021},\n"
        "  eprint = {2010.02502},\n  archiveprefix = {arXiv},\n}"
    )
    assert "doi = {10.3389/fninf.2014.00008}" in str(iv.cite("t1_slice")[0])


@pytest.mark.parametrize("wrong", [3, None, iv.samplers.Euler], ids=repr)
def test_refused(wrong):
    with pytest.raises(
        iv.errors.InputTypeError, match="cite: `what` must be results, strategies, samplers, priors or names"
    ):
        iv.cite(wrong)
