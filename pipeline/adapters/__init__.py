"""Sources that need more than a format: one small file each."""
