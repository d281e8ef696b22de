"""What is minimised: divergences over rows, the chunked head and loss, the teacher and its cache, the objective."""
