"""Shard files and the manifest: written, read, cached and verified."""
