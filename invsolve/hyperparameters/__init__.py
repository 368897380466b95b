"""Unknown scalars, inferred with the signal."""

__all__: list[str] = []
