"""What is minimised: divergences over rows, the head and the loss in chunks, the teacher and its cache, the objective."""
