"""Evaluation of trained models, and estimates of their cost."""
