"""Published methods, faithful to their papers."""

__all__: list[str] = []
