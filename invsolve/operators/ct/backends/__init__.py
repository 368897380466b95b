"""How line integrals are computed: by a stored sparse matrix, or by the rays as they are needed."""

__all__: list[str] = []
