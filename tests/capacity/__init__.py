"""What docs/capacity.md computes from: the cost of a search, a turn and a stored message on this machine."""
