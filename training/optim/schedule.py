"""The learning rate as a pure function of the step."""

import math

from molstream.training.optim.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Learning rate of step number ``step``, counted from 0, of ``steps`` steps; groups scale it."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    floor = config.final_lr_fraction
    if config.schedule == "wsd":
        left = (steps - step) / max(1.0, config.decay_fraction * steps)
        return config.lr * (floor + (1 - floor) * min(left, 1.0))
    return config.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def same_so_far(config: OptimConfig, done: int, steps: int, longer: int) -> bool:
    """Whether the first ``done`` steps have the learning rates in a run of ``longer`` steps that they had in ``steps``.

    Then a run that is extended is the run that had the greater length from the start.
    """
    return all(learning_rate(config, step, steps) == learning_rate(config, step, longer) for step in range(done))
