"""Batches in a fixed order, made ahead by threads, with an exact state. Knows nothing of where they come from."""
