"""Shards that move between two real PostgreSQL servers while questions are asked: `python -m tests.sharding`.

Load, provider and checker are those of the fault suite; the one fault is that shards move, of every service, there and
back. Nothing may be lost, and nobody may be told of an error.
"""
