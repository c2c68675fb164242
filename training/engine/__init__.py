"""The training engine: a step by DeepSpeed, exact at any number of processes."""
