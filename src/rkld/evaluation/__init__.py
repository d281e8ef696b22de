"""What a model still knows: metrics, likelihoods, generation and statistics."""
