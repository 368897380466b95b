"""What every room uses: input checks, arrays, random numbers, files, checkpoints, counting, linear solves."""

__all__: list[str] = []
