"""The run directory: its files, the history of launches, and old configurations."""
