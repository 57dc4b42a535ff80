"""Answers that need not be made anew: stored ones, running ones, and the last good ones; never across organizations."""
