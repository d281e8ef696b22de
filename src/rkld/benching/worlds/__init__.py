"""The embedded worlds."""
