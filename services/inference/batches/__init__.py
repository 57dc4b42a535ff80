"""Offline batches: many wishes answered when there is time for it, at the vendors' batch price where they offer one."""
