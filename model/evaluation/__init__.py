"""How good and how fast translations are; nothing here is needed to translate."""
