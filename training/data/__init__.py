"""Turns shards into batches: collation, lane streams, validation batches, PyTorch datasets."""
