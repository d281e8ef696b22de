"""Worlds that ship with the package: data small enough for tests and quick experiments, no network needed."""
