"""`activations=memory`: the shards in the memory of the host or of a GPU."""
