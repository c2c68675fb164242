"""Sizes of the score networks, which presets scale together with the encoders.

They stand here because they are part of the model's configuration; the networks themselves, which pretraining needs
and an export does not, are in ``training/diffusion``.
"""

from dataclasses import dataclass, field

from molstream.training.models.transformer import TransformerConfig


@dataclass
class PositionScoreConfig:
    """Sizes of :class:`molstream.training.diffusion.position_score.PositionScore` (2D to 3D)."""

    hidden: int = 32
    """Width of atom and edge attributes; also the number of Fourier frequencies."""
    edge_hidden: int = 300
    """Hidden width of the edge embedding of the two 2D representations."""
    num_blocks: int = 2
    """Number of blocks, each ending in a readout of directions."""
    num_layers: int = 2
    """Attention layers in a block."""
    num_heads: int = 8
    """Attention heads; they share ``hidden``."""
    readout_hidden: int = 128
    """Hidden width of the readout of directions."""
    dropout: float = 0.1
    """Probability of dropping an attention weight or a hidden unit of the feed-forward network."""


@dataclass
class GraphScoreConfig:
    """Sizes of :class:`molstream.training.diffusion.graph_score.GraphScore` (3D to 2D)."""

    hidden: int = 16
    """Width of the atom attributes inside the layers; queries and keys are twice as wide."""
    num_layers: int = 4
    """Number of layers of the adjacency network and of the node network."""
    num_heads: int = 4
    """Divides ``hidden`` into the width of an attention slice; there are twice as many slices, as in the original."""
    hidden_channels: int = 8
    """Adjacency channels between layers; the first layer has two, the adjacency and its square."""
    final_channels: int = 4
    """Adjacency channels after the last layer."""


@dataclass
class ScoreTransformerConfig:
    """Sizes of a score network of our form (``position_transformer``, ``bond_transformer``)."""

    trunk: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(hidden=192, num_layers=5, num_heads=3, feed_forward=512)
    )
    """Its blocks."""
    readout_hidden: int = 192
    """Hidden width of what is read out of a pair of atoms."""
