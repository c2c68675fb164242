"""MoleBLEND: an encoder of both modalities sees a blend of relations of atoms, and predicts all of them.

Yu et al. 2024 (ICLR); ``docs/deviations.md`` lists the differences from the released code. Symbols of shapes: ``g``
molecules, ``n`` atoms, ``p`` unordered atom pairs; rows [2p] are the pairs with i < j, then the same with i > j.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.extensions import extended
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.diffusion.draws import normal
from molstream.training.models.blending import DISTANCE, PATH_BONDS, PATH_LENGTH, Blend, draw_blend
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import ENCODERS, Encoders
from molstream.training.models.gin import BOND_VOCABULARY_SIZES
from molstream.training.models.graph import in_float32, molecule_pairs, segment_sum
from molstream.training.models.layout import bucketed
from molstream.training.models.paths import floyd_warshall_paths
from molstream.training.objectives.base import Objective, Term, graph_mean
from molstream.training.objectives.config import MoleBLENDConfig
from molstream.training.objectives.pair_heads import DirectionHead, PairHead

NUM_LENGTHS = 11
"""Classes of path lengths: 1 to 10 bonds, and more."""
MAX_HOPS = 5
"""Bonds at the beginning of a path that are predicted."""
NUM_BONDS = math.prod(BOND_VOCABULARY_SIZES)
"""Classes of bonds: every combination of type, stereo and conjugation."""
UNKNOWN = -1
"""Class of what is not predicted: the length of a path between fragments, and a bond beyond the end of a path."""
HUBER_DELTA = 1.0
"""Error of a distance in angstrom above which its loss is linear."""
HIDDEN_OF_DIRECTIONS = 256
"""Width of the linear layer before directions in the released code."""


class Truth(NamedTuple):
    """What is predicted of pairs."""

    length: Tensor
    """int64 [2p]: class of the length of a shortest path; UNKNOWN between fragments."""
    bonds: Tensor
    """int64 [2p, MAX_HOPS]: class of each of the first bonds of the path; UNKNOWN beyond its end."""
    vector: Tensor
    """[2p, 3]: from the first atom to the second, angstrom, at least float32."""


class Recovered(NamedTuple):
    """What MoleBLEND makes of a batch."""

    blend: Blend
    """What was shown."""
    truth: Truth
    """What is true, of pairs."""
    molecule: Tensor
    """int64 [2p]: molecule of each pair."""
    length: Tensor
    """float32 [2p, NUM_LENGTHS]: logits."""
    bonds: Tensor
    """float32 [2p, MAX_HOPS, NUM_BONDS]: logits."""
    geometry: Tensor
    """float32 [2p] predicted distances, angstrom; or [2p, 3] directions."""
    noise: Tensor
    """float32 [n, 3]: what was added to the positions, angstrom."""
    direction: Tensor
    """float32 [n, 3]: predicted direction of the noise."""

    def hidden(self, relation: int) -> Tensor:
        """bool [2p]: where a relation of two atoms was not shown."""
        return self.blend.relation[: len(self.molecule)] != relation


class MoleBLEND(Objective):
    """L = c_n L_noise + c_d L_distance + c_l L_length + c_b L_bonds on a blend of bond graph and noised positions.

    - L_length, L_bonds: cross-entropy of the number of bonds on a shortest path and of the first five of them; mean
      over all ordered pairs, or bonds, of a micro-batch.
    - L_distance: Huber loss of the distance without noise; mean over the pairs of a molecule, then over the molecules
      with a conformer. Or 1 - the cosine of the vector from one atom to the other.
    - L_noise: 1 - the cosine of an atom's noise; mean over the atoms whose surroundings are shown, in molecules of
      several atoms.

    Raises:
        ConfigError: the model has no encoder of both modalities.
    """

    required_fields = frozenset({"atom_features", "bond_index", "bond_features", "positions"})

    def __init__(self, config: MoleBLENDConfig, model: ModelConfig, labels: Labels):
        super().__init__()
        self.config = config
        name = model.encoder_of("both")
        sizes, width, rank = getattr(model, name), model.hidden_2d, config.pair_rank
        self.length = PairHead(width, rank, NUM_LENGTHS)
        self.bonds = PairHead(width, rank, MAX_HOPS * NUM_BONDS)
        if config.geometry == "distance":
            self.geometry = PairHead(width, rank, 1)
        else:
            self.geometry = PairHead(width, rank, 3, HIDDEN_OF_DIRECTIONS)
        encoder: Any = extended(ENCODERS, "encoders")[name]
        self.direction = DirectionHead(width, sizes.num_heads, encoder.bias_of_pairs(sizes), config.attention_dropout)

    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute the losses; metrics are the unweighted losses, and how well is predicted what was not shown."""
        found = self.recover(batch, encoders, generator)
        return {
            "noise": self._noise_term(found, batch),
            self.config.geometry: self._geometry_term(found, batch),
            "path length": self._class_term("path_length", found.length, found.truth.length, found, PATH_LENGTH),
            "path bonds": self._class_term("path_bonds", found.bonds, found.truth.bonds, found, PATH_BONDS),
        }

    def recover(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> Recovered:
        """Blend a batch, encode it, and predict what is true of all pairs."""
        pairs, config = molecule_pairs(batch.batch), self.config
        blend = draw_blend(
            pairs,
            batch.batch,
            batch.has_pos,
            config.blend.probabilities(),
            config.blend.surroundings,
            config.blend.pairs == "ordered",
            generator,
        )
        noise = config.position_noise * normal(batch.pos.shape, generator).to(in_float32(batch.pos))
        noised = replace(batch, pos=in_float32(batch.pos) + noise)
        h, relation = encoders.blended(noised, blend, generator)
        layout, count = bucketed(batch.batch, ordered=True), 2 * pairs.shape[1]
        geometry = self.geometry(h, layout)[:count]
        return Recovered(
            blend=blend,
            truth=truth(batch, pairs),
            molecule=batch.batch.index_select(0, torch.cat([pairs[0], pairs[0]])),
            length=self.length(h, layout)[:count],
            bonds=self.bonds(h, layout)[:count].unflatten(1, (MAX_HOPS, NUM_BONDS)),
            geometry=F.softplus(geometry).squeeze(1) if config.geometry == "distance" else geometry,
            noise=noise,
            direction=self.direction(h, relation, noised.pos, layout, generator),
        )

    def _class_term(self, name: str, logits: Tensor, label: Tensor, found: Recovered, relation: int) -> Term:
        """Cross-entropy of classes [..., k] with labels [...], of pairs in the first dimension."""
        hidden = found.hidden(relation).view(-1, *[1] * (label.dim() - 1)) & (label != UNKNOWN)
        counted = hidden if self.config.loss_on == "hidden" else label != UNKNOWN
        losses = F.cross_entropy(logits.flatten(0, -2), label.clamp(min=0).flatten(), reduction="none").view_as(label)
        loss = graph_mean(losses, counted)
        right = (logits.argmax(-1) == label).to(loss.dtype)
        coefficient = getattr(self.config, f"{name}_coefficient")
        return Term(coefficient, loss, {name: loss, f"{name}_accuracy": graph_mean(right, hidden)})

    def _geometry_term(self, found: Recovered, batch: MoleculeBatch) -> Term:
        counted = batch.has_pos[found.molecule]
        hidden = counted & found.hidden(DISTANCE)
        counted = hidden if self.config.loss_on == "hidden" else counted
        vector = found.truth.vector
        distance = torch.linalg.vector_norm(vector, dim=1)
        metrics = {}
        if self.config.geometry == "distance":
            losses = F.huber_loss(found.geometry, distance, reduction="none", delta=HUBER_DELTA)
            metrics["distance_error"] = graph_mean((found.geometry - distance).abs(), hidden)
        else:
            losses = 1.0 - F.cosine_similarity(found.geometry, vector, dim=1)
        total = segment_sum(torch.where(counted, losses, 0.0), found.molecule, batch.num_graphs)
        count = torch.bincount(found.molecule[counted], minlength=batch.num_graphs)
        loss = graph_mean(total / count.clamp(min=1), count > 0)
        return Term(self.config.geometry_coefficient, loss, {self.config.geometry: loss, **metrics})

    def _noise_term(self, found: Recovered, batch: MoleculeBatch) -> Term:
        losses = 1.0 - F.cosine_similarity(found.direction, found.noise, dim=1)
        # An atom alone has no direction to another.
        counted = found.blend.surroundings & (batch.ptr.diff() > 1)[batch.batch]
        loss = graph_mean(losses, counted)
        return Term(self.config.noise_coefficient, loss, {"noise": loss})


def truth(batch: MoleculeBatch, pairs: Tensor) -> Truth:
    """What is true of the unordered ``pairs`` [2, p] of a batch in both directions."""
    paths = floyd_warshall_paths(batch.edge_index, batch.batch, pairs, MAX_HOPS)
    kind, stereo, conjugated = batch.edge_attr.unbind(1)
    _, num_stereo, num_conjugated = BOND_VOCABULARY_SIZES
    # The last entry stands for no bond, which a path has as number -1.
    of_bond = F.pad((kind * num_stereo + stereo) * num_conjugated + conjugated, (0, 1), value=UNKNOWN)
    pos = in_float32(batch.pos)
    vector = pos.index_select(0, pairs[1]) - pos.index_select(0, pairs[0])
    return Truth(
        length=torch.where(paths.distance > 0, paths.distance.clamp(max=NUM_LENGTHS) - 1, UNKNOWN),
        bonds=of_bond[paths.bonds],
        vector=torch.cat([vector, -vector]),
    )
