"""One module a verb: where the layers meet."""
