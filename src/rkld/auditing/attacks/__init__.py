"""Attacks that bring back what was only hidden, one file each."""
