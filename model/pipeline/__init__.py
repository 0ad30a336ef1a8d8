"""What a text goes through between strings and the engine: marked, decoded, checked, decoded again, put together."""
