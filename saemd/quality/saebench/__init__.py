"""SAEBench's own eight evaluations, run in an environment of their own: see README.md beside this file."""
