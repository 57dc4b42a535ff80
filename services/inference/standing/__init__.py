"""How targets and keys stand: who may be asked now, what went wrong, and what replicas tell one another of it."""
