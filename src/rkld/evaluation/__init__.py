"""What a model still knows: its likelihoods and greedy answers, and metrics that are functions of them."""
