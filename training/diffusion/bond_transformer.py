"""3D-to-2D score network of the objective ``moleculesde``: bonds and formal charges from positions, by a transformer.

Bonds are diffused as one-hot classes of unordered atom pairs, which makes them symmetric and free of padding; formal
charges as one-hot classes of atoms. Elements are not diffused: they are given with the positions. Symbols of
shapes: ``n`` atoms, ``p`` unordered pairs in the order of :func:`~molstream.training.models.graph.molecule_pairs`.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.score_trunk import NoiseEmbedding, NoiseLevel
from molstream.training.models.config import ScoreTransformerConfig
from molstream.training.models.gin import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES
from molstream.training.models.graph import in_float32, molecule_pairs
from molstream.training.models.layout import bucketed
from molstream.training.models.relations import GeometricRelation, linear, pair_vectors
from molstream.training.models.symmetry import INVARIANT, Symmetry
from molstream.training.models.transformer import Trunk

NUM_BOND_CLASSES = 1 + BOND_VOCABULARY_SIZES[0]
"""Number of bond classes: no bond, then OGB's bond types."""
FORMAL_CHARGE = 3
"""Column of formal charge in the OGB atom features."""
NUM_CHARGE_CLASSES = ATOM_VOCABULARY_SIZES[FORMAL_CHARGE]
"""Number of charge classes: OGB's formal charges, -5 to 5, then misc."""
DATA_STD = 0.4
"""Standard deviation of the one-hot data, in which a few classes are frequent."""


def one_hot_bonds(batch: MoleculeBatch) -> Tensor:
    """Encode the bond of each pair one-hot, float32 [p, NUM_BOND_CLASSES]."""
    first, second = batch.edge_index
    pairs = molecule_pairs(batch.batch)
    forward = (first < second).nonzero().squeeze(1)
    key = pairs[0] * batch.num_nodes + pairs[1]
    place = torch.searchsorted(key, first[forward] * batch.num_nodes + second[forward])
    bond = torch.zeros_like(key).index_copy(0, place, batch.edge_attr[forward, 0] + 1)
    return F.one_hot(bond, NUM_BOND_CLASSES).to(torch.float32)


def one_hot_charges(batch: MoleculeBatch) -> Tensor:
    """Encode the formal charge of each atom one-hot, float32 [n, NUM_CHARGE_CLASSES]."""
    return F.one_hot(batch.x[:, FORMAL_CHARGE], NUM_CHARGE_CLASSES).to(torch.float32)


def noise_of_classes(logits: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Expected noise in one-hot classes x = alpha x_0 + sigma noise, from class logits that do not use x itself.

    By Bayes' rule the noised value of a row adds alpha x / sigma^2 to its logits; E[x_0 | x] is their softmax, and the
    noise is (x - alpha E[x_0 | x]) / sigma (score interpolation, Dieleman et al. 2022, arXiv 2211.15089, section 3.1).
    So the network only has to predict a row from the rest of the molecule, and is right by construction at low noise.

    Args:
        logits: [m, c] class logits, up to a constant per row.
        x: [m, c] noised one-hot classes.
        alpha: [m] factor of the data.
        sigma: [m] standard deviation of the noise.

    Returns:
        The expected noise, [m, c].
    """
    alpha, sigma = alpha.unsqueeze(1), sigma.unsqueeze(1)
    return (x - alpha * torch.softmax(logits + alpha / sigma**2 * x, dim=1)) / sigma


def decode(bonds: Tensor, charges: Tensor) -> tuple[Tensor, Tensor]:
    """Decode denoised bonds [p, NUM_BOND_CLASSES] and charges to the most likely classes, int64 [p] and int64 [n]."""
    return bonds.argmax(1), charges.argmax(1)


class BondTransformer(nn.Module):
    """Predicts the noise in noised bonds and charges from representations of the positions; score = -noise / sigma."""

    symmetry: ClassVar[Symmetry] = INVARIANT

    def __init__(self, config: ScoreTransformerConfig, hidden_3d: int):
        super().__init__()
        trunk = config.trunk
        self.atoms = linear(hidden_3d, trunk.hidden)
        self.charges_in = linear(NUM_CHARGE_CLASSES, trunk.hidden)
        self.bonds_in = linear(NUM_BOND_CLASSES, trunk.pair_hidden)
        self.noise = NoiseEmbedding(trunk.hidden)
        self.geometry = GeometricRelation(trunk.pair_hidden)
        self.mix = linear(trunk.pair_hidden, trunk.pair_hidden)
        self.trunk = Trunk(trunk, condition_width=trunk.hidden)
        self.ends = linear(trunk.hidden, 2 * config.readout_hidden)
        self.between = linear(trunk.pair_hidden, config.readout_hidden)
        self.bonds_out = linear(config.readout_hidden, NUM_BOND_CLASSES)
        self.charges_out = linear(trunk.hidden, NUM_CHARGE_CLASSES)

    def forward(
        self,
        z: Tensor,
        batch: MoleculeBatch,
        bonds: Tensor,
        charges: Tensor,
        level: NoiseLevel,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Predict the noise in bonds and charges.

        Args:
            z: [n, hidden_3d] representations of the 3D encoder.
            batch: the molecules; their own bonds and charges are not used.
            bonds: [p, NUM_BOND_CLASSES] noised.
            charges: [n, NUM_CHARGE_CLASSES] noised.
            level: noise level of each molecule.
            generator: source of the dropout masks.

        Returns:
            The noise of bonds and of charges, in the shapes of the inputs, at least float32.
        """
        geometry = pair_vectors(batch.pos, batch.batch)
        i, j = geometry.pairs
        of_pairs, of_atoms = (NoiseLevel(*(c[m] for c in level)) for m in (batch.batch.index_select(0, i), batch.batch))
        bonds, charges = in_float32(bonds), in_float32(charges)
        x = self.atoms(z)
        x = x + self.charges_in(_unit_size(charges, of_atoms).to(x.dtype))
        bonded = self.bonds_in(_unit_size(bonds, of_pairs).to(x.dtype))
        relation = self.mix(F.silu(self.geometry(batch.x[:, 0], geometry) + F.pad(bonded, (0, 0, 0, 1))))
        x = self.trunk(x, relation, bucketed(batch.batch), generator, self.noise(level)[batch.batch])
        total, product = self.ends(x).chunk(2, dim=1)
        hidden = total.index_select(0, i) + total.index_select(0, j) + self.between(relation[:-1])
        hidden = F.silu(hidden + product.index_select(0, i) * product.index_select(0, j))
        return (
            noise_of_classes(in_float32(self.bonds_out(hidden)), bonds, *of_pairs),
            noise_of_classes(in_float32(self.charges_out(x)), charges, *of_atoms),
        )


def _unit_size(x: Tensor, level: NoiseLevel) -> Tensor:
    """Scale noised classes [m, c] to about unit size at every noise level [m]."""
    return x / torch.sqrt(level.sigma**2 + (DATA_STD * level.alpha) ** 2).unsqueeze(1)
