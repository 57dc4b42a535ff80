"""The queue between API and workers: one port, one adapter per broker."""
