"""Shard files and the manifest: how they are written, read, cached and verified."""
