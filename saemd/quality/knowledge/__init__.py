"""What the runs' own language model knows, measured: entities for RAVEL, questions for Unlearning. See README.md."""
