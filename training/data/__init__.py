"""From shards to batches: collation, the lane stream, validation."""
