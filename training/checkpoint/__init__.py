"""Checkpoints: format, store, background writer, strict loading."""
