"""The encoder of MoleBLEND as published: a post-norm transformer with a token for every molecule and one bias of pairs.

Yu et al. 2024, on Transformer-M (Luo et al. 2023); sections are those of the specification of MoleBLEND. Symbols of
shapes: ``g`` molecules, ``n`` atoms, ``p`` unordered atom pairs, ``d`` hidden width, ``h`` heads; rows [2p + n] are
those of :func:`~.layout.ordered_rows`.
"""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from molstream.training.models.blend_transformer import Encoded
from molstream.training.models.blending import Blend, Modality
from molstream.training.models.config import PaperBlendTransformerConfig
from molstream.training.models.gin import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES
from molstream.training.models.graph import in_float32, molecule_pairs, segment_sum
from molstream.training.models.layers import dropout, in_blocks
from molstream.training.models.layout import Layout, bucketed, ordered_rows
from molstream.training.models.paths import floyd_warshall_paths
from molstream.training.models.readout import READOUTS
from molstream.training.models.symmetry import INVARIANT, Symmetry

NUM_VALUES = 512
"""Rows of a table for every feature of atoms and bonds."""
NUM_ATOM_FEATURES, NUM_BOND_FEATURES = len(ATOM_VOCABULARY_SIZES), len(BOND_VOCABULARY_SIZES)
FIRST_ELEMENT, SECOND_ELEMENT, NUM_ELEMENTS = 3, 3 + NUM_VALUES, 3 * NUM_VALUES
"""Rows of the elements of a pair's atoms in the tables of Gaussians, and number of rows."""
UNREACHABLE = 510
"""Length of the path between fragments."""
MAX_HOPS, NUM_HOP_MATRICES = 5, 128
"""Bonds of a path that are read, and matrices that the released code keeps for them."""
SCALE_OF_SURROUNDINGS = 0.01
"""Factor of the features of an atom in space."""
INIT_STD = 0.02
PI = 3.14159
"""As the released code writes it."""


class PathTables(nn.Module):
    """Biases [m, h] of two atoms by the length of a path, and by the first five bonds along it (4.3, 4.4)."""

    def __init__(self, num_heads: int):
        super().__init__()
        self.length = nn.Embedding(NUM_VALUES, num_heads, padding_idx=0)
        self.bond = nn.Embedding(NUM_BOND_FEATURES * NUM_VALUES + 1, num_heads, padding_idx=0)
        self.hops = nn.Parameter(torch.empty(NUM_HOP_MATRICES, num_heads, num_heads))

    def of_lengths(self, length: Tensor) -> Tensor:
        """Biases of path lengths, int64 [m]."""
        return self.length(length + 1)

    def of_bonds(self, length: Tensor, bonds: Tensor, edge_attr: Tensor) -> Tensor:
        """Biases of paths.

        Every hop has a matrix, and a bond is the mean of its features. Both are linear: the bonds of a batch are
        multiplied by the matrices before they are looked up.

        Args:
            length: int64 [m].
            bonds: int64 [m, 5] number of the bond of each hop; -1 beyond the end of the path.
            edge_attr: int64 [e, 3].
        """
        features, number = torch.unique(edge_attr, dim=0, return_inverse=True)
        offsets = 3 + NUM_VALUES * torch.arange(NUM_BOND_FEATURES, device=edge_attr.device)
        table = self.bond(features + offsets).mean(1) @ self.hops[:MAX_HOPS]
        table = F.pad(table, (0, 0, 0, 1))  # no bond is the last entry of every hop
        number = F.pad(number, (0, 1), value=len(features))[bonds]
        hop = torch.arange(MAX_HOPS, device=bonds.device) * table.shape[1]
        return F.embedding_bag(number + hop, table.flatten(0, 1), mode="sum") / length.clamp(1, MAX_HOPS).unsqueeze(1)


class Gaussians(nn.Module):
    """Features [m, k] of distances: Gaussians of an affine map of the distance that both elements determine (4.5)."""

    def __init__(self, count: int):
        super().__init__()
        self.scale, self.shift = (nn.Embedding(NUM_ELEMENTS, 1, padding_idx=0) for _ in range(2))
        self.mean, self.width = (nn.Parameter(torch.empty(count)) for _ in range(2))

    def forward(self, distance: Tensor, elements: Tensor) -> Tensor:
        """Compute the features of distances [m], angstrom, between atoms of ``elements`` [2, m] (atomic number - 1)."""
        kinds = elements.T + torch.tensor([FIRST_ELEMENT, SECOND_ELEMENT], device=elements.device)
        affine = self.scale(kinds).sum(1) * distance.unsqueeze(1) + self.shift(kinds).sum(1)
        width = self.width.abs() + 0.01
        return torch.exp(-0.5 * ((affine - self.mean) / width).square()) / (math.sqrt(2.0 * PI) * width)


