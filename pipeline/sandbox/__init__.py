"""RDKit in a child process with limits: a molecule that hangs or crashes it is rejected, and no other is affected."""
