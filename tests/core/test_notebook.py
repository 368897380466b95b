"""What a notebook shows: reports line by line, figures as pictures."""

from __future__ import annotations

import html
import io
import pickle

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

import invsolve as iv
from invsolve.core.notebook_figure import NotebookFigure, png

N = 3
PRIOR = iv.priors.GaussianPrior(torch.zeros(N), torch.eye(N))
A = iv.operators.Matrix(torch.eye(N))
RESULT = iv.solve(A, torch.ones(N), PRIOR, noise=0.5, num_samples=19)

REPORTS = {
    "advise": lambda: iv.strategies.advise(A, PRIOR, noise=0.5),
    "one line of advise": lambda: iv.strategies.advise(A, PRIOR, noise=0.5).strategies[0],
    "check": lambda: RESULT.check(solves=False),
    "certificate": lambda: RESULT.certificate,
    "compare": lambda: iv.compare([RESULT, RESULT]),
    "check_operator": lambda: iv.testing.check_operator(A),
    "problem": lambda: RESULT.problem,
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports_show_their_text(name):
    report = REPORTS[name]()
    assert report._repr_html_() == f"<pre>{html.escape(str(report))}</pre>" and str(report) != ""


def test_text_is_escaped():
    from invsolve.diagnostics.report import CheckReport

    note = CheckReport(checks=(), level=0.02, notes=("<script>",))
    assert "<script>" not in note._repr_html_() and "&lt;script&gt;" in note._repr_html_()


FIGURES = {
    "line": lambda: RESULT.plot(),
    "number": lambda: RESULT.map(lambda x: x[:, 0]).plot(),
    "image": lambda: RESULT.map(lambda x: x[:, :, None] * x[:, None]).plot(),
    "comparison": lambda: iv.plotting.comparison_figure({"a": torch.eye(4)}, truth=torch.ones(4, 4)),
    "calibrate": lambda: iv.calibrate(A, PRIOR, noise=0.5, runs=10, num_samples=9).plot(),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_pictures(name):
    figure = FIGURES[name]()
    shown = figure._repr_png_()
    assert isinstance(figure, Figure) and imread(io.BytesIO(shown), format="png").shape[1] > 200
    assert isinstance(pickle.loads(pickle.dumps(figure)), NotebookFigure)
    assert png(figure, dpi=30) != shown


def test_axes_of_the_caller_stay_on_his_figure():
    figure = Figure()
    assert RESULT.plot(axes=figure.subplots()) is figure
