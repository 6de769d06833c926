"""From the language model to shards: contexts in groups, who makes which, what is kept, and what is written."""
