"""Contrastive losses between 2D and 3D representations (specification of MoleculeSDE, section 3).

``x`` and ``y`` [m, d] are the 2D and the 3D rows of the same m atoms or molecules; s(x, y) = <x, y> / temperature,
neither normalised nor projected, as in the original. Similarities are at least float32. With m = 0, loss and accuracy
are zero, with gradient. The specification's names are EBM_node_dot_prod, EBM_dot_prod and InfoNCE_dot_prod.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import in_float32

CONTRASTIVE_LEVELS = ("atom", "molecule")
"""Levels of the contrast: the rows of x and y are atoms or molecules."""


def require_equal_widths(model: ModelConfig, level: str) -> None:
    """Check that 2D and 3D representations can be compared as they are.

    Args:
        level: that of the rows: atom or molecule.

    Raises:
        ConfigError: they have different widths.
    """
    widths = compared_widths(model, level)
    if widths["2d"] != widths["3d"]:
        keys = "hidden" if level == "atom" else "hidden and readout"
        raise ConfigError(
            f"the contrastive loss compares {level}s as they are represented, so that both encoders need the same "
            f"width: got {widths['2d']} for the 2D and {widths['3d']} for the 3D encoder. Give both the same {keys}; "
            "objective=moleculesde can also compare projections (objective.moleculesde.projection=256)."
        )


def compared_widths(model: ModelConfig, level: str) -> dict[str, int]:
    """Width of the rows of each modality at a level, atom or molecule.

    Raises:
        ConfigError: the model lacks an encoder.
    """
    width = model.width if level == "atom" else model.readout_width
    return {modality: width(modality) for modality in ("2d", "3d")}


def projections(model: ModelConfig, level: str, width: int | None) -> nn.ModuleList | None:
    """The projection heads of the 2D and 3D rows to ``width`` (SimCLR, Chen et al. 2020); None for width None.

    Raises:
        ConfigError: the model lacks an encoder, or rows of different widths would be compared as they are.
    """
    if width is None:
        return require_equal_widths(model, level)
    return nn.ModuleList(_head(own, width) for own in compared_widths(model, level).values())


class Predictive(nn.Module):
    """1 - the cosine of each modality's prediction of the other, which gets no gradient (SimSiam, Chen and He 2021).

    There are no negatives; the predictors, and gradients on one side only, keep representations from collapsing.

    Args:
        width: that of the rows.
    """

    def __init__(self, width: int):
        super().__init__()
        self.heads = nn.ModuleList(_head(width, width) for _ in range(2))

    def forward(
        self, x: Tensor, y: Tensor, temperature: float, generator: torch.Generator, num_negatives: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Compute loss and accuracy: how often the prediction of a row is nearest to its own partner of all m rows.

        ``temperature``, ``generator`` and ``num_negatives`` are unused.
        """
        losses, wins = [], []
        for head, rows, others in zip(self.heads, (x, y), (y.detach(), x.detach()), strict=True):
            cosines = F.normalize(in_float32(head(rows)), dim=1) @ in_float32(others).T
            own = cosines.diagonal()
            losses.append(_mean(1.0 - own))
            wins.append(_mean((cosines > own.unsqueeze(1)).sum(1) == 0))
        return 0.5 * (losses[0] + losses[1]), 0.5 * (wins[0] + wins[1])


def _head(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, out), nn.SiLU(), nn.Linear(out, out))


def compared_rows(
    batch: MoleculeBatch, encoders: Encoders, z_2d: Tensor, z_3d: Tensor, level: str
) -> tuple[Tensor, Tensor]:
    """Select the 2D and 3D rows of atoms with positions, or of molecules, which each encoder's readout pools."""
    kept = batch.has_pos[batch.batch]
    if level == "molecule":
        kept = batch.has_pos
        z_2d = encoders.encoder("2d").readout(z_2d, batch.batch, batch.num_graphs)
        z_3d = encoders.encoder("3d").readout(z_3d, batch.batch, batch.num_graphs)
    rows = kept.nonzero().squeeze(1)
    return z_2d.index_select(0, rows), z_3d.index_select(0, rows)


