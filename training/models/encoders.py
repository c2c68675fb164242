"""The tables of encoders, the configuration of a model, and the pair of encoders that pretraining trains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, NamedTuple

from torch import nn

from molstream.training.models.config import GraphScoreConfig, PositionScoreConfig, ScoreTransformerConfig
from molstream.training.models.gin import GIN, GINConfig
from molstream.training.models.painn import PaiNN, PaiNNConfig
from molstream.training.models.schnet import SchNet, SchNetConfig
from molstream.training.models.transformer import GeometryTransformer, GraphTransformer, TransformerConfig


@dataclass
class ModelConfig:
    """Which encoders, and the sizes of all networks: what the presets ``model=paper|tiny|...`` set."""

    encoder_2d: str = "gin"
    """Encoder of the bond graph, a name of :data:`ENCODERS_2D`."""
    encoder_3d: str = "schnet"
    """Encoder of the positions, a name of :data:`ENCODERS_3D`."""
    gin: GINConfig = field(default_factory=GINConfig)
    """Used with ``encoder_2d=gin``."""
    schnet: SchNetConfig = field(default_factory=SchNetConfig)
    """Used with ``encoder_3d=schnet``."""
    painn: PaiNNConfig = field(default_factory=PaiNNConfig)
    """Used with ``encoder_3d=painn``."""
    graph_transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Used with ``encoder_2d=graph_transformer``."""
    geometry_transformer: TransformerConfig = field(default_factory=TransformerConfig)
    """Used with ``encoder_3d=geometry_transformer``."""
    position_score: PositionScoreConfig = field(default_factory=PositionScoreConfig)
    """Score network of the positions given the bond graph."""
    graph_score: GraphScoreConfig = field(default_factory=GraphScoreConfig)
    """Score network of the bond graph given the positions."""
    position_transformer: ScoreTransformerConfig = field(default_factory=ScoreTransformerConfig)
    """The same as ``position_score`` in our form, with ``objective=moleculesde``."""
    bond_transformer: ScoreTransformerConfig = field(default_factory=ScoreTransformerConfig)
    """The same as ``graph_score`` in our form."""

    @property
    def hidden_2d(self) -> int:
        """Width of the 2D encoder's representations."""
        return _choose(ENCODERS_2D, "encoder_2d", self.encoder_2d).config(self).hidden

    @property
    def hidden_3d(self) -> int:
        """Width of the 3D encoder's representations."""
        return _choose(ENCODERS_3D, "encoder_3d", self.encoder_3d).config(self).hidden


class Encoder(NamedTuple):
    """A row of a table of encoders: the class, and where its configuration stands in :class:`ModelConfig`.

    The class is built from that configuration. Its instances map a batch to atom representations [n, hidden], and
    have ``readout(h, batch, num_graphs)``, which pools them to molecules [g, hidden].
    """

    build: Callable[[Any], nn.Module]
    config: Callable[[ModelConfig], Any]


ENCODERS_2D: dict[str, Encoder] = {
    "gin": Encoder(GIN, attrgetter("gin")),
    "graph_transformer": Encoder(GraphTransformer, attrgetter("graph_transformer")),
}
"""``forward(x, edge_index, edge_attr, batch, generator=None) -> [n, hidden]``."""

ENCODERS_3D: dict[str, Encoder] = {
    "schnet": Encoder(SchNet, attrgetter("schnet")),
    "painn": Encoder(PaiNN, attrgetter("painn")),
    "geometry_transformer": Encoder(GeometryTransformer, attrgetter("geometry_transformer")),
}
"""``forward(z, pos, batch, generator=None) -> [n, hidden]`` with z = atomic number - 1."""


class Encoders(nn.Module):
    """The 2D and the 3D encoder of a model; objectives share them, exports carry them.

    Raises:
        ValueError: the configuration names an encoder that is in no table.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        encoder_2d = _choose(ENCODERS_2D, "encoder_2d", config.encoder_2d)
        encoder_3d = _choose(ENCODERS_3D, "encoder_3d", config.encoder_3d)
        # Any: the encoders share `readout`, and no base class but nn.Module, which does not know it.
        self.encoder_2d: Any = encoder_2d.build(encoder_2d.config(config))
        self.encoder_3d: Any = encoder_3d.build(encoder_3d.config(config))


def _choose(table: Mapping[str, Encoder], key: str, name: str) -> Encoder:
    if name not in table:
        raise ValueError(f"model.{key}={name!r} is no encoder. Choose one of: {', '.join(table)}.")
    return table[name]
