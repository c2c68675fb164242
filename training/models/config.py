"""Sizes of the encoders and of the score networks, which presets scale together.

A model is the set of networks that are configured: one encoder of the bond graph, one of the positions, one of images,
and the score networks of its objectives. The score networks themselves, which pretraining needs and an export does not,
are in ``training/diffusion``.
"""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from molstream.config import Decay, PositiveInt, configuration, field_types
from molstream.errors import ConfigError

Width = Annotated[int, Field(ge=1, le=65_536)]
"""Width of a layer. The bound is far above any model: larger numbers are damage, or would fill any memory."""
Depth = Annotated[int, Field(ge=1, le=1_000)]
"""Number of layers, likewise bounded, since every layer takes time to build even where it takes no memory."""
Heads = Annotated[int, Field(ge=1, le=1_024)]
"""Number of attention heads."""
Gaussians = Annotated[int, Field(ge=2, le=65_536)]
"""Number of Gaussians that a distance is expanded in."""
Readout = Literal["mean", "sum", "max", "mean_sum_max"]
READOUT_PARTS: dict[str, tuple[str, ...]] = {
    "mean": ("mean",),
    "sum": ("sum",),
    "max": ("max",),
    "mean_sum_max": ("mean", "sum", "max"),
}
"""What a readout puts one after the other."""


@configuration
class GINConfig:
    """Sizes of the graph isomorphism network, a 2D encoder."""

    hidden: Width = 300
    """Width of the atom representations."""
    num_layers: Depth = 5
    """Number of message-passing layers."""
    dropout: Decay = 0.0
    """Probability of dropping an entry after each layer, the last one included."""
    readout: Readout = "mean"
    """How atoms are pooled to a molecule; mean_sum_max: the mean, a twentieth of the sum, and the maximum."""


@configuration
class SchNetConfig:
    """Sizes of SchNet, a 3D encoder."""

    hidden: Width = 300
    """Width of the atom representations."""
    num_filters: Width = 128
    """Width of the continuous filters."""
    num_interactions: Depth = 6
    """Number of interaction blocks."""
    num_gaussians: Gaussians = 51
    """Number of Gaussians that a distance is expanded in, evenly spaced from 0 to the cutoff."""
    cutoff: PositiveFloat = 10.0
    """Largest distance of interacting atoms, in angstrom."""
    max_neighbors: PositiveInt | None = None
    """At most so many nearest neighbours of an atom interact; null is all (the paper's code kept some 32 of them)."""
    readout: Readout = "mean"
    """How atoms are pooled to a molecule."""


@configuration
class PaiNNConfig:
    """Sizes of PaiNN, a 3D encoder."""

    hidden: Width = 300
    """Width of the scalar and of the vector features of an atom."""
    num_interactions: Depth = 3
    """Number of messages, each followed by a mixing."""
    num_gaussians: Gaussians = 20
    """Number of Gaussians that a distance is expanded in, evenly spaced from 0 to the cutoff."""
    cutoff: PositiveFloat = 5.0
    """Largest distance of interacting atoms, in angstrom."""
    readout: Readout = "sum"
    """How atoms are pooled to a molecule."""


@configuration
class ComENetConfig:
    """Sizes of ComENet, a 3D encoder."""

    hidden: Width = 256
    """Width of the atom representations."""
    middle: Width = 64
    """Width between the two linear maps that make a filter of an edge's features."""
    num_blocks: Depth = 4
    """Number of blocks, each with a convolution by angles and one by torsions."""
    num_dense: Depth = 3
    """Number of dense layers at the end of a block."""
    cutoff: PositiveFloat = 8.0
    """Largest distance of interacting atoms, in angstrom."""
    chirality: bool = False
    """Whether torsions keep their sign, so that mirror images of a chiral molecule differ."""
    readout: Readout = "mean"
    """How atoms are pooled to a molecule."""


@configuration
class TransformerConfig:
    """Sizes of a transformer encoder, of the bond graph or of the positions."""

    hidden: Width = 256
    """Width of the atom representations, a multiple of ``num_heads``."""
    num_layers: Depth = 8
    """Number of blocks."""
    num_heads: Heads = 4
    """Attention heads; they share ``hidden``."""
    feed_forward: Width = 704
    """Hidden width of the gated feed-forward network; 8/3 of ``hidden`` costs as much as four times it ungated."""
    pair_hidden: Width = 64
    """Width of the relation of two atoms that biases their attention."""
    dropout: Decay = 0.0
    """Probability of dropping an entry of what a block adds to the atoms."""
    checkpointing: bool = False
    """Whether blocks are computed again in the backward pass, which saves their memory and costs a third more time."""
    readout: Readout = "mean"
    """How atoms are pooled to a molecule."""

    def __post_init__(self) -> None:
        if self.hidden % self.num_heads:
            raise ConfigError(f"hidden={self.hidden}: expected a multiple of num_heads={self.num_heads}.")
        if self.checkpointing and self.dropout > 0.0:
            raise ConfigError(
                f"checkpointing computes blocks twice, and dropout={self.dropout} would draw other masks the second "
                "time. Set dropout=0.0 or checkpointing=false."
            )


