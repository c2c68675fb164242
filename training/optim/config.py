"""The configuration of the optimizer and its schedule."""

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from molstream.config import Decay, Fraction, configuration, free


@configuration
class OptimConfig:
    """The optimizer and its schedule."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw; or muon: Muon for the matrices of hidden layers, AdamW for embeddings, vectors, inputs and heads."""
    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay; vectors and scalars (biases, norms) are exempt."""
    beta1: Decay = 0.9
    """Decay of the gradient's running mean."""
    beta2: Decay = 0.999
    """Decay of the gradient's running square."""
    momentum: Decay = 0.95
    """Decay of the gradient's running mean under Muon."""
    eps: PositiveFloat = 1e-8
    """Added to the root of the running square."""
    schedule: Literal["constant", "cosine", "wsd"] = "cosine"
    """Learning rate after warm-up: constant; cosine, down to lr x final_lr_fraction at the last step; or wsd (warm-up,
    stable, decay), constant and then a straight line down to it."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warm-up."""
    final_lr_fraction: Fraction = 0.0
    """Where cosine and wsd end, as a fraction of lr."""
    decay_fraction: Decay = 0.2
    """The share of all steps in which wsd decays, at the end (Haegele et al. 2024, arXiv 2405.18392: 0.1 to 0.2)."""
    gradient_clipping: NonNegativeFloat = 1.0
    """Bound on the gradient's global L2 norm; 0 for none."""
    ema_decay: Decay = 0.0
    """Decay of an exponential moving average of the weights, which exports then prefer; 0 for none."""
    max_skipped: NonNegativeInt = free(default=10)
    """Most consecutive steps without a finite gradient, which are skipped, before training stops."""
