"""Strings and token ids: languages, segments, the tokeniser; nothing in this room imports torch."""
