"""A model written for other programs: the layouts of Hugging Face's transformers, with tokeniser files."""
