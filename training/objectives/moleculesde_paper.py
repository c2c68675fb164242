"""MoleculeSDE as published (Liu et al., ICML 2023): a contrastive loss and two diffusions between 2D and 3D.

Formulas: specification of MoleculeSDE, sections 3 to 6. Molecules without a conformer are masked in every term; if all
have conformers, the losses are those of the paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.labels import Labels
from molstream.training.diffusion.conditional import Conditional, Part
from molstream.training.diffusion.draws import antithetic_times, normal, symmetric_normal
from molstream.training.diffusion.graph_score import GraphScore, mask_pairs
from molstream.training.diffusion.position_score import PositionScore
from molstream.training.diffusion.sampling import Tensors
from molstream.training.diffusion.sde import GRAPH_SDES, POSITION_SDES, named_sde
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.models.graph import extended_edges, in_float32, segment_mean, to_dense
from molstream.training.models.schnet import NUM_ATOM_TYPES
from molstream.training.objectives.base import Objective, Term, denoising_term
from molstream.training.objectives.config import PaperMoleculeSDEConfig
from molstream.training.objectives.contrastive import CONTRASTIVE, compared_rows, require_equal_widths


class PaperMoleculeSDE(Objective):
    """L = c_CL L_CL + c_23 L_23 + c_32 L_32.

    Gradients: L_23 reaches the 2D encoder, L_32 the 3D encoder, L_CL both.

    Raises:
        ConfigError: the encoders' representations have different widths.
    """

    required_fields = frozenset({"atom_features", "bond_index", "bond_features", "positions"})

    def __init__(self, config: PaperMoleculeSDEConfig, model: ModelConfig, labels: Labels):
        super().__init__()
        require_equal_widths(model, config.contrastive_level)
        self.config = config
        self.contrastive = CONTRASTIVE[config.contrastive]
        self.position_sde = named_sde(POSITION_SDES, config.position_sde)
        self.graph_sde = named_sde(GRAPH_SDES, config.graph_sde)
        self.position_score = PositionScore(
            model.network("position_score", "moleculesde_paper"), model.hidden_2d, config.position_variant
        )
        self.graph_score = GraphScore(model.network("graph_score", "moleculesde_paper"), model.hidden_3d)

    def terms(self, batch: MoleculeBatch, encoders: Encoders, generator: torch.Generator) -> dict[str, Term]:
        """Compute the three losses; metrics are the unweighted losses and the contrastive accuracy."""
        z_2d = encoders.nodes_2d(batch, generator)
        z_3d = encoders.nodes_3d(batch, generator)
        return {
            "contrast": self._contrastive_term(batch, encoders, z_2d, z_3d, generator),
            "2D to 3D": self._position_term(batch, z_2d, generator),
            "3D to 2D": self._graph_term(batch, z_3d, generator),
        }

    def conformer_distribution(self, batch: MoleculeBatch, encoders: Encoders) -> Conditional:
        """Distribution of positions with uncentred noise, as in the original; score = -o / std (section 4.5)."""
        z = encoders.nodes_2d(batch)
        pairs = self._position_pairs(batch)

        def score(x: Tensors, t: Tensor) -> Tensors:
            _, std = self.position_sde.marginal_prob(x[0], t.expand(batch.num_nodes))
            return (-self.position_score(z, x[0], pairs) / std,)

        return Conditional((Part(self.position_sde, batch.batch, 3),), score)

    def learning_rate_scale(self, name: str) -> float:
        """``gnn_3d_lr_scale`` for the 3D encoder and the 3D-to-2D network, otherwise ``gnn_2d_lr_scale``."""
        if name.startswith(("encoders.encoder_3d.", "objective.graph_score.")):
            return self.config.gnn_3d_lr_scale
        return self.config.gnn_2d_lr_scale

    def _contrastive_term(
        self, batch: MoleculeBatch, encoders: Encoders, z_2d: Tensor, z_3d: Tensor, generator: torch.Generator
    ) -> Term:
        """Contrastive loss over the atoms or molecules with positions."""
        config = self.config
        x, y = compared_rows(batch, encoders, z_2d, z_3d, config.contrastive_level)
        loss, accuracy = self.contrastive(x, y, config.temperature, generator, config.num_negatives)
        metrics = {"contrastive": loss, "contrastive_accuracy": accuracy}
        return Term(config.contrastive_coefficient, loss, metrics, compared=(x, y))

    def _position_term(self, batch: MoleculeBatch, z_2d: Tensor, generator: torch.Generator) -> Term:
        """Mean over molecules of the mean over atoms of |o - eps|^2 (section 4.3); about 3 at the start."""
        pos = in_float32(batch.pos)
        t = antithetic_times(batch.num_graphs, generator, self.position_sde.N).to(pos)
        noise = normal(pos.shape, generator).to(pos)
        mean, std = self.position_sde.marginal_prob(pos, t[batch.batch])
        predicted = self.position_score(z_2d, mean + std * noise, self._position_pairs(batch), generator)
        per_atom = ((predicted - noise) ** 2).sum(1) * std.squeeze(1) ** self.config.anneal_power
        per_molecule = {"position_score": segment_mean(per_atom, batch.batch, batch.num_graphs)}
        return denoising_term(self.config.position_coefficient, t, per_molecule, batch.has_pos)

    def _position_pairs(self, batch: MoleculeBatch) -> Tensor:
        """int64 [2, p]: atom pairs that the 2D-to-3D network connects."""
        edges = extended_edges(batch.edge_index, batch.num_nodes, self.config.max_hops)
        return edges[:, edges[0] < edges[1]]

    def _graph_term(self, batch: MoleculeBatch, z_3d: Tensor, generator: torch.Generator) -> Term:
        """L_X and L_A: mean over molecules of the mean over all padded entries of (z - m / std)^2 (section 5.3).

        As in the original, the loss lacks the factor std of the usual weighting, the weight of a molecule is
        proportional to its share of the padded layout, and atoms without bonds count as padding.
        """
        x, adj, z_dense = dense_graph(batch, z_3d)
        flags = adj.abs().sum(2) > 1e-5
        num_graphs, size = flags.shape
        t = antithetic_times(num_graphs, generator, self.graph_sde.N).to(x)
        noise_x = normal(x.shape, generator).to(x) * flags.unsqueeze(2)
        noise_adj = mask_pairs(symmetric_normal(num_graphs, size, generator).to(x), flags)
        mean_x, std = self.graph_sde.marginal_prob(x, t)
        mean_adj, _ = self.graph_sde.marginal_prob(adj, t)
        noised_x = (mean_x + std * noise_x) * flags.unsqueeze(2)
        noised_adj = mask_pairs(mean_adj + std * noise_adj, flags)
        m_x, m_adj = self.graph_score(z_dense, noised_x, noised_adj, flags)
        weight = std.view(-1) ** self.config.anneal_power
        loss_x = (noise_x - in_float32(m_x) / std).square().mean((1, 2)) * weight
        loss_adj = (noise_adj - in_float32(m_adj) / std).square().mean((1, 2)) * weight
        per_molecule = {"graph_score_x": loss_x, "graph_score_adj": loss_adj}
        return denoising_term(self.config.graph_coefficient, t, per_molecule, batch.has_pos)


def dense_graph(batch: MoleculeBatch, z_3d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert to one-hot atom types [g, s, 119], adjacency [g, s, s] of bond type + 1, 3D representations [g, s, d].

    All are zero-padded; types and adjacency have the dtype of the positions, at least float32.
    """
    num_graphs, size = batch.num_graphs, int(batch.ptr.diff().max())
    rank = torch.arange(batch.num_nodes, device=batch.ptr.device) - batch.ptr[batch.batch]
    slot = batch.batch * size + rank
    like = in_float32(batch.pos)
    x = to_dense(F.one_hot(batch.x[:, 0], NUM_ATOM_TYPES).to(like), slot, num_graphs, size)
    source, target = batch.edge_index
    adj = like.new_zeros((num_graphs * size, size))
    adj = adj.index_put((slot[source], rank[target]), (batch.edge_attr[:, 0] + 1).to(like))
    return x, adj.view(num_graphs, size, size), to_dense(z_3d, slot, num_graphs, size)
