"""Long tests, one command each; their results stand in docs/experiments.md."""
