"""Every metric, declared with what it says, which way it points and where it comes from."""
