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
from molstream.training.data.labels import Labels
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
from molstream.training.objectives.contrastive import compared_rows, contrastive_loss, projections

MIN_TIME = 1e-3
"""Lower bound of diffusion times: below it, the noise of VP is too small for float32."""


class MoleculeSDE(Objective):
    """L = c_CL L_CL + c_23 L_23 + c_32 (L_bonds + L_charges) / 2; a term with c = 0 is left out, with its networks.

    Gradients: L_23 reaches the 2D encoder, L_32 the 3D encoder, L_CL both.

    Raises:
        ConfigError: the model lacks a network, or representations of different widths are compared without projection.
    """

    required_fields = frozenset({"atom_features", "bond_index", "bond_features", "positions"})

    def __init__(self, config: MoleculeSDEConfig, model: ModelConfig, labels: Labels):
        super().__init__()
        self.config = config
        self.modalities = frozenset(
            (["2d"] if config.contrastive_coefficient or config.position_coefficient else [])
            + (["3d"] if config.contrastive_coefficient or config.bond_coefficient else [])
        )
        self.weighting = WEIGHTINGS[config.weighting]
        self.position_sde = SDES[config.position_sde.kind](config.position_sde)
        self.bond_sde = SDES[config.bond_sde.kind](config.bond_sde)
        self.position_score = self.bond_score = self.projections = None
        if config.position_coefficient:
            sizes = model.network("position_transformer", "moleculesde")
            self.position_score = PositionTransformer(sizes, model.hidden_2d, config.position_std, config.max_hops)
        if config.bond_coefficient:
            self.bond_score = BondTransformer(model.network("bond_transformer", "moleculesde"), model.hidden_3d)
        if config.contrastive_coefficient:
            self.projections = projections(model, config.contrastive_level, config.projection)
            self.contrastive = contrastive_loss(config.contrastive, config.projection)

    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute the losses; metrics are the unweighted losses and the contrastive accuracy."""
        terms: dict[str, Term] = {}
        if self.config.contrastive_coefficient:
            terms["contrast"] = self._contrastive_term(batch, encoders, generator)
        if self.config.position_coefficient:
            terms["2D to 3D"] = self._position_term(batch, encoders, generator)
        if self.config.bond_coefficient:
            terms["3D to 2D"] = self._bond_term(batch, encoders, generator)
        return terms

    def conformer_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Distribution of positions with mean zero in each molecule; score = -noise / sigma."""
        if (network := self.position_score) is None:
            return super().conformer_distribution(batch, encoders)
        z = encoders.nodes_2d(batch)
        paths = topology(batch.edge_index, batch.edge_attr, batch.batch)

        def score(x: Tensors, t: Tensor) -> Tensors:
            level = noise_level(self.position_sde, t.expand(batch.num_graphs))
            noise = network(z, batch, paths, x[0], level)
            return (-noise / level.sigma[batch.batch].unsqueeze(1),)

        part = Part(self.position_sde, batch.batch, 3, partial(centred, batch=batch))
        return Conditional((part,), score)

    def bond_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Distribution of one-hot bonds of all pairs and one-hot charges of all atoms; score = -noise / sigma."""
        if (network := self.bond_score) is None:
            return super().bond_distribution(batch, encoders)
        z = encoders.nodes_3d(batch)
        parts = (
            Part(self.bond_sde, _molecule_of_pairs(batch), NUM_BOND_CLASSES),
            Part(self.bond_sde, batch.batch, NUM_CHARGE_CLASSES),
        )

        def score(x: Tensors, t: Tensor) -> Tensors:
            bonds, charges = x
            level = noise_level(self.bond_sde, t.expand(batch.num_graphs))
            noise = network(z, batch, bonds, charges, level)
            return tuple(-eps / level.sigma[p.molecule].unsqueeze(1) for eps, p in zip(noise, parts, strict=True))

        return Conditional(parts, score)

    def _contrastive_term(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Term:
        """Contrastive loss over the atoms or molecules with positions; what is compared is normalised."""
        z_2d, z_3d = encoders.nodes_2d(batch, generator), encoders.nodes_3d(batch, generator)
        rows = compared_rows(batch, encoders, z_2d, z_3d, self.config.contrastive_level)
        if self.projections is not None:
            rows = [project(row) for project, row in zip(self.projections, rows, strict=True)]
        x, y = (F.normalize(in_float32(row), dim=1) for row in rows)
        loss, accuracy = self.contrastive(x, y, self.config.temperature, generator)
        metrics = {"contrastive": loss, "contrastive_accuracy": accuracy}
        return Term(self.config.contrastive_coefficient, loss, metrics, compared=(x, y))

    def _position_term(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Term:
        """Mean over molecules of |prediction - eps|^2 over its 3 (n - 1) degrees of freedom; about 1 at the start."""
        assert self.position_score is not None, "built where its coefficient is positive"
        z_2d = encoders.nodes_2d(batch, generator)
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

    def _bond_term(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Term:
        """Losses of bonds and charges: mean over molecules of the mean over their pairs or atoms."""
        assert self.bond_score is not None, "built where its coefficient is positive"
        z_3d = encoders.nodes_3d(batch, generator)
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
