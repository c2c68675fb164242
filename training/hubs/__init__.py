"""Exports by name: pulled from and pushed to Hugging Face, MLflow's model registry, and URLs of fsspec."""
