"""Figures of results: drawn on matplotlib's Figure objects, without pyplot and its global state."""

from invsolve.core.public_names import found_later
from invsolve.plotting.parameters import plot_parameters
from invsolve.plotting.results import central_image, comparison_figure, plot_result

__all__ = ["central_image", "comparison_figure", "plot_parameters", "plot_result"]

__getattr__ = found_later(__name__)
