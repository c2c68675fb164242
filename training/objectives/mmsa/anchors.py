"""Memory of typical molecules: anchors, how strongly a molecule activates each, and how they follow the molecules.

Symbols of shapes: ``B`` molecules, ``K`` anchors, ``d`` width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molstream.training.objectives.mmsa.config import Similarity, Usage

EPS = 1e-5
"""Added to the mass of an anchor, by which its sum is divided."""
STARVED_SHARE = 0.01
"""Share of the mean mass below which an anchor starves."""
STARVED_STEPS = 500
"""Consecutive steps after which a starved anchor is seeded anew."""


class Anchors(nn.Module):
    """K anchors A, activations a = softmax(similarity(z, A) / temperature) and read-outs r = sum_k a_k A_k.

    Args:
        count: K.
        width: d.
        similarity: ``cosine``, or ``dot`` for products of vectors of any length (HGM2R, at temperature 1).
        temperature: divides similarities.
    """

    vectors: Tensor
    """[K, d]."""

    def __init__(self, count: int, width: int, similarity: Similarity, temperature: float):
        super().__init__()
        self.count, self.width, self.similarity, self.temperature = count, width, similarity, temperature

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logarithms of the activations [..., K], and the read-outs [..., d], of vectors [..., d]."""
        if self.similarity == "cosine":
            logits = F.normalize(z, dim=-1) @ F.normalize(self.vectors, dim=-1).T
        else:
            logits = z @ self.vectors.T
        activation = torch.log_softmax(logits / self.temperature, -1)
        return activation, activation.exp() @ self.vectors

    def ready(self) -> bool:
        """Whether the anchors mean anything yet."""
        return True

    def follow(self, activation: Tensor, z: Tensor, spare: Tensor, generator: torch.Generator) -> None:
        """Move the anchors after a step, if a gradient does not.

        Args:
            activation: [B, K] of the molecules of the step.
            z: [B, d] their vectors.
            spare: [m, d] vectors of real molecules, from which anchors are seeded.
            generator: source of which.
        """
        return

    def num_reseeded(self) -> Tensor:
        """How many anchors were seeded anew so far, a scalar."""
        return torch.zeros((), device=self.vectors.device)


class LearnedAnchors(Anchors):
    """Anchors that a gradient moves (HGM2R); arguments as in :class:`Anchors`."""

    def __init__(self, count: int, width: int, similarity: Similarity, temperature: float):
        super().__init__(count, width, similarity, temperature)
        self.vectors = nn.Parameter(torch.randn(count, width))


