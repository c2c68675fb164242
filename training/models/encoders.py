"""Table of encoders, and the module of a model's encoders that is pretrained and exported."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from molstream.errors import ConfigError
from molstream.extensions import extended
from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.blend_transformer import BlendTransformer, Encoded
from molstream.training.models.blend_transformer_paper import PaperBlendTransformer
from molstream.training.models.blending import Blend
from molstream.training.models.comenet import ComENet
from molstream.training.models.config import ModelConfig
from molstream.training.models.gin import GIN
from molstream.training.models.painn import PaiNN
from molstream.training.models.resnet import ResNet
from molstream.training.models.schnet import SchNet
from molstream.training.models.transformer import GeometryTransformer, GraphTransformer

ENCODERS: dict[str, Callable[[Any], nn.Module]] = {
    "gin": GIN,
    "graph_transformer": GraphTransformer,
    "schnet": SchNet,
    "painn": PaiNN,
    "comenet": ComENet,
    "geometry_transformer": GeometryTransformer,
    "blend_transformer": BlendTransformer,
    "blend_transformer_paper": PaperBlendTransformer,
    "resnet": ResNet,
}
"""Encoder classes by the field of :class:`ModelConfig` with their configuration; the field's metadata says what of.

2D: ``forward(x, edge_index, edge_attr, batch, generator=None) -> [n, hidden]``. 3D: ``forward(z, pos, batch,
generator=None) -> [n, hidden]`` with z = atomic number - 1. Of both: ``forward(x, edge_index, edge_attr, pos, batch,
shown, generator=None) -> Encoded``, a true attribute ``sees_both``, and ``bias_of_pairs(config)``, a module that makes
attention biases of what is shown of pairs. These have ``readout(h, batch, num_graphs)``, which pools atoms [n, hidden]
to molecules. Image: ``forward(images, generator=None) -> [g, hidden]``, vectors of molecules. All have ``stacks``: the
names of their ``ModuleList`` of layers, all of one length, of which the last ones can be left out.
"""


def truncate(encoder: nn.Module, num_layers: int) -> None:
    """Drop the layers of an encoder after the first ``num_layers``, in place; what follows the layers stays.

    Raises:
        ConfigError: it has fewer layers.
    """
    stacks: tuple[str, ...] = getattr(encoder, "stacks", ())
    for name in stacks:
        owner, _, attribute = name.rpartition(".")
        layers: Any = encoder.get_submodule(name)
        if not 1 <= num_layers <= len(layers):
            raise ConfigError(f"num_layers={num_layers}: expected 1 to {len(layers)}, which the encoder has.")
        setattr(encoder.get_submodule(owner), attribute, layers[:num_layers])
    if not stacks:
        raise ConfigError(f"num_layers={num_layers}: {type(encoder).__name__} has no layers that can be left out.")


def encode(encoder: Any, modality: str, batch: Any, generator: torch.Generator | None = None) -> Tensor:
    """Encode a batch: representations of its atoms, [n, d].

    Args:
        encoder: of the table.
        modality: 2d, 3d, or both, which only an encoder of both modalities takes at once.
        batch: a :class:`MoleculeBatch`, or a PyG batch with its fields.
        generator: source of dropout masks; none are drawn in evaluation mode.
    """
    if getattr(encoder, "sees_both", False):
        return _encoded(encoder, modality, batch, generator).nodes
    if modality == "2d":
        return encoder(batch.x, batch.edge_index, batch.edge_attr, batch.batch, generator=generator)
    return encoder(batch.x[:, 0], batch.pos, batch.batch, generator=generator)


def _encoded(encoder: Any, shown: str | Blend, batch: Any, generator: torch.Generator | None) -> Encoded:
    """What an encoder of both modalities makes of what it is shown of a batch."""
    return encoder(batch.x, batch.edge_index, batch.edge_attr, batch.pos, batch.batch, shown, generator=generator)


class Encoders(nn.Module):
    """The encoders of a model, which all objectives share and exports contain.

    A 2D and a 3D one, or one of both; and one of images.

    Raises:
        ConfigError: two encoders of one modality are configured, or none.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        names, table = config.encoders(), extended(ENCODERS, "encoders")
        built = {name: table[name](getattr(config, name)) for _, name in sorted(names.items())}
        # Any: the encoders share `readout`, and no base class but nn.Module, which does not know it.
        self.encoder_both: Any = built.pop(config.encoder_both or "", None)
        self.encoder_2d: Any = built.get(names.get("2d", ""))
        self.encoder_3d: Any = built.get(names.get("3d", ""))
        self.encoder_image: Any = built.get(names.get("image", ""))

    def encoder(self, modality: str) -> Any:
        """The encoder of a modality, 2d, 3d or image, or of both 2d and 3d; None if there is none."""
        if modality == "image":
            return self.encoder_image
        if self.encoder_both is not None:
            return self.encoder_both
        return {"2d": self.encoder_2d, "3d": self.encoder_3d}.get(modality)

    def nodes_2d(self, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """Encode the bond graphs of a batch: representations of its atoms, [n, d].

        Args:
            batch: molecules.
            generator: source of dropout masks; none are drawn in evaluation mode.
        """
        return encode(self.encoder("2d"), "2d", batch, generator)

    def nodes_3d(self, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """Encode elements and positions of a batch, [n, d]; arguments as in :meth:`nodes_2d`."""
        return encode(self.encoder("3d"), "3d", batch, generator)

    def vectors_image(self, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """Encode the images of a batch: vectors of its molecules, [g, d]; arguments as in :meth:`nodes_2d`."""
        return self.encoder("image")(batch.images, generator=generator)

    def blended(self, batch: MoleculeBatch, blend: Blend, generator: torch.Generator | None = None) -> Encoded:
        """Encode a blend of bond graphs and positions of a batch, by the encoder of both."""
        return _encoded(self.encoder_both, blend, batch, generator)

    def nodes(self, modality: str, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """Encode a batch by the encoder of a modality, 2d or 3d: representations of its atoms, [n, d]."""
        return (self.nodes_2d if modality == "2d" else self.nodes_3d)(batch, generator)

    def molecules(self, modality: str, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """The vectors of the molecules of a batch by the encoder of a modality, 2d, 3d or image, [g, d].

        Those of 2d and 3d are the encoder's readout of the atoms. Where ``batch.present(modality)`` is False, the
        vector means nothing.
        """
        if modality == "image":
            return self.vectors_image(batch, generator)
        return self.encoder(modality).readout(self.nodes(modality, batch, generator), batch.batch, batch.num_graphs)


class EncodedOnce(Encoders):
    """Encoders of which each encodes a modality once, for all that use its representations of the same batch."""

    def __init__(self, encoders: Encoders):
        nn.Module.__init__(self)
        self.encoder_2d, self.encoder_3d = encoders.encoder_2d, encoders.encoder_3d
        self.encoder_both, self.encoder_image = encoders.encoder_both, encoders.encoder_image
        self._found: dict[str, Tensor] = {}

    def nodes_2d(self, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """Encode the bond graphs of the batch, [n, d], at the first call."""
        if "2d" not in self._found:
            self._found["2d"] = super().nodes_2d(batch, generator)
        return self._found["2d"]

    def nodes_3d(self, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """Encode elements and positions of the batch, [n, d], at the first call."""
        if "3d" not in self._found:
            self._found["3d"] = super().nodes_3d(batch, generator)
        return self._found["3d"]

    def vectors_image(self, batch: MoleculeBatch, generator: torch.Generator | None = None) -> Tensor:
        """Encode the images of the batch, [g, d], at the first call."""
        if "image" not in self._found:
            self._found["image"] = super().vectors_image(batch, generator)
        return self._found["image"]
