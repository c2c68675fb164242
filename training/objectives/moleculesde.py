"""MoleculeSDE with corrections, for larger models: a contrastive loss and two diffusions between 2D and 3D.

``docs/deviations.md`` lists the differences from the published form (``moleculesde_paper``): score networks are
conditioned on the noise level and grow with the model; the losses |std * score + noise|^2 weight all noise levels; the
noise of positions has mean zero in each molecule, which makes translation exact; every molecule has the same weight,
independently of its batch; bonds are diffused as classes, and atoms without bonds are included.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.bond_transformer import (
    NUM_BOND_CLASSES,
    NUM_CHARGE_CLASSES,
    BondTransformer,
    one_hot_bonds,
    one_hot_charges,
)
from molstream.training.diffusion.conditional import Conditional, Part
from molstream.training.diffusion.draws import antithetic_uniform_times, normal
from molstream.training.diffusion.position_transformer import PositionTransformer, centred
from molstream.training.diffusion.sampling import Tensors
from molstream.training.diffusion.score_trunk import NoiseLevel, noise_level
from molstream.training.diffusion.sde import SDE, SDES
from molstream.training.diffusion.weighting import WEIGHTINGS
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import in_float32, molecule_pairs, segment_mean
from molstream.training.models.relations import topology
from molstream.training.objectives.base import Objective, Term, denoising_term
from molstream.training.objectives.config import MoleculeSDEConfig
from molstream.training.objectives.contrastive import CONTRASTIVE, compared_rows, require_equal_widths

MIN_TIME = 1e-3
"""Lower bound of diffusion times: below it, the noise of VP is too small for float32."""


class MoleculeSDE(Objective):
    """L = c_CL L_CL + c_23 L_23 + c_32 (L_bonds + L_charges) / 2.

    Gradients: L_23 reaches the 2D encoder, L_32 the 3D encoder, L_CL both.

    Raises:
        ConfigError: the encoders' representations have different widths.
    """

    required_fields = frozenset({"atom_features", "bond_index", "bond_features", "positions"})

    def __init__(self, config: MoleculeSDEConfig, model: ModelConfig):
        super().__init__()
        require_equal_widths(model)
        self.config = config
        self.contrastive = CONTRASTIVE[config.contrastive]
        self.weighting = WEIGHTINGS[config.weighting]
        self.position_sde = SDES[config.position_sde.kind](config.position_sde)
        self.bond_sde = SDES[config.bond_sde.kind](config.bond_sde)
        self.position_score = PositionTransformer(
            model.network("position_transformer", "moleculesde"), model.hidden_2d, config.position_std, config.max_hops
        )
        self.bond_score = BondTransformer(model.network("bond_transformer", "moleculesde"), model.hidden_3d)

    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute the three losses; metrics are the unweighted losses and the contrastive accuracy."""
        z_2d = encoders.nodes_2d(batch, generator)
        z_3d = encoders.nodes_3d(batch, generator)
        return {
            "contrast": self._contrastive_term(batch, encoders, z_2d, z_3d, generator),
            "2D to 3D": self._position_term(batch, z_2d, generator),
            "3D to 2D": self._bond_term(batch, z_3d, generator),
        }

    def conformer_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Distribution of positions with mean zero in each molecule; score = -noise / sigma."""
        z = encoders.nodes_2d(batch)
        paths = topology(batch.edge_index, batch.edge_attr, batch.batch)

        def score(x: Tensors, t: Tensor) -> Tensors:
            level = noise_level(self.position_sde, t.expand(batch.num_graphs))
            noise = self.position_score(z, batch, paths, x[0], level)
            return (-noise / level.sigma[batch.batch].unsqueeze(1),)

        part = Part(self.position_sde, batch.batch, 3, partial(centred, batch=batch))
        return Conditional((part,), score)

    def bond_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Distribution of one-hot bonds of all pairs and one-hot charges of all atoms; score = -noise / sigma."""
        z = encoders.nodes_3d(batch)
        parts = (
            Part(self.bond_sde, _molecule_of_pairs(batch), NUM_BOND_CLASSES),
            Part(self.bond_sde, batch.batch, NUM_CHARGE_CLASSES),
        )

        def score(x: Tensors, t: Tensor) -> Tensors:
            bonds, charges = x
            level = noise_level(self.bond_sde, t.expand(batch.num_graphs))
            noise = self.bond_score(z, batch, bonds, charges, level)
            return tuple(-eps / level.sigma[p.molecule].unsqueeze(1) for eps, p in zip(noise, parts, strict=True))

        return Conditional(parts, score)

    def _contrastive_term(
        self, batch: MoleculeBatch, encoders: Encoders, z_2d: Tensor, z_3d: Tensor, generator: torch.Generator
    ) -> Term:
        """Contrastive loss over the atoms or molecules with positions; representations are normalised."""
        rows = compared_rows(batch, encoders, z_2d, z_3d, self.config.contrastive_level)
        x, y = (F.normalize(in_float32(row), dim=1) for row in rows)
        loss, accuracy = self.contrastive(x, y, self.config.temperature, generator)
        metrics = {"contrastive": loss, "contrastive_accuracy": accuracy}
        return Term(self.config.contrastive_coefficient, loss, metrics)

    def _position_term(self, batch: MoleculeBatch, z_2d: Tensor, generator: torch.Generator) -> Term:
        """Mean over molecules of |prediction - eps|^2 over its 3 (n - 1) degrees of freedom; about 1 at the start."""
        pos = in_float32(batch.pos)
        t, level = self._level(self.position_sde, batch, generator)
        noise = centred(normal(pos.shape, generator).to(pos), batch)
        noised = level.alpha[batch.batch].unsqueeze(1) * pos + level.sigma[batch.batch].unsqueeze(1) * noise
        paths = topology(batch.edge_index, batch.edge_attr, batch.batch)
        predicted = self.position_score(z_2d, batch, paths, noised, level, generator)
        size = batch.ptr.diff()
        squared = segment_mean((predicted - noise).square().sum(1), batch.batch, batch.num_graphs)
        per_molecule = squared * size / (3 * (size - 1).clamp(min=1)) * self.weighting(self.position_sde, t, level)
        return denoising_term(self.config.position_coefficient, t, {"position_score": per_molecule}, batch.has_pos)

    def _bond_term(self, batch: MoleculeBatch, z_3d: Tensor, generator: torch.Generator) -> Term:
        """Losses of bonds and charges: mean over molecules of the mean over their pairs or atoms."""
        bonds, charges = one_hot_bonds(batch), one_hot_charges(batch)
        of_pair = _molecule_of_pairs(batch)
        t, level = self._level(self.bond_sde, batch, generator)
        noise = [normal(values.shape, generator).to(values) for values in (bonds, charges)]
        noised = [
            level.alpha[molecule].unsqueeze(1) * values + level.sigma[molecule].unsqueeze(1) * eps
            for values, eps, molecule in zip((bonds, charges), noise, (of_pair, batch.batch), strict=True)
        ]
        predicted = self.bond_score(z_3d, batch, *noised, level, generator)
        weight = self.weighting(self.bond_sde, t, level)
        losses = [
            segment_mean((guess - eps).square().mean(1), molecule, batch.num_graphs) * weight
            for guess, eps, molecule in zip(predicted, noise, (of_pair, batch.batch), strict=True)
        ]
        per_molecule = {"bond_score": losses[0], "charge_score": losses[1]}
        return denoising_term(self.config.bond_coefficient, t, per_molecule, batch.has_pos)

    def _level(self, sde: SDE, batch: MoleculeBatch, generator: torch.Generator) -> tuple[Tensor, NoiseLevel]:
        """Draw a diffusion time per molecule; returns the times and their noise levels."""
        t = antithetic_uniform_times(batch.num_graphs, generator, MIN_TIME).to(in_float32(batch.pos))
        return t, noise_level(sde, t)


def _molecule_of_pairs(batch: MoleculeBatch) -> Tensor:
    """int64 [p]: molecule of each unordered pair."""
    return batch.batch.index_select(0, molecule_pairs(batch.batch)[0])
