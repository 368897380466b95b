"""Layouts of other people's weight files: what `invsolve.priors.load` reads besides its own, one a module.

Nothing is imported here: a layout is wanted by few, and networks of others cost every import a hundredth of a second.
"""

__all__: list[str] = []
