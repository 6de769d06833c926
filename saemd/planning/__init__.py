"""What a training command costs before it runs: tokens, FLOPs, bytes, seconds. Nothing is fetched or written."""
