"""Wrong arguments of public classes, functions and methods: the error says what is taken, and what may be meant."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback

import numpy as np
import pytest
import torch

import invsolve as iv
from invsolve.core.signatures import explain, explained
from invsolve.errors import InputError, InputTypeError

PRIOR = iv.priors.GaussianPrior(torch.zeros(3), torch.eye(3))
RESULT = iv.solve(iv.operators.Identity(), torch.ones(2, 3), PRIOR, noise=0.5, num_samples=19)
ANGLES = np.arange(4) / 4
MASK = np.ones((4, 4), bool)

WRONG = {
    "spelt alike": (lambda: iv.operators.ParallelBeam(angles=ANGLES, shape=(4, 4)), r"Did you mean in_shape=\? .*called as P"),
    "described": (lambda: iv.operators.MRI(MASK, (4, 4), sensitivities=None), r"mean maps=\? It is called as MRI\(mask, in_shape, \*,"),
    "neither": (lambda: iv.noise.Poisson(scale=1.0), r"^It is called as Poisson\(counts_per_unit, \*, background=0.0\)\.$"),
    "an own constructor": (lambda: iv.operators.GaussianBlur(sigma=1.0, in_shape=(4,)), r"GaussianBlur\(std, in_shape, \*"),
    "missing": (lambda: iv.operators.GaussianBlur(1.5), r"GaussianBlur\(std, in_shape, \*, boundary='periodic'"),
    "a prior": (lambda: iv.priors.GaussianFieldPrior((3,), spectrun=1), r"Did you mean spectrum=\? It .*mean=0.0"),
    "a function": (lambda: iv.operators.from_callable(abs, (3,), (3,), linear=True), r"from_callable\(f, in_shape, out_shape, \*"),
    "solve": (lambda: iv.solve(None, None, samples=3), r"Did you mean num_samples=\? It is called as solve\(A"),
    "a method": (lambda: RESULT.plot(0), r"It is called as plot\(\*, item=0, truth=None"),
    "a strategy": (lambda: iv.strategies.NoiseMCMC(chain=3), r"Did you mean chains=\?"),
    "a distribution": (lambda: iv.LogNormal(mean=1.0, factor=2.0), r"LogNormal\("),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_the_error_says_what_is_taken(case):
    call, words = WRONG[case]
    with pytest.raises(TypeError) as caught:
        call()
    assert not isinstance(caught.value, iv.errors.InvsolveError)
    (note,) = caught.value.__notes__
    caught.match(r"\(\) (got an unexpected|takes|missing)")
    assert __import__("re").search(words, note), note
    assert note in "".join(traceback.format_exception(caught.value))


def test_errors_of_other_calls_have_no_note():
    def inner(x):
        return x

    class Own(iv.operators.Operator):
        in_shape = out_shape = (3,)

        def _apply(self, x):
            return inner(x, 2)

    with pytest.raises(TypeError, match="inner") as caught:
        Own()(torch.ones(1, 3))
    assert not any("called as" in note for note in getattr(caught.value, "__notes__", ()))
    error = TypeError("f() got an unexpected keyword argument 'x'")
    explain(error, dict)
    assert not hasattr(error, "__notes__")


def test_classes_are_what_they_were():
    for cls in (iv.operators.MRI, iv.noise.Poisson, iv.operators.GaussianBlur, iv.Problem, iv.strategies.MMPS):
        before = cls.__init__
        explained(cls)  # once is enough
        assert cls.__init__ is before
    assert list(inspect.signature(iv.noise.Poisson).parameters) == ["counts_per_unit", "background"]
    noise = iv.noise.Poisson(2.0)
    assert pickle.loads(pickle.dumps(noise)) == copy.copy(noise) == noise or noise.counts_per_unit == 2.0


# --- what a result has not -------------------------------------------------------------------------------------------
MEANT = {
    "variance": "std",
    "var": "std",
    "credible_interval": "interval",
    "percentile": "quantile",
    "sample": "samples",
    "means": "mean",
    "chisq": "chi2",
    "evidence": "log_evidence",
    "keys": "result.parameters",
    "cite": r"iv.cite\(result",
    "load": r"iv.load_result\(path",
    "to_html": "result._repr_html_",
}


@pytest.mark.parametrize("typed", MEANT)
def test_what_a_result_has_not_is_looked_for(typed):
    with pytest.raises(
        AttributeError, match=rf"'Result' object has no attribute '{typed}'. Did you mean .*\b{MEANT[typed]}\b"
    ):
        getattr(RESULT, typed)


def test_scalars_and_parts_of_a_result_are_items_of_it():
    unknown = iv.solve(iv.operators.Identity(), torch.ones(3), PRIOR, noise=iv.LogNormal(1.0, 2.0), num_samples=3)
    with pytest.raises(AttributeError, match=r"no attribute 'std_'. Did you mean"):
        _ = unknown.std_
    prior = iv.priors.independent(rate=iv.Normal(mean=1.0, std=0.5), limit=iv.Normal(mean=4.0, std=2.0))
    named = iv.solve(iv.operators.Identity(), [1.0, 4.0], prior, noise=0.5)
    with pytest.raises(AttributeError, match=r"has no attribute 'limit'. Did you mean result\['limit'\]\?$"):
        _ = named.limit
    with pytest.raises(InputError, match=r"got 0. Of item 0 or sample 0: result.mean\[0\], result.samples\[0\]"):
        RESULT[0]


def test_a_result_is_asked_for_nothing_more():
    assert not hasattr(RESULT, "_repr_latex_") and not hasattr(RESULT, "nothing")
    with pytest.raises(AttributeError, match="no attribute '_x'$"):
        _ = RESULT._x
    for other in (copy.copy(RESULT), copy.deepcopy(RESULT), pickle.loads(pickle.dumps(RESULT))):
        assert torch.equal(other.samples, RESULT.samples)

    class Failing(type(PRIOR)):
        @property
        def named(self):
            return self.nothing_at_all

    with pytest.raises(AttributeError, match="nothing_at_all"):
        _ = Failing(torch.zeros(3), torch.eye(3)).named


# --- values that were typed ------------------------------------------------------------------------------------------
TYPED = {
    "per cent": (lambda: RESULT.interval(90), InputError, r"between 0 and 1, got 90.0. Per cent are hundredths: 0.9\."),
    "percentile": (lambda: RESULT.quantile(50), InputError, r"Per cent are hundredths: 0.5\."),
    "a class for noise": (
        lambda: iv.solve(iv.operators.Identity(), torch.ones(3), PRIOR, noise=iv.noise.Poisson),
        InputTypeError,
        r"got the class Poisson. Call it, with its parameters: iv.noise.Poisson\(...\)",
    ),
    "a word for noise": (
        lambda: iv.solve(iv.operators.Identity(), torch.ones(3), PRIOR, noise="unknown"),
        InputTypeError,
        r"got 'unknown'. For example 0.1, .* iv.LogNormal\(median=0.1, factor=3\)",
    ),
    "no noise": (lambda: iv.solve(iv.operators.Identity(), torch.ones(3), PRIOR), InputError, "For example 0.1, iv.noise.P"),
    "no std": (lambda: iv.noise.Gaussian(), InputError, r"got neither. One that is not known has a distribution: std=iv.LogN"),
    "no prior": (
        lambda: iv.solve(iv.operators.Identity(), torch.ones(3), noise=0.1),
        InputTypeError,
        r"got NoneType. To begin with, .* iv.priors.GaussianFieldPrior\(shape, iv.priors.Matern",
    ),
    "a word for a prior": (
        lambda: iv.solve(iv.operators.Identity(), torch.ones(3), "gaussian", noise=0.1), InputTypeError, "got 'gaussian'. To begin"
    ),
    "a class for a prior": (
        lambda: iv.solve(iv.operators.Identity(), torch.ones(3), iv.priors.GaussianPrior, noise=0.1),
        InputTypeError,
        r"got the class GaussianPrior. Call it, with its parameters: GaussianPrior\(...\)",
    ),
    "arguments in each other's place": (
        lambda: iv.operators.GaussianBlur((4, 4), 1.5), InputTypeError, "got float. Are two arguments in each other's place"
    ),
    "a mask for a shape": (lambda: iv.operators.MRI((4, 4), MASK), InputTypeError, "got arrays. Are two arguments in each"),
    "a number for a shape": (
        lambda: iv.priors.GaussianFieldPrior(8, iv.priors.Matern(1.0, 0.2)), InputTypeError, r"Write \(8,\) for one axis, \(8, 8\) for two"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPED)
def test_values_that_were_typed(case):
    call, error, words = TYPED[case]
    with pytest.raises(error, match=words):
        call()


def test_an_interval_is_one_of_90_per_cent_unless_said():
    assert all(map(torch.equal, RESULT.interval()[:2], RESULT.interval(0.9)[:2]))


def test_the_one_argument_of_a_family_needs_no_name():
    A = iv.operators.Family(lambda width, shape=(8,): iv.operators.GaussianBlur(width, shape), iv.LogNormal(1.5, 1.5))
    assert list(A.unknown) == ["width"]
    with pytest.raises(InputError, match="`make` must be a function with the arguments scalars"):
        iv.operators.Family(lambda a, b: iv.operators.GaussianBlur(a, (8,)), iv.LogNormal(1.5, 1.5))


X = torch.ones(3)
MORE = {
    "data first": (lambda: iv.solve(X, iv.operators.Identity(), PRIOR, noise=0.1), InputTypeError, "an operator, Identity. It comes first"),
    "prior second": (lambda: iv.solve(iv.operators.Identity(), PRIOR, X, noise=0.1), InputTypeError, "a prior, GaussianPrior. It comes third"),
    "a word for a strategy": (
        lambda: iv.solve(iv.operators.Identity(), X, PRIOR, noise=0.1, strategy="mcmc"), InputError, r"iv.strategies.NoiseMCMC\(\)"
    ),
    "one extent": (
        lambda: iv.priors.GaussianFieldPrior((4, 4), iv.priors.Matern(1.0, 2.0), extent=10), InputTypeError, r"One for each axis: \(10, 10\)"
    ),
    "one mean": (lambda: iv.priors.GaussianPrior(0.0, np.eye(3)), InputError, r"The same for n: np.full\(n, mean\)"),
    "a function for an operator": (
        lambda: iv.solve(abs, torch.ones(3), PRIOR, noise=0.1), InputTypeError, r"with batched=False if .*; of a few named .*from_simulator"
    ),
    "a table": (lambda: iv.solve(iv.operators.Identity(), "y.csv", PRIOR, noise=0.1), InputTypeError, r"numpy.loadtxt\('y.csv', delim"),
    "a prior that is no network": (lambda: iv.priors.save_prior(PRIOR, "p"), InputTypeError, "keep the lines that make them, or a pickle"),
}  # fmt: skip


@pytest.mark.parametrize("case", MORE)
def test_more_values_that_were_typed(case):
    call, error, words = MORE[case]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(
    ("function", "typed", "meant"),
    [
        (iv.operators.from_callable, "jacobian", "vjp"),
        (iv.operators.GaussianBlur, "sigma", "std"),
        (iv.solve, "sigma", "noise"),
        (iv.operators.from_callable, "gradient", "vjp"),
        (iv.priors.training.train, "epochs", "steps"),
        (iv.priors.training.train, "batch_size", "options"),
        (iv.priors.training.train, "learning_rate", "options"),
    ],
)
def test_words_of_others_are_looked_for_in_descriptions(function, typed, meant):
    with pytest.raises(TypeError) as caught:
        function(**{typed: None})
    assert caught.value.__notes__[0].startswith(f"Did you mean {meant}=?")


def test_a_simulator_takes_the_prior_for_its_parameters():
    prior = iv.priors.independent(rate=iv.Normal(mean=1.0, std=0.5), limit=iv.Normal(mean=4.0, std=2.0))
    A = iv.operators.from_simulator(lambda rate, limit: [rate * limit], prior, (1,))
    assert A.parameters == prior.layout
