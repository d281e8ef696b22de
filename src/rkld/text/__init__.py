"""Text without any model: one normal form, what is mentioned and said, what may carry a fact, what is safe to print."""
