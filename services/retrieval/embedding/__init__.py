"""Text to vectors: one Encoder port, its backends, and the service that batches and caches calls to it."""
