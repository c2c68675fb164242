"""MoleBLEND as its specification writes it: blending (5), losses (8) and transfer (5.5).

What the specification itself changes in the released code is changed here too (14, 15): blending per molecule, all
connected pairs in the SPD loss (15.4), 60 bond classes (15.5), five hops always (15.6), masks instead of zeros in the
positions (15.7), molecules without positions (15.8), one weight for the noise along all axes (15.16), no graph head
(15.15), the distance as the 3D target (14), and means and widths of the Gaussians as their layer intended (15.1).
There is no dropout and no stochastic depth.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .moleblend_graph import DISTANCE, EDGE, SPD, UNREACHABLE, Draws, Padded
from .moleblend_layers import SPD_CLASSES, DirectionHead, DistanceHead, EdgeHead, Encoder, NoiseHead, SPDHead, Target

ATOM_3D_SCALE = 0.01
NOISE_WEIGHT, WEIGHT_3D, SPD_WEIGHT, EDGE_WEIGHT = 6.0, 0.5, 0.1, 0.1


class ReferenceMoleBLEND(nn.Module):
    """The encoder and its pretraining heads; by default of the paper's sizes.

    Args:
        layers: number of layers.
        width: width of the states, a multiple of ``heads``.
        ffn: width inside the feed-forward part.
        heads: number of attention heads.
        kernels: number of Gaussians.
        target: what the 3D head predicts; "direction" is the released code's.
        loss_on: "all" pairs, or those whose choice "hid" the relation that is predicted ("hidden").
    """

    def __init__(
        self,
        layers: int = 12,
        width: int = 768,
        ffn: int = 768,
        heads: int = 32,
        kernels: int = 128,
        target: Target = "distance",
        loss_on: Literal["all", "hidden"] = "all",
    ):
        super().__init__()
        self.target: Target = target
        self.loss_on = loss_on
        self.encoder = Encoder(layers, width, ffn, heads, kernels)
        self.spd_head = SPDHead(width)
        self.edge_head = EdgeHead(width)
        self.head_3d = DistanceHead(width) if target == "distance" else DirectionHead(width)
        self.noise_head = NoiseHead(width, heads)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Section 4, with the Gaussians as in 15.1."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, 0.02)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, 0.02)
                module.weight[module.padding_idx] = 0
        encoder, gaussian = self.encoder, self.encoder.gaussian
        for parameter in (encoder.cls, encoder.cls_bias, encoder.graph.hops):
            parameter.normal_(0, 0.02)
        for parameter in (gaussian.means, gaussian.widths):
            parameter.uniform_(0, 3)
        gaussian.mul.weight[1:] = 0.5
        gaussian.bias.weight.zero_()

    def forward(self, padded: Padded, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (8.5), and its terms before weighting: noise, distance or direction, spd, edge."""
        noised = padded.pos + draws.noise * padded.mask.unsqueeze(2)
        h, bias = self.blended(padded, draws, noised)
        noise = noise_loss(self.noise_head(h, bias, noised), padded, draws)
        loss_3d = self.loss_3d(self.head_3d(h), padded, self.counted(draws, DISTANCE))
        spd = spd_loss(self.spd_head(h), padded, self.counted(draws, SPD))
        edge = edge_loss(self.edge_head(h), padded, self.counted(draws, EDGE))
        loss = NOISE_WEIGHT * noise + WEIGHT_3D * loss_3d + SPD_WEIGHT * spd + EDGE_WEIGHT * edge
        return loss, {"noise": noise, self.target: loss_3d, "spd": spd, "edge": edge}

    def blended(self, padded: Padded, draws: Draws, noised: Tensor) -> tuple[Tensor, Tensor]:
        """Final states of the atoms [B, N, width], and the bias between them [B, N, N, heads] (5.1 to 5.3)."""
        embedding, graph, gaussian = self.encoder.embedding, self.encoder.graph, self.encoder.gaussian
        psi = gaussian.psi(padded, noised)
        choice = draws.pairs.unsqueeze(3)
        blend = torch.where(choice == SPD, graph.phi_spd(padded), 0)
        blend = torch.where(choice == EDGE, graph.phi_edge(padded), blend)
        blend = torch.where(choice == DISTANCE, gaussian.phi_3d(padded, psi), blend)
        c, g = gaussian.atom_feature(padded, psi), embedding.degree(padded)
        x = embedding.content(padded) + torch.where(draws.atoms.unsqueeze(2), ATOM_3D_SCALE * c, g)
        h, _, bias = self.encoder(padded, x, blend)
        return h, bias

    def transfer(self, padded: Padded, modality: Literal["2d", "3d", "both"]) -> tuple[Tensor, Tensor]:
        """Final states of the atoms [B, N, width] and of CLS [B, width], without blending and noise (5.5)."""
        embedding, graph, gaussian = self.encoder.embedding, self.encoder.graph, self.encoder.gaussian
        psi = gaussian.psi(padded, padded.pos)
        phi_2d, g = graph.phi_spd(padded) + graph.phi_edge(padded), embedding.degree(padded)
        phi_3d, c = gaussian.phi_3d(padded, psi), gaussian.atom_feature(padded, psi)
        relation = {"2d": phi_2d, "3d": phi_3d, "both": phi_2d + phi_3d}[modality]
        feature = {"2d": g, "3d": ATOM_3D_SCALE * c, "both": g + ATOM_3D_SCALE * c}[modality]
        h, cls, _ = self.encoder(padded, embedding.content(padded) + feature, relation)
        return h, cls

    def counted(self, draws: Draws, relation: int) -> Tensor:
        """bool [B, N, N]: the pairs over which the loss of a relation is taken (14.3)."""
        return draws.pairs != relation if self.loss_on == "hidden" else torch.ones_like(draws.pairs, dtype=torch.bool)

    def loss_3d(self, predicted: Tensor, padded: Padded, counted: Tensor) -> Tensor:
        """8.3, or the distance target of section 14: mean over pairs of a molecule, then over molecules."""
        difference = padded.pos.unsqueeze(1) - padded.pos.unsqueeze(2)  # [B, i, j]: p_j - p_i
        if self.target == "distance":
            distance = torch.linalg.vector_norm(difference, dim=3)
            per_pair = F.huber_loss(predicted, distance, reduction="none", delta=1.0)
        else:
            per_pair = 1 - F.cosine_similarity(predicted, difference, dim=3)
        pairs = counted & padded.different & padded.has_pos.view(-1, 1, 1)
        per_molecule = [per_pair[g][pairs[g]].mean() for g in range(len(pairs)) if pairs[g].any()]
        return mean(torch.stack(per_molecule) if per_molecule else per_pair[pairs])


