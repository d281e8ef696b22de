"""What is minimised: divergences over rows, the head and the loss in chunks, the objective."""
