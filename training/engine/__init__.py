"""The training engine: a DeepSpeed step with the same result, to the last bit, at any number of processes."""
