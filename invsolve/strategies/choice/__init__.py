"""Which strategy: what `auto` tries, and what `advise` says."""

__all__: list[str] = []
