"""Transformer encoders of the bond graph and of positions, with attention biased by relations of atoms.

All layers work on ragged rows and run once per forward, whatever the batch contains; only attention runs on padded
tensors, bucket by bucket (:mod:`~.layout`). Symbols of shapes: ``n`` atoms, ``p`` unordered atom pairs, ``d`` hidden
width, ``c`` width of a relation, ``h`` heads.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from molstream.training.models.config import TransformerConfig
from molstream.training.models.gin import ATOM_VOCABULARY_SIZES
from molstream.training.models.layers import CategoricalEmbedding, dropout
from molstream.training.models.layout import Layout, PaddedLayout, bucketed
from molstream.training.models.readout import READOUTS
from molstream.training.models.relations import (
    NUM_PSEUDOSCALARS,
    Chirality,
    GeometricRelation,
    TopologicalRelation,
    linear,
    pair_vectors,
    topology,
)
from molstream.training.models.schnet import NUM_ATOM_TYPES
from molstream.training.models.symmetry import CHIRAL, INVARIANT, Symmetry

NUM_DEGREES = 12
"""Number of classes of an atom's degree in the bond graph: 0 to 10, and more."""
AnyLayout = Layout | PaddedLayout
EPS = 1e-6
"""Added to mean squares before the square root in norms."""


class Attention(nn.Module):
    """Softmax attention within molecules; logits are q k / sqrt(d / h) plus a learned bias of the relation.

    Queries and keys are normalised per head (QK-norm, Dehghani et al. 2023), which bounds the logits; they share one
    learned gain.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = linear(config.hidden, 3 * config.hidden)
        self.gain = nn.Parameter(torch.ones(config.num_heads, config.hidden // config.num_heads))
        self.bias = linear(config.pair_hidden, config.num_heads)
        self.out = linear(config.hidden, config.hidden, gain=_residual_gain(config))

    def forward(self, x: Tensor, relation: Tensor, layout: AnyLayout) -> Tensor:
        """Compute atom rows [n, d] from atom rows [n, d] and the relation [p + 1, c]."""
        q, k, v = self.qkv(x).unflatten(1, (3, self.num_heads, -1)).unbind(1)
        width = q.shape[-1:]
        q = (F.rms_norm(q, width, eps=EPS) * self.gain).to(v.dtype)
        k = F.rms_norm(k, width, eps=EPS).to(v.dtype)
        return self.out(self._mix(q, k, v, self.bias(relation), layout).flatten(1))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, layout: AnyLayout) -> Tensor:
        """[n, h, d / h]: attention-weighted mean of the values for each atom, bucket by bucket."""
        buckets = zip(*(layout.pad(rows) for rows in (q, k, v)), layout.spread(bias), strict=True)
        mixed = [
            F.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias
            ).transpose(1, 2)
            for q, k, v, bias in buckets
        ]
        return layout.unpad(mixed)


class SwiGLU(nn.Module):
    """W3 (silu(W1 x) * W2 x), the gated feed-forward network (Shazeer 2020)."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.gate_and_value = linear(config.hidden, 2 * config.feed_forward)
        self.out = linear(config.feed_forward, config.hidden, gain=_residual_gain(config))

    def forward(self, x: Tensor) -> Tensor:
        """Compute atom rows [n, d] from atom rows [n, d]."""
        gate, value = self.gate_and_value(x).chunk(2, dim=1)
        return self.out(F.silu(gate) * value)


class RMSNorm(nn.RMSNorm):
    """``nn.RMSNorm`` with its weight cast to the input's dtype; torch fuses the kernel for equal dtypes only."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the rows; same shape and dtype."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Residual(nn.Module):
    """x + branch(norm(x)); with a condition, x + gate * branch(norm(x) * (1 + scale) + shift).

    Scale, shift and gate are linear in silu(condition) and start at zero, so that a conditioned branch starts as the
    identity (adaLN-Zero, Peebles and Xie 2023).
    """

    def __init__(self, config: TransformerConfig, branch: nn.Module, condition_width: int | None):
        super().__init__()
        self.dropout = config.dropout
        self.norm = RMSNorm(config.hidden, eps=EPS)
        self.branch = branch
        self.modulation = None if condition_width is None else linear(condition_width, 3 * config.hidden, gain=0.0)

    def forward(
        self, x: Tensor, *inputs: Tensor | AnyLayout, condition: Tensor | None, generator: torch.Generator | None
    ) -> Tensor:
        """Compute new atom rows [n, d]; ``inputs`` are further inputs of the branch."""
        if self.modulation is None:
            added = self.branch(self.norm(x), *inputs)
        else:
            assert condition is not None, "a conditioned block needs its condition"
            scale, shift, gate = self.modulation(F.silu(condition)).chunk(3, dim=1)
            added = gate * self.branch(self.norm(x) * (1.0 + scale) + shift, *inputs)
        return x + dropout(added, self.dropout, self.training, generator)


class Block(nn.Module):
    """Pre-norm attention, then a pre-norm gated feed-forward network, each added to the atom rows.

    Args:
        config: sizes.
        condition_width: width of the condition per atom row, such as a noise embedding; None without a condition.
    """

    def __init__(self, config: TransformerConfig, condition_width: int | None = None):
        super().__init__()
        self.attention = Residual(config, Attention(config), condition_width)
        self.feed_forward = Residual(config, SwiGLU(config), condition_width)

    def forward(
        self,
        x: Tensor,
        relation: Tensor,
        layout: AnyLayout,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """New atom rows.

        Args:
            x: [n, d] atom rows.
            relation: [p + 1, c] a row per unordered pair, then the row of an atom to itself.
            layout: layout of the same molecules.
            generator: source of the dropout masks.
            condition: [n, condition_width], if the block has one.
        """
        x = self.attention(x, relation, layout, condition=condition, generator=generator)
        return self.feed_forward(x, condition=condition, generator=generator)


class Trunk(nn.Module):
    """A stack of blocks and a final norm, used by encoders and score networks.

    Args:
        config: sizes.
        condition_width: see :class:`Block`.

    Raises:
        ValueError: sizes contradict each other, or dropout is used with checkpointing.
    """

    def __init__(self, config: TransformerConfig, condition_width: int | None = None):
        super().__init__()
        self.checkpointing = config.checkpointing
        self.blocks = nn.ModuleList(Block(config, condition_width) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden, eps=EPS)

    def forward(
        self,
        x: Tensor,
        relation: Tensor,
        layout: AnyLayout,
        generator: torch.Generator | None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Compute atom rows [n, d] of about unit variance; arguments are those of :class:`Block`."""
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(
                    block, x, relation, layout, None, condition, use_reentrant=False, preserve_rng_state=False
                )
            else:
                x = block(x, relation, layout, generator, condition)
        return self.norm(x)


