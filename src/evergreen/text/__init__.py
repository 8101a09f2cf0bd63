"""The text pipeline: a transformer classifier from corpus to bundle."""
