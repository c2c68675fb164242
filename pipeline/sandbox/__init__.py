"""RDKit in a child process with limits: a molecule that hangs or crashes it costs itself, nobody else."""
