"""From the names and layouts of our parameters to those of the reference."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from molstream.training.models.gin import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES

RENAMED = (
    (r"^(encoders|objective\.moleculesde_paper)\.", ""),
    (r"^(encoder_2d\.layers\.\d+)\.(eps)$", r"\1.conv.\2"),
    (r"^(encoder_2d\.layers\.\d+)\.mlp\.", r"\1.conv.nn."),
    (r"^(encoder_3d\.interactions\.\d+)\.update\.", r"\1.update_mlp."),
    (r"^(position_score)\.edge_attribute\.(frame\.)?", r"\1.\2"),
    (r"^(position_score\.blocks\.\d+\.layers\.\d+)\.(query|key|value|edge|skip)\.", r"\1.conv.lin_\2."),
)
"""Patterns of our names and what they become, applied one after the other."""


def as_reference(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights, buffers or gradients of our ``PretrainingModule`` under the names of ``ReferenceMoleculeSDE``.

    What we keep in one tensor (the tables of an embedding, the channels of a layer) becomes one tensor each, and the
    two halves of a linear layer on both ends of an edge become one.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        found.update(_parts(name, tensor))
    of_source = found.pop("position_score.edge_in.of_source.weight")
    of_target = found.pop("position_score.edge_in.of_target.weight")
    found["position_score.edge_in.weight"] = torch.cat([of_source, of_target], dim=1)
    found["position_score.edge_in.bias"] = found.pop("position_score.edge_in.of_target.bias")
    return found


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the reference that one of ours stands for."""
    layer, _, kind = name.rpartition(".")
    if name == "encoder_2d.atom_embedding.weight":
        yield from _tables(layer, tensor, ATOM_VOCABULARY_SIZES)
    elif layer.endswith(".bond_embedding"):
        yield from _tables(layer, tensor, BOND_VOCABULARY_SIZES)
    elif match := re.fullmatch(r"(.*\.adjacency\.layers\.\d+)\.(query|key)_(in|out)", layer):
        place = {"in": 0, "out": 2}[match[3]]
        for channel, part in enumerate(tensor):
            yield f"{match[1]}.channels.{channel}.{match[2]}.{place}.{kind}", part.T if kind == "weight" else part
    elif match := re.fullmatch(r"(.*\.adjacency\.layers\.\d+)\.value", layer):
        for channel, part in enumerate(tensor):
            yield from _convolution(f"{match[1]}.channels.{channel}.value", kind, part)
    elif re.fullmatch(r"graph_score\.node\.layers\.\d+", layer):
        yield from _convolution(layer, kind, tensor[0])
    else:
        yield name, tensor


def _tables(layer: str, tensor: Tensor, sizes: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    for column, table in enumerate(tensor.split(list(sizes))):
        yield f"{layer}.{column}.weight", table


def _convolution(layer: str, kind: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """torch_geometric's ``DenseGCNConv`` has a linear layer for its weight, and a bias of its own."""
    yield (f"{layer}.lin.weight", tensor.T) if kind == "weight" else (f"{layer}.bias", tensor)
