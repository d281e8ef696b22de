"""The folder of one run: its settings, its finished phases, and which files hold personal data."""
