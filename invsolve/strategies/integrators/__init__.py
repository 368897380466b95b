"""Other ways down the noise levels: adaptive steps, all levels in parallel."""

__all__: list[str] = []
