"""saemd: sparse autoencoders whose features can be trusted to be there again under another seed."""

from saemd.sae.export import load_sae

__all__ = ["load_sae"]
