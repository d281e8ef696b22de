"""The folder of one run: what was asked, what has been done, and which files hold personal data."""