class Space(nn.Module):
    """Biases [2p + n, h] of two atoms by their distance, and features [n, d] of atoms by all distances (4.5, 4.6)."""

    def __init__(self, config: PaperBlendTransformerConfig):
        super().__init__()
        count = config.num_gaussians
        self.gaussians = Gaussians(count)
        self.bias = nn.Sequential(nn.Linear(count, count), nn.GELU(), nn.Linear(count, config.num_heads))
        self.surroundings = nn.Linear(count, config.hidden)

    def forward(self, z: Tensor, pos: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both from atomic numbers - 1 [n] and positions [n, 3], of pairs ``rows`` int64 [2, 2p + n]."""
        pos = in_float32(pos)
        vector = pos.index_select(0, rows[1]) - pos.index_select(0, rows[0])
        bias, total = checkpoint(
            self._from, torch.linalg.vector_norm(vector, dim=1), z[rows], rows[0], len(z),
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
        return bias, SCALE_OF_SURROUNDINGS * self.surroundings(total)

    def _from(self, distance: Tensor, elements: Tensor, first: Tensor, num_atoms: int) -> tuple[Tensor, Tensor]:
        features = self.gaussians(distance, elements)
        return in_blocks(self.bias, features), segment_sum(features, first, num_atoms)


class PostNormBlock(nn.Module):
    """Attention, then a feed-forward network; each is added to its input, and the sum is normalised (6)."""

    def __init__(self, config: PaperBlendTransformerConfig, path_dropout: float):
        super().__init__()
        self.config, self.path_dropout = config, path_dropout
        self.qkv, self.out = nn.Linear(config.hidden, 3 * config.hidden), nn.Linear(config.hidden, config.hidden)
        self.widen = nn.Linear(config.hidden, config.feed_forward)
        self.narrow = nn.Linear(config.feed_forward, config.hidden)
        self.norm_attention, self.norm = nn.LayerNorm(config.hidden), nn.LayerNorm(config.hidden)

    def forward(
        self, x: Tensor, bias: list[Tensor], layout: Layout, molecule: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """New rows [m, d] of tokens, from the biases of every bucket."""
        x = self.norm_attention(
            x + self._kept(self._attention(x, bias, layout, generator), layout, molecule, generator)
        )
        wide = dropout(F.gelu(self.widen(x)), self.config.activation_dropout, self.training, generator)
        return self.norm(x + self._kept(self.narrow(wide), layout, molecule, generator))

    def _attention(self, x: Tensor, bias: list[Tensor], layout: Layout, generator: torch.Generator | None) -> Tensor:
        rows = self.qkv(x).unflatten(1, (3, self.config.num_heads, -1)).unbind(1)
        mixed = []
        for *qkv, added in zip(*map(layout.pad, rows), bias, strict=True):
            q, k, v = (part.transpose(1, 2) for part in qkv)
            logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + added
            share = torch.softmax(in_float32(logits), -1).to(v.dtype)
            share = dropout(share, self.config.attention_dropout, self.training, generator)
            mixed.append((share @ v).transpose(1, 2))
        return self.out(layout.unpad(mixed).flatten(1))

    def _kept(self, branch: Tensor, layout: Layout, molecule: Tensor, generator: torch.Generator | None) -> Tensor:
        """Stochastic depth: a branch that is left out for whole molecules."""
        count = sum(bucket.num_molecules for bucket in layout.buckets)
        kept = dropout(branch.new_ones((count, 1)), self.path_dropout, self.training, generator)
        return branch * kept[molecule]


class PaperBlendTransformer(nn.Module):
    """Encoder of both modalities: atom representations [n, hidden]; 47.2 M parameters at the published sizes.

    All nine features of an atom are always shown, also where only positions are seen. The path that bonds are read
    along depends on the order of atoms if there are several shortest ones. The token of the molecule takes part in
    attention, and is not read out.
    """

    symmetry: ClassVar[Symmetry] = INVARIANT
    sees_both: ClassVar[bool] = True
    stacks: ClassVar[tuple[str, ...]] = ("blocks",)

    def __init__(self, config: PaperBlendTransformerConfig):
        super().__init__()
        self.readout = READOUTS[config.readout]
        self.features = nn.Embedding(NUM_ATOM_FEATURES * NUM_VALUES + 1, config.hidden, padding_idx=0)
        self.degree_in, self.degree_out = (nn.Embedding(NUM_VALUES, config.hidden, padding_idx=0) for _ in range(2))
        self.token, self.token_bias = (
            nn.Parameter(torch.empty(config.hidden)),
            nn.Parameter(torch.empty(config.num_heads)),
        )
        self.paths, self.space = PathTables(config.num_heads), Space(config)
        self.norm = nn.LayerNorm(config.hidden)
        step = config.path_dropout / max(1, config.num_layers - 1)
        self.blocks = nn.ModuleList(PostNormBlock(config, step * number) for number in range(config.num_layers))
        self._initialise()

    @staticmethod
    def bias_of_pairs(config: PaperBlendTransformerConfig) -> nn.Module:
        """:attr:`Encoded.relation` is the bias itself."""
        return nn.Identity()

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor,
        pos: Tensor,
        batch: Tensor,
        shown: Modality | Blend,
        generator: torch.Generator | None = None,
    ) -> Encoded:
        """Atom representations, and the bias of attention; arguments as those of :class:`BlendTransformer`."""
        pairs, num_atoms = molecule_pairs(batch), len(x)
        rows = ordered_rows(pairs, num_atoms)
        atoms, biases = [], []
        if shown != "3d":
            degree = torch.bincount(edge_index[1], minlength=num_atoms).clamp(max=NUM_VALUES - 2) + 1
            atoms.append(self.degree_in(degree) + self.degree_out(degree))
            paths = floyd_warshall_paths(edge_index, batch, pairs, MAX_HOPS)
            length = F.pad(paths.distance, (0, num_atoms)).clamp(max=UNREACHABLE)
            length = torch.where(length < 0, UNREACHABLE, length)
            bonds = F.pad(paths.bonds, (0, 0, 0, num_atoms), value=-1)
            biases += [self.paths.of_lengths(length), self.paths.of_bonds(length, bonds, edge_attr)]
        if shown != "2d":
            bias, surroundings = self.space(x[:, 0], pos, rows)
            atoms.append(surroundings)
            biases.append(bias)
        if isinstance(shown, Blend):
            of_atoms = torch.where(shown.surroundings.unsqueeze(1), atoms[1], atoms[0])
            bias = torch.stack(biases)[shown.relation, torch.arange(len(biases[0]), device=batch.device)]
        else:
            of_atoms, bias = sum(atoms[1:], atoms[0]), sum(biases[1:], biases[0])
        offsets = 2 + NUM_VALUES * torch.arange(NUM_ATOM_FEATURES, device=x.device)
        h = self.features(x + offsets).sum(1) + of_atoms
        return Encoded(self._attended(h, bias, batch, generator), bias)

    def _attended(self, h: Tensor, bias: Tensor, batch: Tensor, generator: torch.Generator | None) -> Tensor:
        """Run the blocks on the atoms and on a token for every molecule, which comes before its atoms."""
        _, molecule, size = torch.unique_consecutive(batch, return_inverse=True, return_counts=True)
        of_atom = torch.arange(len(h), device=h.device) + molecule + 1
        with_token = torch.repeat_interleave(size + 1)
        x = self.token.to(h.dtype).expand(len(with_token), -1).index_copy(0, of_atom, h)
        is_token = torch.ones_like(with_token, dtype=torch.bool).index_fill(0, of_atom, False)
        rows = ordered_rows(molecule_pairs(with_token), len(with_token))
        of_token = is_token[rows].any(0)
        # The pairs of atoms come in the same order as without tokens; all others have the bias of the token.
        row = torch.where(of_token, len(bias), (~of_token).cumsum(0) - 1)
        layout = bucketed(with_token, ordered=True)
        spread = layout.spread(torch.cat([bias, self.token_bias.to(bias.dtype).unsqueeze(0)]).index_select(0, row))
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, spread, layout, with_token, generator)
        return x.index_select(0, of_atom)

    def _initialise(self) -> None:
        """Weights ~ N(0, 0.02^2), biases zero; Gaussians as their layer intends, which the released code overwrites."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias") and "token" not in name:
                nn.init.zeros_(parameter)
            elif "norm" not in name:
                nn.init.normal_(parameter, std=INIT_STD)
        for module in self.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        gaussians = self.space.gaussians
        nn.init.constant_(gaussians.scale.weight, 0.5)
        nn.init.zeros_(gaussians.shift.weight)
        nn.init.uniform_(gaussians.mean, 0.0, 3.0)
        nn.init.uniform_(gaussians.width, 0.0, 3.0)
