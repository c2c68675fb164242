"""Checkpoints: file format, stores, background writer and strict loading."""
