"""Encoders and the layers they share; imports torch and torch_geometric only."""
