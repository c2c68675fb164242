"""Pretraining objectives: each has its own heads, noise and masks; all share the encoders."""
