"""The worker: runs in SAEBench's environment and calls SAEBench. Nothing outside this folder imports it at its top."""
