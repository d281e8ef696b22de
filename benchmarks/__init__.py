"""Experiments and measurements, one command each; their results are committed under ``results``."""
