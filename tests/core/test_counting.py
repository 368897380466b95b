"""Counting: what is reported inside adds up, outside it is dropped."""

from __future__ import annotations

import threading

import pytest
import torch

from invsolve.core.counting import count, tally
from invsolve.operators.matrix import Matrix
from invsolve.priors.exact.gaussian import GaussianPrior


def test_outside_nothing_is_counted():
    count("denoise", 3)
    with tally() as calls:
        pass
    assert not calls


def test_a_nested_tally_reports_outwards():
    with tally() as outer:
        count("denoise", 1)
        with tally() as inner:
            count("denoise", 4)
            count("vjp", 2)
        count("vjp", 1)
    assert dict(inner) == {"denoise": 4, "vjp": 2}
    assert dict(outer) == {"denoise": 5, "vjp": 3}


def test_an_exception_leaves_the_counts_and_the_tally_around():
    with tally() as outer:
        with pytest.raises(ZeroDivisionError), tally():
            count("operator", 2)
            raise ZeroDivisionError
        count("operator", 1)
    assert outer["operator"] == 3
    count("operator", 9)
    assert outer["operator"] == 3


def test_threads_do_not_see_each_other():
    with tally() as calls:
        thread = threading.Thread(target=count, args=("denoise", 7))
        thread.start()
        thread.join()
    assert not calls


def test_what_operators_and_priors_report():
    A = Matrix(matrix=torch.ones(2, 3))
    prior = GaussianPrior(mean=torch.zeros(3), covariance=torch.eye(3))
    x = torch.ones(4, 3)
    with tally() as calls:
        A.adjoint(A(x))
        A.normal(x)
        prior.denoise(x, 1.0)
        _, pull = prior.pullback(x, 1.0)
        pull(x)
        pull(x)
    assert dict(calls) == {"operator": 8, "adjoint": 8, "denoise": 8, "vjp": 8}
