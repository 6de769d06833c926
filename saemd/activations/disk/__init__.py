"""A cache on disk, or in an object store: its records and shards, the order in which they are read, and reading."""
