"""How `solve` runs a strategy: the border, the loop, the budget."""

__all__: list[str] = []
