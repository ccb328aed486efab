"""Ranks and threads: who computes what, and how they agree."""
