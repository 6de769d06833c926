"""Causal language models: loading, running and reading single weights. Knows nothing of SAEs."""
