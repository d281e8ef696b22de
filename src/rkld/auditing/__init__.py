"""The audit: what is asked, attacks, gates and verdict."""
