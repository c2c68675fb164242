"""Metrics of a run: one record per step, console output, and loggers."""