@configuration
class GraphTransformerConfig(TransformerConfig):
    """Sizes of the transformer over the bond graph, a 2D encoder."""

    readout: Readout = "mean_sum_max"
    """How atoms are pooled to a molecule; mean_sum_max: the mean, a twentieth of the sum, and the maximum."""


@configuration
class BlendTransformerConfig(TransformerConfig):
    """Sizes of the transformer over bond graph and positions, one encoder of both."""

    readout: Readout = "mean_sum_max"
    """How atoms are pooled to a molecule; mean_sum_max: the mean, a twentieth of the sum, and the maximum."""


@configuration
class PaperBlendTransformerConfig:
    """Sizes of the published encoder of MoleBLEND."""

    hidden: Width = 768
    """Width of the atom representations, a multiple of ``num_heads``."""
    num_layers: Depth = 12
    """Number of blocks."""
    num_heads: Heads = 32
    """Attention heads; they share ``hidden``."""
    feed_forward: Width = 768
    """Hidden width of the feed-forward network."""
    num_gaussians: Gaussians = 128
    """Number of learned Gaussians that a distance is expanded in."""
    attention_dropout: Decay = 0.1
    """Probability of dropping an attention weight."""
    activation_dropout: Decay = 0.1
    """Probability of dropping a hidden unit of the feed-forward network."""
    path_dropout: Decay = 0.1
    """Probability of leaving out what the last block adds to a molecule; it grows from 0 at the first one."""
    readout: Readout = "mean"
    """How atoms are pooled to a molecule."""

    def __post_init__(self) -> None:
        if self.hidden % self.num_heads:
            raise ConfigError(f"hidden={self.hidden}: expected a multiple of num_heads={self.num_heads}.")


@configuration
class ResNetConfig:
    """Sizes of the residual network over drawings, an image encoder."""

    width: Annotated[int, Field(ge=1, le=8_192)] = 64
    """Channels of the first stage; the last one has eight times as many, which are the molecule's vector."""
    image_size: Annotated[int, Field(ge=32, le=1_024)] = 224
    """Height and width of the drawings, in pixels; 112 costs a quarter."""

    @property
    def hidden(self) -> int:
        """Width of the molecule's vector."""
        return 8 * self.width


@configuration
class ScoreTransformerConfig:
    """Sizes of a score network of our form, of the positions or of the bonds."""

    trunk: TransformerConfig = TransformerConfig(hidden=192, num_layers=5, num_heads=3, feed_forward=512)
    """Its blocks."""
    readout_hidden: Width = 192
    """Hidden width of what is read out of a pair of atoms."""


@configuration
class PositionScoreConfig:
    """Sizes of the published score network of the positions (2D to 3D)."""

    hidden: Width = 32
    """Width of atom and edge attributes; also the number of Fourier frequencies."""
    edge_hidden: Width = 300
    """Hidden width of the edge embedding of the two 2D representations."""
    num_blocks: Depth = 2
    """Number of blocks, each ending in a readout of directions."""
    num_layers: Depth = 2
    """Attention layers in a block."""
    num_heads: Heads = 8
    """Attention heads; they share ``hidden``."""
    readout_hidden: Width = 128
    """Hidden width of the readout of directions."""
    dropout: Decay = 0.1
    """Probability of dropping an attention weight or a hidden unit of the feed-forward network."""


@configuration
class GraphScoreConfig:
    """Sizes of the published score network of the bond graph (3D to 2D)."""

    hidden: Width = 16
    """Width of the atom attributes inside the layers; queries and keys are twice as wide."""
    num_layers: Depth = 4
    """Number of layers of the adjacency network and of the node network."""
    num_heads: Heads = 4
    """Divides ``hidden`` into the width of an attention slice; there are twice as many slices, as in the original."""
    hidden_channels: Width = 8
    """Adjacency channels between layers; the first layer has two, the adjacency and its square."""
    final_channels: Width = 4
    """Adjacency channels after the last layer."""


def _encoder(modality: Literal["2d", "3d", "both", "image"]) -> Any:
    return dataclasses.field(default=None, metadata={"encoder": modality})


