"""Causal language models: load them, and find their layers and their MLPs' decoders. Knows nothing of SAEs."""
