"""The run directory and its history of launches."""
