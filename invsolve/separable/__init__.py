"""Posteriors that fall apart into one dimension for every entry of the signal, exact by quadrature."""

__all__: list[str] = []
