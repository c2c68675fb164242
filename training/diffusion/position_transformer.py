"""2D-to-3D score network of the objective ``moleculesde``: a transformer conditioned on the noise level.

Atoms attend to all atoms of their molecule, biased by paths along bonds and by the noised distances. Then each pair of
atoms that are close along bonds, or not connected, contributes a vector in its own frame, as in the paper
(``position_score``). Stereocentres have their deviation from the specified handedness as a feature, and contribute
vectors that correct it (``stereo``). Geometry is at least float32 in every precision of the network. Symbols of shapes:
``n`` atoms, ``p`` unordered pairs (i < j), ``q`` those that contribute vectors, ``s`` stereocentres, ``g`` molecules.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.position_score import PairGeometry, PairLinear, both_directions, pair_geometry
from molstream.training.diffusion.score_trunk import NoiseEmbedding, NoiseLevel, precondition
from molstream.training.models.config import ScoreTransformerConfig
from molstream.training.models.graph import in_float32, segment_mean, segment_sum
from molstream.training.models.layers import gaussian_basis
from molstream.training.models.layout import bucketed
from molstream.training.models.relations import (
    BASIS_NORM,
    MAX_DISTANCE,
    NUM_GAUSSIANS,
    NUM_PSEUDOSCALARS,
    Chirality,
    PairVectors,
    TopologicalRelation,
    Topology,
    linear,
    pair_vectors,
)
from molstream.training.models.stereo import Handedness, Stereocentres, handedness, stereocentres
from molstream.training.models.symmetry import Symmetry
from molstream.training.models.transformer import Trunk

MAX_SCALED_DISTANCE = 8.0
"""Upper limit of distances relative to the size of the noised molecule, which are a feature besides angstrom."""


class PositionTransformer(nn.Module):
    """Predicts the noise [n, 3] in positions from representations of the bond graph; score = -noise / sigma.

    Translations do not change the output, since positions and prediction are centred; rotations turn it. Under a
    reflection M the part along e1 and e3 becomes M o, the part along e2 and that of the stereocentres become -M o, and
    the atoms' handedness changes sign: predictions for mirror images differ.
    """

    symmetry: ClassVar[Symmetry] = Symmetry(rotation="equivariant", reflection="mixed", translation="invariant")

    def __init__(self, config: ScoreTransformerConfig, hidden_2d: int, data_std: float, max_hops: int):
        super().__init__()
        trunk = config.trunk
        self.data_std, self.max_hops = data_std, max_hops
        self.atoms = linear(hidden_2d, trunk.hidden)
        self.chirality = Chirality()
        self.chirality_embedding = linear(NUM_PSEUDOSCALARS, trunk.hidden)
        self.stereo_embedding = linear(1, trunk.hidden)
        self.noise = NoiseEmbedding(trunk.hidden)
        self.topology = TopologicalRelation(trunk.pair_hidden)
        gain = NUM_GAUSSIANS**0.5 / BASIS_NORM
        self.radial = linear(2 * NUM_GAUSSIANS, trunk.pair_hidden, gain=gain)
        self.mix = linear(trunk.pair_hidden, trunk.pair_hidden)
        self.trunk = Trunk(trunk, condition_width=trunk.hidden)
        self.ends = PairLinear(trunk.hidden, config.readout_hidden)
        self.between = linear(trunk.pair_hidden, config.readout_hidden)
        self.weights = linear(config.readout_hidden, 3)
        self.corners = PairLinear(trunk.hidden, config.readout_hidden)
        self.stereo_weight = linear(config.readout_hidden, 1)

    def forward(
        self,
        z: Tensor,
        batch: MoleculeBatch,
        topology: Topology,
        pos: Tensor,
        level: NoiseLevel,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Predict the noise in the positions.

        Args:
            z: [n, hidden_2d] representations of the 2D encoder.
            batch: the molecules; their own positions are not used.
            topology: topology of the same molecules.
            pos: [n, 3] noised positions in angstrom; they get no gradient.
            level: noise level of each molecule.
            generator: source of the dropout masks.

        Returns:
            The noise [n, 3], at least float32, with mean zero in each molecule.
        """
        ratio, alpha = level.ratio[batch.batch], level.alpha[batch.batch]
        pos = centred(in_float32(pos).detach() / alpha.unsqueeze(1), batch)
        scales = precondition(ratio, self.data_std)
        vectors = pair_vectors(pos, batch.batch)
        relation = self._relation(topology, vectors, scales.scale[topology.pairs[0], 0])
        x = self.atoms(z)
        x = x + self.chirality_embedding(self.chirality(batch.x[:, 0], vectors).to(x.dtype))
        centres = stereocentres(batch.x, batch.edge_index)
        hands = handedness(centres, pos)
        x = x.index_add(0, centres.centre, self.stereo_embedding(hands.volume.unsqueeze(1).to(x.dtype)))
        condition = self.noise(level)[batch.batch]
        x = self.trunk(x, relation, bucketed(batch.batch), generator, condition)
        predicted = self._vectors(x, relation, topology, pos * scales.scale) + self._stereo_vectors(x, centres, hands)
        return centred(scales.of_input * pos + scales.of_network * predicted, batch)

    def _relation(self, topology: Topology, vectors: PairVectors, scale: Tensor) -> Tensor:
        """[p + 1, c]: paths along bonds, and distances in angstrom and in units of the noised molecule's size."""
        distance = vectors.distance
        basis = [
            gaussian_basis(distance, MAX_DISTANCE, NUM_GAUSSIANS),
            gaussian_basis(distance * scale, MAX_SCALED_DISTANCE, NUM_GAUSSIANS),
        ]
        radial = self.radial(torch.cat(basis, dim=1).to(self.radial.weight.dtype))
        return self.mix(F.silu(self.topology(topology) + F.pad(radial, (0, 0, 0, 1))))

    def _vectors(self, x: Tensor, relation: Tensor, topology: Topology, pos: Tensor) -> Tensor:
        """[n, 3]: the mean of w1 e1 + w2 e2 + w3 e3 over an atom's pairs, at positions of unit size."""
        read = topology.close(self.max_hops).nonzero().squeeze(1)
        pairs = topology.pairs.index_select(1, read)
        source, target = both_directions(pairs)
        between = self.between(relation.index_select(0, read))
        hidden = F.silu(self.ends(x, source, target) + torch.cat([between, between]))
        basis = smooth_frames(pair_geometry(pos, pairs))
        weights = self.weights(hidden).unsqueeze(2).to(basis.dtype)
        return segment_mean((weights * basis).sum(1), target, x.shape[0])

    def _stereo_vectors(self, x: Tensor, centres: Stereocentres, hands: Handedness) -> Tensor:
        """[n, 3]: vectors on a stereocentre's neighbours along its handedness' gradients, and the opposite on it."""
        corner, centre = centres.corners.flatten(), centres.centre.repeat_interleave(centres.corners.shape[1])
        weights = self.stereo_weight(F.silu(self.corners(x, centre, corner)))
        push = weights.to(hands.gradient.dtype) * hands.gradient.flatten(0, 1)
        return segment_sum(torch.cat([push, -push]), torch.cat([corner, centre]), x.shape[0])


def smooth_frames(geometry: PairGeometry) -> Tensor:
    """Compute frames [2 q, 3, 3] of both directions of each pair: rows e1, e2, e3, the last two times the angle's sine.

    If both atoms and the centre are collinear, e2 and e3 are undefined; the factor makes them vanish there.
    """
    sine = geometry.angle[:, :1]
    shrink = torch.stack([torch.ones_like(sine), sine, sine], dim=1)
    basis = geometry.basis * shrink
    return torch.cat([basis, basis * basis.new_tensor([-1.0, -1.0, 1.0]).view(3, 1)])


def centred(values: Tensor, batch: MoleculeBatch) -> Tensor:
    """Subtract from ``values`` [n, ...] their mean in each molecule."""
    return values - segment_mean(values, batch.batch, batch.num_graphs).index_select(0, batch.batch)
