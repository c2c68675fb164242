"""Chemistry of one molecule: pure functions on RDKit and numpy, without files, clusters or tensors."""