def spd_classes(spd: Tensor) -> Tensor:
    """8.1 and 15.4."""
    return spd.clamp(max=SPD_CLASSES) - 1


def bond_classes(path_bonds: Tensor) -> Tensor:
    """8.2 and 15.5: [..., 3] indices of 3.3 to [...] classes of type, stereo and conjugated."""
    kind, stereo, conjugated = (path_bonds - 3 - 512 * torch.arange(3, device=path_bonds.device)).unbind(-1)
    return 12 * kind + 2 * stereo + conjugated


def spd_loss(logits: Tensor, padded: Padded, counted: Tensor) -> Tensor:
    """8.1: mean over the ordered pairs of the batch."""
    pairs = counted & padded.different & (padded.spd < UNREACHABLE)
    return mean(F.cross_entropy(logits[pairs], spd_classes(padded.spd[pairs]), reduction="none"))


def edge_loss(logits: Tensor, padded: Padded, counted: Tensor) -> Tensor:
    """8.2: mean over the hops, at most five, of the ordered pairs of the batch."""
    hops = counted.unsqueeze(3) & (padded.path_bonds[..., 0] > 0)
    return mean(F.cross_entropy(logits[hops], bond_classes(padded.path_bonds[hops]), reduction="none"))


def noise_loss(predicted: Tensor, padded: Padded, draws: Draws) -> Tensor:
    """8.4: mean over atoms that show the 3D feature, but in molecules where nothing is predicted (one atom)."""
    predicts = ((predicted != 0).any(2) & padded.mask).any(1)
    atoms = draws.atoms & padded.mask & (padded.has_pos & predicts).unsqueeze(1)
    return mean(1 - F.cosine_similarity(predicted[atoms], draws.noise[atoms], dim=1))


def mean(values: Tensor) -> Tensor:
    """The mean; 0, with gradient 0, over nothing."""
    return values.sum() / max(values.numel(), 1)
