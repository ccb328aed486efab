"""Rows on disk: tiles in, rows out."""
