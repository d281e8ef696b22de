"""Every setting, once. Imports no torch."""
