"""Stochastic differential equations of the diffusion objectives and their score networks."""
