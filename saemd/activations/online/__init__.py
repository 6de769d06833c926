"""`activations=online`: the language model runs while the SAE trains, through a shuffle buffer."""
