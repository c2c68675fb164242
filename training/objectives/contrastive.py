"""Contrastive losses between the 2D and the 3D representation of the same atom (specification of MoleculeSDE, 3).

``x`` and ``y`` [m, d] are the rows of the same m atoms; s(x, y) = <x, y> / temperature, neither normalised nor
projected, as in the original. Similarities are float32. With m = 0 loss and accuracy are zero, with gradient.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.models.graph import in_float32

Contrastive = Callable[[Tensor, Tensor, float, torch.Generator], tuple[Tensor, Tensor]]
"""(x, y, temperature, generator) to loss and accuracy, both scalars."""


def ebm_nce(x: Tensor, y: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """EBM-NCE: binary classification of the true pair against one random pair, in both directions.

    L(x, y) = -mean log sigma(s(x_i, y_i)) - mean log(1 - sigma(s(x_i, y_pi(i)))), averaged over (x, y) and (y, x) with
    independent permutations pi of all atoms of the batch. The similarity being symmetric, the positive parts are equal.
    """
    x, y = in_float32(x), in_float32(y)
    positive = (x * y).sum(1) / temperature
    negative_x = (x * y.index_select(0, _permutation(x, generator))).sum(1) / temperature
    negative_y = (y * x.index_select(0, _permutation(x, generator))).sum(1) / temperature
    loss = _mean(F.softplus(-positive)) + 0.5 * (_mean(F.softplus(negative_x)) + _mean(F.softplus(negative_y)))
    accuracy = 0.5 * _mean(positive > 0) + 0.25 * (_mean(negative_x < 0) + _mean(negative_y < 0))
    return loss, accuracy


def info_nce(x: Tensor, y: Tensor, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """InfoNCE: cross entropy of the true partner among all m atoms of the batch, in both directions.

    It draws nothing; memory grows with m^2.
    """
    with torch.autocast(x.device.type, enabled=False):
        logits = in_float32(x) @ in_float32(y).T / temperature
    positive = logits.diagonal()
    loss = 0.5 * (_mean(logits.logsumexp(1) - positive) + _mean(logits.logsumexp(0) - positive))
    wins_row = (logits > positive.unsqueeze(1)).sum(1) == 0
    wins_column = (logits > positive.unsqueeze(0)).sum(0) == 0
    return loss, 0.5 * (_mean(wins_row) + _mean(wins_column))


CONTRASTIVE: dict[str, Contrastive] = {"ebm_nce": ebm_nce, "info_nce": info_nce}


def _permutation(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(x.shape[0], generator=generator, device=generator.device).to(x.device)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.shape[0], 1)
