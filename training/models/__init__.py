"""Encoders and layers: torch and torch_geometric only, so that an export can carry this folder."""
