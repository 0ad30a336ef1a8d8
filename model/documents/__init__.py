"""Files in bytes to the texts in them and back; one file a family of formats, and nothing here translates."""
