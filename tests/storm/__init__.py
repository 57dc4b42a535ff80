"""Calls of all shapes in tunnels whose network breaks, each held against what it may see of its server."""