class FollowingAnchors(Anchors):
    """Anchors that are moving means of the molecules that activate them; no gradient moves them.

    n_k <- g n_k + (1 - g) sum_i a_ik;  S_k <- g S_k + (1 - g) sum_i a_ik z_i;  A_k = S_k / (n_k + EPS).
    An anchor whose mass n_k is below :data:`STARVED_SHARE` of the mean for :data:`STARVED_STEPS` steps takes the place
    of a molecule drawn at random. The first anchors are drawn by k-means++ (Arthur and Vassilvitskii 2007).

    Args:
        count, width, similarity, temperature: as in :class:`Anchors`.
        decay: g.
    """

    mass: Tensor
    sums: Tensor
    starved: Tensor
    reseeded: Tensor
    started: Tensor

    def __init__(self, count: int, width: int, similarity: Similarity, temperature: float, decay: float):
        super().__init__(count, width, similarity, temperature)
        self.decay = decay
        self.register_buffer("vectors", torch.zeros(count, width))
        self.register_buffer("mass", torch.zeros(count))
        self.register_buffer("sums", torch.zeros(count, width))
        self.register_buffer("starved", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("reseeded", torch.zeros((), dtype=torch.int64))
        self.register_buffer("started", torch.zeros((), dtype=torch.int64))

    def ready(self) -> bool:
        """Whether the first anchors were drawn."""
        return bool(self.started)

    @torch.no_grad()
    def follow(self, activation: Tensor, z: Tensor, spare: Tensor, generator: torch.Generator) -> None:
        """Update the moving means, seed starved anchors anew; or draw the first ones, if ``spare`` has enough."""
        if self.ready():
            self._move(activation, z)
            self._seed_starved(spare, generator)
        elif len(spare) >= self.count:
            self._start(spare, len(z), generator)

    def num_reseeded(self) -> Tensor:
        return self.reseeded

    def _move(self, activation: Tensor, z: Tensor) -> None:
        self.mass.lerp_(activation.sum(0), 1.0 - self.decay)
        self.sums.lerp_(activation.T @ z, 1.0 - self.decay)
        self.vectors.copy_(self.sums / (self.mass + EPS).unsqueeze(1))

    def _seed_starved(self, spare: Tensor, generator: torch.Generator) -> None:
        mean = self.mass.mean()
        self.starved.copy_(torch.where(self.mass < STARVED_SHARE * mean, self.starved + 1, 0))
        dead = self.starved >= STARVED_STEPS
        drawn = torch.randint(len(spare), (self.count,), generator=generator, device=generator.device).to(spare.device)
        self.mass.copy_(torch.where(dead, mean, self.mass))
        self.vectors.copy_(torch.where(dead.unsqueeze(1), spare[drawn], self.vectors))
        self.sums.copy_(torch.where(dead.unsqueeze(1), mean * spare[drawn], self.sums))
        self.starved.masked_fill_(dead, 0)
        self.reseeded += dead.sum()

    def _start(self, spare: Tensor, batch: int, generator: torch.Generator) -> None:
        """Draw the first anchors, each with an equal share of the mass of a batch."""
        rows = F.normalize(spare, dim=1) if self.similarity == "cosine" else spare
        self.vectors.copy_(spare[spread_out(rows, self.count, generator)])
        self.mass.fill_(batch / self.count)
        self.sums.copy_(self.mass.unsqueeze(1) * self.vectors)
        self.started.fill_(1)


def spread_out(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` rows of [m, d] by k-means++: each with a probability as its squared distance to those drawn.

    Returns:
        int64 [count]: their numbers.
    """
    first = torch.randint(len(rows), (1,), generator=generator, device=generator.device).to(rows.device)
    drawn, distance = [first], torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    for _ in range(count - 1):
        apart = (rows - rows[drawn[-1]]).double().square().sum(1)
        distance = torch.minimum(distance, apart)
        # A draw from the cumulative sum: where all distances are 0, it is the first row.
        reach = distance.cumsum(0)
        share = torch.rand(1, generator=generator, device=generator.device, dtype=torch.float64).to(rows.device)
        drawn.append(torch.searchsorted(reach, share * reach[-1], right=True).clamp(max=len(rows) - 1))
    return torch.cat(drawn)


def entropy_of_mean(activation: Tensor) -> Tensor:
    """Entropy in nats of the mean over molecules of their activations [B, K], from 0 to log K."""
    return torch.special.entr(activation.mean(0)).sum()


def mean_entropy(activation: Tensor) -> Tensor:
    """Mean over molecules of the entropy in nats of the activations [B, K] of each, from 0 to log K."""
    return torch.special.entr(activation).sum(1).mean()


def usage_loss(activation: Tensor, usage: Usage) -> Tensor:
    """How far the use of the anchors by the activations [B, K] is from the best one, in nats, from 0 to log K.

    - ``information``: log K - I, with the mutual information I of molecule and anchor, which is the entropy of the mean
      activation less the mean entropy. It is 0 if every molecule activates one anchor, and all are used equally.
    - ``entropy``: log K - the entropy of the mean activation. It is also 0 if every molecule activates all anchors
      alike.
    """
    found = entropy_of_mean(activation)
    if usage == "information":
        found = found - mean_entropy(activation)
    return math.log(activation.shape[1]) - found
