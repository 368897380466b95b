"""The tests of `result.check()`, one kind a module; `invsolve.check` puts the report together."""

__all__: list[str] = []
