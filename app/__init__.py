"""The HTTP service around the translator; it knows requests and replies, and nothing of tensors."""
