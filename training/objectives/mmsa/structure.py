"""The structure-awareness module: a molecule among those that are like it, and what the memory knows of such ones.

Symbols of shapes: ``B`` molecules of a global batch, ``Q`` of the queue, ``V = B + Q`` vertices, ``M`` modalities,
``d`` width of codes, ``w`` width of the structure, ``K`` anchors.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from molstream.training.models.layers import dropout
from molstream.training.objectives.mmsa.anchors import Anchors, FollowingAnchors, LearnedAnchors, usage_loss
from molstream.training.objectives.mmsa.codes import mean_of_present
from molstream.training.objectives.mmsa.config import MMSAConfig
from molstream.training.objectives.mmsa.hypergraph import Hypergraph, nearest, random


class Queue(nn.Module):
    """The embeddings u of the latest molecules, newest first, and the hashes of their keys.

    Args:
        size: Q.
        width: d.
    """

    u: Tensor
    key: Tensor
    filled: Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("u", torch.zeros(size, width))
        self.register_buffer("key", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("filled", torch.zeros(size, dtype=torch.int64))

    @property
    def real(self) -> Tensor:
        """bool [Q]: which places hold a molecule."""
        return self.filled > 0

    def push(self, u: Tensor, key: Tensor) -> None:
        """Put in front embeddings [B, d] and keys [B]; the oldest ones go."""
        for buffer, new in ((self.u, u), (self.key, key), (self.filled, torch.ones_like(key))):
            buffer.copy_(torch.cat([new, buffer])[: len(buffer)])


class Seen(NamedTuple):
    """What the module makes of a global batch."""

    z: Tensor
    """[V, w]: vertices after propagation; first those of the batch."""
    real: Tensor
    """bool [V]."""
    activation: Tensor
    """[B, K]: logarithms of the activations of anchors."""
    read: Tensor
    """[B, w]: what the molecules read from the memory."""
    alone: Tensor
    """[B, M, K]: logarithms of the activations by the code of each modality, without propagation."""


class Structure(nn.Module):
    """Hypergraph, its convolution, and memory.

    s = Dropout(ReLU(LN(u Theta))), where the norm has no weights: with them everything zero would be best remembered.

    Args:
        config: of the objective.
    """

    def __init__(self, config: MMSAConfig):
        super().__init__()
        self.config = config
        self.queue = Queue(config.queue, config.code)
        self.theta = nn.Linear(config.code, config.structure, bias=False)
        self.norm = nn.LayerNorm(config.structure, elementwise_affine=False)
        self.anchors = _anchors(config)

    def transform(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """Map embeddings or codes [..., d] to s [..., w]."""
        return dropout(torch.relu(self.norm(self.theta(u))), self.config.dropout, self.training, generator)

    def forward(self, u: Tensor, c: Tensor, key: Tensor, generator: torch.Generator) -> Seen:
        """Look at a global batch among the molecules of the queue.

        Args:
            u: [B, d] embeddings of molecules.
            c: [B, M, d] codes of their modalities.
            key: int64 [B] hashes of their keys.
            generator: source of dropout masks, and of a random hypergraph.
        """
        vertices, keys = torch.cat([u, self.queue.u]), torch.cat([key, self.queue.key])
        real = torch.cat([torch.ones_like(key, dtype=torch.bool), self.queue.real])
        graph = self._hypergraph(vertices, keys, real, generator)
        z = graph.convolve(self.transform(vertices, generator), self.config.normalization)
        activation, read = self.anchors(z[: len(u)])
        alone, _ = self.anchors(self.transform(c, generator))
        return Seen(z, real, activation, read, alone)

    def losses(self, seen: Seen, present: Tensor) -> dict[str, Tensor]:
        """Losses of a batch by name.

        - memory: squared distance per entry of z from r, which has no gradient; with learned anchors also of r from z.
        - invariance: KL divergence in nats of the activations by a modality alone from those of z, which have no
          gradient; mean over those ``present``, bool [B, M].
        - usage: :func:`~.anchors.usage_loss`.
        """
        z = seen.z[: len(seen.read)]
        memory = (z - seen.read.detach()).square().mean()
        if self.config.anchor_update == "learned":
            memory = memory + (z.detach() - seen.read).square().mean()
        whole = seen.activation.detach().unsqueeze(1)
        divergence = (whole.exp() * (whole - seen.alone)).sum(2)
        return {
            "memory": memory,
            "invariance": mean_of_present(divergence, present),
            "usage": usage_loss(seen.activation.exp(), self.config.usage),
        }

    def warmth(self, progress: float) -> float:
        """Weight of the losses, from 0 to 1, when this share of a run's steps is done."""
        past = progress - self.config.warmup_start
        if past < 0.0 or self.config.warmup_length == 0.0:
            return float(past >= 0.0)
        return min(past / self.config.warmup_length, 1.0)

    @torch.no_grad()
    def remember(self, seen: Seen, u: Tensor, key: Tensor, generator: torch.Generator, begin: bool) -> None:
        """Let the anchors follow a batch, and put it into the queue; ``begin``: the first anchors may be drawn."""
        if begin or self.anchors.ready():
            self.anchors.follow(seen.activation.exp(), seen.z[: len(u)], seen.z[seen.real], generator)
        self.queue.push(u, key)

    def _hypergraph(self, u: Tensor, key: Tensor, real: Tensor, generator: torch.Generator) -> Hypergraph:
        if self.config.hypergraph == "random":
            return random(key, real, self.config.neighbours, generator)
        return nearest(u, key, real, self.config.neighbours, self.config.incidence)


def _anchors(config: MMSAConfig) -> Anchors:
    sizes = config.anchors, config.structure, config.anchor_similarity, config.anchor_temperature
    return (
        LearnedAnchors(*sizes) if config.anchor_update == "learned" else FollowingAnchors(*sizes, config.anchor_decay)
    )
