"""Methods for functions: published ones for fields and the equations they obey, and sampling on several grids."""

__all__: list[str] = []
