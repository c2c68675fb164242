"""What several networks of the reference share."""

from itertools import pairwise

from torch import nn


def perceptron(widths: list[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for before, after in pairwise(widths[1:]):
        layers += [activation(), nn.Linear(before, after)]
    return nn.Sequential(*layers)
