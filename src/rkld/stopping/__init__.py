"""When to stop forgetting, without an oracle."""
