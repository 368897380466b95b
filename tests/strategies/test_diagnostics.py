"""What strategies say of their rows: typed, a mapping for everybody else, folded as each quantity asks."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import invsolve as iv
from invsolve.strategies import Diagnostics
from invsolve.strategies.diagnostics import MEANINGS, meaning

D = torch.float64


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=D)


def test_it_is_a_mapping_of_what_is_given():
    found = Diagnostics(ess=row(3.0), residuals={"cg_residual": row(0.1)}, extra={"score": row(2.0)})
    assert list(found) == ["ess", "cg_residual", "score"] and len(found) == 3
    assert found["ess"] is found.ess and found["cg_residual"].item() == 0.1 and found["score"].item() == 2.0
    assert "beta" not in found and found.beta is None and repr(found) == "Diagnostics(ess, cg_residual, score)"
    with pytest.raises(KeyError, match="beta"):
        found["beta"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.ess = row(1.0)  # type: ignore[misc]


def test_names_of_a_mapping_find_their_places():
    given = {"score": row(1.0), "beta": row(0.5), "newton_residual": row(0.2)}
    found = Diagnostics.from_mapping(given)
    assert Diagnostics.from_mapping(found) is found and Diagnostics.from_mapping({}).beta is None
    assert dict(found) == given
    assert found.beta is given["beta"] and set(found.residuals) == {"newton_residual"} and set(found.extra) == {"score"}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"extra": {"beta": row(1.0)}}, "`extra` must be names that have no meaning"),
        ({"extra": {"my_residual": row(1.0)}}, "`extra` must be names that have no meaning"),
        ({"residuals": {"score": row(1.0)}}, '`residuals` must be names with "residual" in them'),
    ],
)
def test_a_name_has_one_place(options, word):
    with pytest.raises(iv.errors.InputError, match=word):
        Diagnostics(**options)


def test_residuals_are_those_of_all_steps_and_the_rest_of_the_last():
    first = Diagnostics(ess=row(9.0, 9.0), residuals={"cg_residual": row(0.5, 0.1)})
    now = Diagnostics(ess=row(2.0, 3.0), residuals={"cg_residual": row(0.2, 0.3)}, extra={"score": row(1.0, 1.0)})
    after = now.after(first)
    assert after["cg_residual"].tolist() == [0.5, 0.3] and after["ess"].tolist() == [2.0, 3.0] and "score" in after
    assert "cg_residual" not in Diagnostics(ess=row(1.0)).after(first)  # what is not said any more is not kept


def test_points_of_a_row_fold_to_the_worst():
    found = Diagnostics(ess=row(5.0, 4.0, 6.0, 7.0), residuals={"cg_residual": row(0.1, 0.2, 0.4, 0.3)})
    assert {k: v.tolist() for k, v in found.over_points(2).items()} == {"ess": [4.0, 6.0], "cg_residual": [0.2, 0.4]}


def test_islands_keep_the_fewest_founders():
    found = Diagnostics(founders=torch.tensor([[4, 2], [7, 9]]), log_evidence=torch.zeros(2, 2))
    assert {k: v.tolist() for k, v in found.over_islands().items()} == {"founders": [2.0, 7.0]}


def test_every_quantity_says_what_it_is():
    fields = {f.name for f in dataclasses.fields(Diagnostics)} - {"residuals", "extra"}
    assert set(MEANINGS) == fields and all(m.text for m in MEANINGS.values())
    assert meaning("cg_residual").steps == "worst" and meaning("score").steps == "last"


def test_what_strategies_say_is_in_the_result_by_name():
    """Typed or a plain mapping: the names and values of `result.info` are the same."""

    @dataclasses.dataclass(frozen=True)
    class State:
        x: torch.Tensor

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Prior(iv.strategies.Strategy):
        typed: bool
        num_steps: int = 2

        def init(self, run):
            return State(x=run.prior.mean + run.noise(-1))

        def step(self, run, state, i):
            said = {"ess": row(*[4.0] * run.rows), "fit_residual": row(*[0.5 - i] * run.rows).abs()}
            return state, Diagnostics.from_mapping(said) if self.typed else said

    A, prior = (
        iv.operators.Matrix(matrix=torch.eye(2, dtype=D)),
        iv.priors.GaussianPrior(mean=torch.zeros(2, dtype=D), covariance=torch.eye(2, dtype=D)),
    )
    typed, plain = (
        iv.solve(A, torch.zeros(1, 2, dtype=D), prior, noise=1.0, strategy=Prior(typed=t), num_samples=3).info
        for t in (True, False)
    )
    assert set(typed) == set(plain) >= {"ess", "fit_residual"}
    assert all(torch.equal(typed[name], plain[name]) for name in plain)
