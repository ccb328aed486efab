"""One module a verb, and nothing else."""
