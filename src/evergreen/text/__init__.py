"""The text line: a transformer classifier from corpus to bundle."""
