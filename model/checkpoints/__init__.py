"""Weights on disk: our format, its number formats, and later the tables that import other families."""
