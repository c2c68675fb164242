"""Pretraining objectives: each owns its heads, noise and masks, and shares the encoders."""
