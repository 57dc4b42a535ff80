"""Pairs of questions that mean the same, and that only look as if they did; and what the cache makes of them."""
