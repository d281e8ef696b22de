"""The teacher: its logits, made from a cache of hidden states of the original and the strengthened model."""
