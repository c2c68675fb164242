"""A run's numbers: one record per step, the console, and loggers."""
