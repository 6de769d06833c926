"""saemd: sparse autoencoders whose features can be trusted to be there again under another seed."""

from saemd.sae.export import load_sae

__version__ = "0.1.0"
__all__ = ["__version__", "load_sae"]
