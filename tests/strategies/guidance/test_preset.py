"""What looks like a class is one: `MMPS`, `TMPD`, `PiGDM`, `Unconditional` and their instances; positional arguments."""

from __future__ import annotations

import copy
import inspect
import pickle
from dataclasses import replace

import pytest

import invsolve as iv
from invsolve.strategies import MMPS, TMPD, Guided, PiGDM, PublishedPiGDM, Unconditional

PRESETS = {MMPS: iv.strategies.MomentMatching, TMPD: iv.strategies.TweedieMoment}
PRESETS |= {PiGDM: iv.strategies.PseudoinverseGuidance, Unconditional: iv.strategies.NoGuidance}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.__name__)
def test_a_preset_makes_instances_of_itself_and_of_guided(preset):
    made = preset(num_steps=7)
    assert inspect.isclass(preset) and issubclass(preset, Guided)
    assert isinstance(made, preset) and isinstance(made, Guided) and isinstance(made, iv.strategies.Strategy)
    assert [p for p in PRESETS if isinstance(made, p)] == [preset]
    assert made.name == preset.__name__ and made.num_steps == 7
    assert repr(made).startswith("Guided(guidance=")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.__name__)
def test_instances_are_the_guided_strategies_of_the_guidance(preset):
    """Same options, same fingerprint, equal; copies, pickles and replaced ones stay instances."""
    made = preset()
    written = Guided(PRESETS[preset](), made.sampler)
    assert isinstance(written, preset) and written == made and written.fingerprint() == made.fingerprint()
    assert not isinstance(Guided(PRESETS[TMPD if preset is MMPS else MMPS](), made.sampler), preset)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), replace(made, num_steps=50)):
        assert isinstance(other, preset) and other == made
    assert preset.__name__ in iv.results.citations.SOURCES or preset.__name__ in iv.results.citations.OWN


def test_nothing_else_is_an_instance():
    assert not any(isinstance(x, p) for x in (None, 1, iv.strategies.Exact(), MMPS) for p in PRESETS)


def test_pigdm_as_published_is_a_pigdm_too():
    made = PiGDM(form="published", num_steps=9)
    assert isinstance(made, PiGDM) and isinstance(made, PublishedPiGDM) and not isinstance(made, Guided)
    assert not isinstance(made, MMPS) and made.num_steps == 9 and made.name == "PiGDM, published"


def test_the_obvious_arguments_are_positional():
    guidance, sampler = iv.strategies.MomentMatching(), iv.samplers.Euler()
    assert Guided(guidance, sampler) == Guided(guidance=guidance, sampler=sampler)
    for kind in (iv.strategies.AdaptiveSDE, iv.strategies.DeqParallel):
        assert kind(guidance) == kind(guidance=guidance)
        with pytest.raises(TypeError, match="positional argument"):
            kind(guidance, 0.1)
    with pytest.raises(TypeError, match="positional argument"):
        Guided(guidance, sampler, 50)
