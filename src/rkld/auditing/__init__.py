"""The audit: readings, attacks, gates and verdict."""
