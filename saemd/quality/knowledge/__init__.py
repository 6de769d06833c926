"""Measures what the runs' language model knows: entities for RAVEL, questions for Unlearning. See README.md."""
