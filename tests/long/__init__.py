"""Long tests, one command each; their results stand in benchmarks/results/long_tests.md."""