@configuration
class ModelConfig:
    """Which networks there are, and their sizes: what the presets ``model=small|base|...`` choose.

    A network that is null is not part of the model.
    """

    gin: GINConfig | None = _encoder("2d")
    """2D encoder: graph isomorphism network."""
    graph_transformer: GraphTransformerConfig | None = _encoder("2d")
    """2D encoder: transformer over the bond graph."""
    schnet: SchNetConfig | None = _encoder("3d")
    """3D encoder: SchNet."""
    painn: PaiNNConfig | None = _encoder("3d")
    """3D encoder: PaiNN."""
    comenet: ComENetConfig | None = _encoder("3d")
    """3D encoder: ComENet."""
    geometry_transformer: TransformerConfig | None = _encoder("3d")
    """3D encoder: transformer over the positions."""
    blend_transformer: BlendTransformerConfig | None = _encoder("both")
    """One encoder of both: transformer over bond graph and positions; `objective=moleblend` needs such a one."""
    blend_transformer_paper: PaperBlendTransformerConfig | None = _encoder("both")
    """The published encoder of MoleBLEND; `model=moleblend_paper`."""
    resnet: ResNetConfig | None = _encoder("image")
    """Image encoder: residual network over drawings, which are made while loading."""
    position_transformer: ScoreTransformerConfig | None = None
    """Score network of the positions given the bond graph; `objective=moleculesde` needs it."""
    bond_transformer: ScoreTransformerConfig | None = None
    """Score network of bonds and charges given the positions; `objective=moleculesde` needs it."""
    position_score: PositionScoreConfig | None = None
    """Published score network of the positions; `objective=moleculesde_paper` needs it."""
    graph_score: GraphScoreConfig | None = None
    """Published score network of the bond graph; `objective=moleculesde_paper` needs it."""

    def __post_init__(self) -> None:
        self.encoders()

    def encoders(self) -> dict[str, str]:
        """The name of the encoder of each modality, 2d, 3d and image, that has one: ``{"2d": "gin", "3d": "schnet"}``.

        One encoder of both 2d and 3d stands for either.

        Raises:
            ConfigError: two encoders of one modality.
        """
        found: dict[str, str] = {}
        for each in dataclasses.fields(self):
            if getattr(self, each.name) is not None:
                for modality in modalities_of(each):
                    if modality in found:
                        raise ConfigError(
                            f"model has two {spoken(modality)} encoders, {found[modality]} and {each.name}: set one of "
                            f"them to null{_another(each, modality)}."
                        )
                    found[modality] = each.name
        return found

    @property
    def encoder_both(self) -> str | None:
        """The name of the encoder of both modalities, if there is one."""
        encoders = self.encoders()
        return encoders["2d"] if len(encoders) > len(set(encoders.values())) else None

    def encoder_of(self, seen: str) -> str:
        """The name of the encoder that sees a modality, 2d, 3d or image, or 2d and 3d, "both", at once.

        Raises:
            ConfigError: the model has none.
        """
        name = self.encoder_both if seen == "both" else self.encoders().get(seen)
        if name is None:
            known = [f.name for f in dataclasses.fields(self) if modalities_of(f) == (seen,)]
            choose = f"choose one by model/encoder_{seen}=, of {', '.join(known)}" if known else f"{_PRESETS_OF_BOTH}"
            what = "encoder of both modalities" if seen == "both" else f"{spoken(seen)} encoder"
            raise ConfigError(f"the model has no {what}: {choose}.")
        return name

    def width(self, modality: str) -> int:
        """Width of a modality's representations of atoms, or of those of both at once; of molecules for images.

        Raises:
            ConfigError: the model has no encoder of it.
        """
        return getattr(self, self.encoder_of(modality)).hidden

    def readout_width(self, modality: str, readout: str | None = None) -> int:
        """Width of a molecule's vector by a modality's encoder: that of its atoms for every part of the readout.

        An image has no atoms, and no readout.

        Args:
            modality: 2d, 3d, both or image.
            readout: name of a readout; the encoder's own by default.

        Raises:
            ConfigError: the model has no encoder of it.
        """
        encoder = getattr(self, self.encoder_of(modality))
        if modality == "image":
            return encoder.hidden
        return len(READOUT_PARTS[readout or encoder.readout]) * encoder.hidden

    @property
    def image_size(self) -> int | None:
        """Height and width of the images that the model sees, in pixels; None if it has no image encoder."""
        name = self.encoders().get("image")
        return None if name is None else getattr(self, name).image_size

    @property
    def hidden_2d(self) -> int:
        """Width of the 2D encoder's representations."""
        return self.width("2d")

    @property
    def hidden_3d(self) -> int:
        """Width of the 3D encoder's representations."""
        return self.width("3d")

    def network(self, name: str, objective: str) -> Any:
        """The configuration of a network that an objective needs.

        Raises:
            ConfigError: the model does not have it.
        """
        assert name in field_types(type(self))
        if (config := getattr(self, name)) is None:
            raise ConfigError(f"objective={objective} needs model.{name}, which this model lacks. {_PRESETS}")
        return config


def spoken(modality: str) -> str:
    """A modality as sentences name it: 2D, 3D or image."""
    return modality if modality == "image" else modality.upper()


def modalities_of(network: "dataclasses.Field[Any]") -> tuple[str, ...]:
    """The modalities that the network of a field of :class:`ModelConfig` encodes; none for a score network."""
    declared = network.metadata.get("encoder")
    return ("2d", "3d") if declared == "both" else (declared,) if declared else ()


def _another(network: "dataclasses.Field[Any]", modality: str) -> str:
    """What else a user can do who has two encoders of a modality, the second of them this one."""
    choice = f", or choose one by model/encoder_{modality}={network.name}"
    return choice if modalities_of(network) == (modality,) else ""


_PRESETS_OF_BOTH = "choose model=moleblend_small or another of model=moleblend_*"
_PRESETS = (
    "objective=moleculesde goes with model=small, base, large, xl or tiny; objective=moleculesde_paper with "
    "model=paper or paper_tiny (experiment=paper sets both)."
)
