"""How right a strategy is on a problem: simulation-based calibration and its report."""

__all__: list[str] = []
