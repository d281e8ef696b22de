"""One run: what it works on, its phases in order, what it will take."""
