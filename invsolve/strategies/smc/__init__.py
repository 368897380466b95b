"""Sequential Monte Carlo: weighted particles."""

__all__: list[str] = []
