"""Checkpoints of other code bases, read into ours: their files, their names of tensors, their tokenisers."""
