"""saemd: sparse autoencoders whose features can be trusted to be there again under another seed."""
