"""The tests of `result.check()`, one kind a module; `check_result` puts the report together."""

__all__: list[str] = []