class Contrastive(Protocol):
    """Signature of the contrastive losses."""

    def __call__(
        self, x: Tensor, y: Tensor, temperature: float, generator: torch.Generator, num_negatives: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Compute loss and accuracy, both scalars."""
        ...


def ebm_nce(
    x: Tensor, y: Tensor, temperature: float, generator: torch.Generator, num_negatives: int = 1
) -> tuple[Tensor, Tensor]:
    """EBM-NCE: binary classification of true pairs against random pairs (one in the paper), in both directions.

    L(x, y) = -mean log sigma(s(x_i, y_i)) - sum_pi mean log(1 - sigma(s(x_i, y_pi(i)))), averaged over (x, y) and
    (y, x) with independent permutations pi of all rows of the batch.
    """
    return _ebm(
        x, y, temperature, [(_permutation(x, generator), _permutation(x, generator)) for _ in range(num_negatives)]
    )


def ebm_nce_shift(
    x: Tensor, y: Tensor, temperature: float, generator: torch.Generator, num_negatives: int = 1
) -> tuple[Tensor, Tensor]:
    """EBM-NCE with the next rows of the batch as negatives: the k-th of row i is row (i + k) mod m, k = 1, 2, ...

    It is deterministic. At the level of molecules the next row is another molecule; of atoms, mostly a neighbour.
    """
    rows = torch.arange(x.shape[0], device=x.device)
    shifts = [rows.roll(-k) for k in range(1, num_negatives + 1)]
    return _ebm(x, y, temperature, [(shift, shift) for shift in shifts])


def info_nce(
    x: Tensor, y: Tensor, temperature: float, generator: torch.Generator, num_negatives: int = 1
) -> tuple[Tensor, Tensor]:
    """InfoNCE: cross entropy of the true partner among all m rows of the batch, in both directions.

    All other rows are negatives; ``num_negatives`` is ignored. It is deterministic; memory grows with m^2.
    """
    with torch.autocast(x.device.type, enabled=False):
        logits = in_float32(x) @ in_float32(y).T / temperature
    positive = logits.diagonal()
    loss = 0.5 * (_mean(logits.logsumexp(1) - positive) + _mean(logits.logsumexp(0) - positive))
    wins_row = (logits > positive.unsqueeze(1)).sum(1) == 0
    wins_column = (logits > positive.unsqueeze(0)).sum(0) == 0
    return loss, 0.5 * (_mean(wins_row) + _mean(wins_column))


CONTRASTIVE: dict[str, Contrastive] = {"ebm_nce": ebm_nce, "info_nce": info_nce, "ebm_nce_shift": ebm_nce_shift}
"""Losses without parameters, by name."""


def contrastive_loss(name: str, width: int | None) -> Contrastive:
    """The loss of a name: one of :data:`CONTRASTIVE`, or ``predictive`` for rows of ``width``."""
    if name == "predictive":
        assert width is not None, "the configuration asks for a projection"
        return Predictive(width)
    return CONTRASTIVE[name]


def _ebm(x: Tensor, y: Tensor, temperature: float, others: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Binary classification of true pairs against (x_i, y_other(i)) and (y_i, x_other(i)), for each item of ``others``.

    The similarity is symmetric, so the positive parts of both directions are equal.
    """
    x, y = in_float32(x), in_float32(y)
    positive = (x * y).sum(1) / temperature
    loss, accuracy = _mean(F.softplus(-positive)), 0.5 * _mean(positive > 0)
    for of_x, of_y in others:
        negative_x = (x * y.index_select(0, of_x)).sum(1) / temperature
        negative_y = (y * x.index_select(0, of_y)).sum(1) / temperature
        loss = loss + 0.5 * (_mean(F.softplus(negative_x)) + _mean(F.softplus(negative_y)))
        accuracy = accuracy + 0.25 / len(others) * (_mean(negative_x < 0) + _mean(negative_y < 0))
    return loss, accuracy


def _permutation(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(x.shape[0], generator=generator, device=generator.device).to(x.device)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(values.shape[0], 1)
