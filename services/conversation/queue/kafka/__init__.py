"""The queue on Kafka: one topic of 64 partitions keyed by conversation, one group, positions committed by us."""
