"""What was found, shown to people. Imports no torch."""
