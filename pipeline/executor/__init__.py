"""Where tasks run: Ray, on this machine or a cluster."""
