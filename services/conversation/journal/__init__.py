"""The journal: the events of running turns, hot, for watchers on any replica and for the next worker."""
