"""The draws, the marginals and the losses (3, 4.1, 4.3, 5, 6)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.utils import scatter, to_dense_adj, to_dense_batch

from molstream.training.data.batch import MoleculeBatch
from molstream.training.diffusion.config import SDEConfig
from molstream.training.diffusion.sde import GRAPH_SDES, POSITION_SDES
from molstream.training.models.config import ModelConfig
from molstream.training.models.schnet import NUM_ATOM_TYPES
from molstream.training.objectives.config import PaperMoleculeSDEConfig

from .encoders import GIN, SchNet
from .graph_score import GraphScore, mask_atoms, mask_pairs
from .position_score import PositionScore, extended_edges


@dataclass(frozen=True)
class Draws:
    """Everything random in a step but dropout, drawn in the order of ``objectives/moleculesde_paper.py``."""

    permutations: tuple[Tensor, Tensor]
    position_times: Tensor
    position_noise: Tensor
    graph_times: Tensor
    noise_x: Tensor
    noise_adj: Tensor


def draw(batch: MoleculeBatch, generator: torch.Generator) -> Draws:
    """Permutations of the atoms, times [g], noise [n, 3], times [g], noise [g, s, types] and [g, s, s]."""
    g, n, s = batch.num_graphs, batch.num_nodes, int(batch.ptr.diff().max())
    permutations = torch.randperm(n, generator=generator), torch.randperm(n, generator=generator)
    position_times = times(g, generator)
    position_noise = torch.randn(n, 3, generator=generator)
    graph_times = times(g, generator)
    noise_x = torch.randn(g, s, NUM_ATOM_TYPES, generator=generator)
    upper = torch.randn(g, s, s, generator=generator).triu(1)
    return Draws(permutations, position_times, position_noise, graph_times, noise_x, upper + upper.transpose(1, 2))


def times(num_graphs: int, generator: torch.Generator) -> Tensor:
    """Antithetic times [g] (section 4.3, step 1)."""
    k = torch.randint(1000, (num_graphs // 2 + 1,), generator=generator)
    return torch.cat([k, 999 - k])[:num_graphs] / 1000 * (1 - 1e-6) + 1e-6


def marginal(sde: SDEConfig, t: Tensor) -> tuple[Tensor, Tensor]:
    """Factor on x_0 in the mean of x_t, and its standard deviation, both [g] (section 4.1)."""
    low, high = sde.minimum, sde.maximum
    if sde.kind == "ve":
        return torch.ones_like(t), low * (high / low) ** t
    log_mean = -(t**2) * (high - low) / 4 - t * low / 2
    variance = -torch.expm1(2 * log_mean)
    return torch.exp(log_mean), variance if sde.kind == "subvp" else torch.sqrt(variance)


class ReferenceMoleculeSDE(nn.Module):
    """L = c_CL L_CL + c_23 L_23 + c_32 L_32 with EBM-NCE between atoms (section 6)."""

    def __init__(self, model: ModelConfig, config: PaperMoleculeSDEConfig):
        super().__init__()
        self.config = config
        self.encoder_2d = GIN(model.gin)
        self.encoder_3d = SchNet(model.schnet)
        self.position_score = PositionScore(model.position_score, model.hidden_2d, config.position_variant)
        self.graph_score = GraphScore(model.graph_score, model.hidden_3d)

    def forward(self, batch: MoleculeBatch, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its four terms by the names of our metrics."""
        config = self.config
        z_2d = self.encoder_2d(batch.x, batch.edge_index, batch.edge_attr)
        z_3d = self.encoder_3d(batch.x[:, 0], batch.pos, batch.batch)
        contrastive = self.contrastive_loss(z_2d, z_3d, draws)
        position = self.position_loss(batch, z_2d, draws)
        graph_x, graph_adj = self.graph_loss(batch, z_3d, draws)
        loss = (
            config.contrastive_coefficient * contrastive
            + config.position_coefficient * position
            + config.graph_coefficient * (graph_x + graph_adj) / 2
        )
        terms = {"contrastive": contrastive, "position_score": position}
        return loss, terms | {"graph_score_x": graph_x, "graph_score_adj": graph_adj}

    def contrastive_loss(self, x: Tensor, y: Tensor, draws: Draws) -> Tensor:
        """EBM_node_dot_prod in its dual form (section 3)."""
        T, (pi_1, pi_2) = self.config.temperature, draws.permutations
        loss = lambda a, b, pi: (  # noqa: E731
            F.binary_cross_entropy_with_logits((a * b).sum(1) / T, torch.ones_like(a[:, 0]))
            + F.binary_cross_entropy_with_logits((a * b[pi]).sum(1) / T, torch.zeros_like(a[:, 0]))
        )
        return (loss(x, y, pi_1) + loss(y, x, pi_2)) / 2

    def position_loss(self, batch: MoleculeBatch, z_2d: Tensor, draws: Draws) -> Tensor:
        """L_23 (section 4.3)."""
        factor, std = marginal(POSITION_SDES[self.config.position_sde], draws.position_times.to(batch.pos))
        factor, std = factor[batch.batch].unsqueeze(1), std[batch.batch].unsqueeze(1)
        noise = draws.position_noise.to(batch.pos)
        edge_index = extended_edges(batch.edge_index, batch.batch)
        predicted = self.position_score(z_2d, factor * batch.pos + std * noise, edge_index)
        per_atom = ((predicted - noise) ** 2).sum(1) * std.squeeze(1) ** self.config.anneal_power
        return scatter(per_atom, batch.batch, reduce="mean").mean()

    def graph_loss(self, batch: MoleculeBatch, z_3d: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """L_X and L_A (sections 5.1 and 5.3)."""
        like = batch.pos
        adj = to_dense_adj(batch.edge_index, batch.batch, (batch.edge_attr[:, 0] + 1).to(like))
        x, _ = to_dense_batch(F.one_hot(batch.x[:, 0], NUM_ATOM_TYPES).to(like), batch.batch)
        z, _ = to_dense_batch(z_3d, batch.batch)
        flags = (adj.abs().sum(2) > 1e-5).to(like)
        factor, std = (
            c.view(-1, 1, 1) for c in marginal(GRAPH_SDES[self.config.graph_sde], draws.graph_times.to(like))
        )
        noise_x = mask_atoms(draws.noise_x.to(like), flags)
        noise_adj = mask_pairs(draws.noise_adj.to(like), flags)
        m_x, m_adj = self.graph_score(
            z,
            mask_atoms(factor * x + std * noise_x, flags),
            mask_pairs(factor * adj + std * noise_adj, flags),
            flags,
        )
        losses = []
        for m, noise in ((m_x, noise_x), (m_adj, noise_adj)):
            score = -m / std
            losses.append((((score + noise) ** 2) * std**self.config.anneal_power).mean((1, 2)).mean())
        return losses[0], losses[1]
