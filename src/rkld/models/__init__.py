"""Causal language models: load, check, adapt, read, save and fingerprint them."""
