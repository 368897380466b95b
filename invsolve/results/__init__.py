"""What `solve` returns: statistics, files, summaries, certificates, comparison, citations."""

__all__: list[str] = []