class GraphTransformer(nn.Module):
    """2D encoder: atom representations [n, hidden] from the bond graph alone, attention biased by paths along bonds."""

    symmetry: ClassVar[Symmetry] = INVARIANT
    stacks: ClassVar[tuple[str, ...]] = ("trunk.blocks",)

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.readout = READOUTS[config.readout]
        columns = (*ATOM_VOCABULARY_SIZES, NUM_DEGREES)
        self.atom_embedding = CategoricalEmbedding(columns, config.hidden)
        nn.init.normal_(self.atom_embedding.weight, std=len(columns) ** -0.5)
        self.relation = TopologicalRelation(config.pair_hidden)
        self.trunk = Trunk(config)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor,
        batch: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Atom representations.

        Args:
            x: int64 [n, 9] OGB atom features.
            edge_index: int64 [2, e] directed bonds, both directions of each.
            edge_attr: int64 [e, 3] OGB bond features.
            batch: int64 [n] molecule of each atom, ascending.
            generator: source of the dropout masks.

        Returns:
            [n, hidden].
        """
        h = self.embedded(x, torch.bincount(edge_index[1], minlength=x.shape[0]))
        return self.trunk(h, self.relation(topology(edge_index, edge_attr, batch)), bucketed(batch), generator)

    def embedded(self, x: Tensor, degree: Tensor) -> Tensor:
        """Embed atoms [n, d] by their features and their number of bonds, int64 [n]."""
        return self.atom_embedding(torch.cat([x, degree.clamp(max=NUM_DEGREES - 1).unsqueeze(1)], dim=1))


class GeometryTransformer(nn.Module):
    """3D encoder: atom representations [n, hidden] from elements and positions, with attention biased by distances.

    Distances are equal in a mirror image; :class:`~.relations.Chirality` is not, and enters the atoms' embedding
    linearly. So mirror images get different representations if and only if the positions are chiral.
    """

    symmetry: ClassVar[Symmetry] = CHIRAL
    stacks: ClassVar[tuple[str, ...]] = ("trunk.blocks",)

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.readout = READOUTS[config.readout]
        self.atom_embedding = nn.Embedding(NUM_ATOM_TYPES, config.hidden)
        self.chirality = Chirality()
        self.chirality_embedding = linear(NUM_PSEUDOSCALARS, config.hidden)
        self.relation = GeometricRelation(config.pair_hidden)
        self.trunk = Trunk(config)

    def forward(self, z: Tensor, pos: Tensor, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Atom representations.

        Args:
            z: int64 [n] atomic number - 1.
            pos: [n, 3] positions in angstrom; the output is differentiable with respect to them.
            batch: int64 [n] molecule of each atom, ascending.
            generator: source of the dropout masks.

        Returns:
            [n, hidden].
        """
        geometry = pair_vectors(pos, batch)
        h = self.atom_embedding(z)
        h = h + self.chirality_embedding(self.chirality(z, geometry).to(h.dtype))
        return self.trunk(h, self.relation(z, geometry), bucketed(batch), generator)


def compile_blocks(module: nn.Module) -> None:
    """Compile every :class:`Block` in ``module`` in place with ``torch.compile``, for batches of any size.

    Attention itself is not compiled: it runs once per bucket, and each number of buckets would need another kernel. On
    2 CPU cores a step of the small preset's networks, three blocks deep, takes as long as without compilation, and 3 %
    less in bf16; the first step waits a minute for the compiler.
    """
    for part in module.modules():
        if isinstance(part, Attention):
            outside: Any = torch.compiler.disable(part._mix)
            part._mix = outside
        elif isinstance(part, Block):
            part.compile(dynamic=True)


def _residual_gain(config: TransformerConfig) -> float:
    """Initial gain of a branch with which the sum of all branches is as large as one, for any number of layers."""
    return (2 * config.num_layers) ** -0.5
