"""Shards: which PostgreSQL instance has the data of which organization, and how it gets to another one.

`numbers`, what of it is a number · `schema`, what every instance keeps about it · `instances`, how stores see them ·
`lanes`, the same for statements that every call asks · `setup`, migrations · `copy` and `move`, how shards move ·
`cli`, commands.
"""
