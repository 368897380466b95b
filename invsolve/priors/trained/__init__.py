"""The weights of priors that come with the package; their cards are in the folder `datasets/` of the repository."""

__all__: list[str] = []
