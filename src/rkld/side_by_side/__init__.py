"""Two models side by side in a local page, for whoever wants to look for themselves: ``rkld compare``."""
