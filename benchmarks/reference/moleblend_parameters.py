"""From our MoleBLEND, with the published encoder, to the reference: parameters, and what a step has drawn."""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from molstream.training.data.batch import MoleculeBatch
from molstream.training.models.graph import molecule_pairs
from molstream.training.models.layout import ordered_rows
from molstream.training.objectives.moleblend import Recovered

from .moleblend_graph import Draws

RENAMED = (
    (r"^encoders\.encoder_both\.", "encoder."),
    (r"^objective\.moleblend\.", ""),
    (r"^encoder\.features\.", "encoder.embedding.atom."),
    (r"^encoder\.(degree_in|degree_out)\.", r"encoder.embedding.\1."),
    (r"^encoder\.token$", "encoder.cls"),
    (r"^encoder\.token_bias$", "encoder.cls_bias"),
    (r"^encoder\.paths\.length\.", "encoder.graph.spd."),
    (r"^encoder\.paths\.bond\.", "encoder.graph.edge."),
    (r"^encoder\.paths\.", "encoder.graph."),
    (r"^encoder\.space\.gaussians\.scale\.", "encoder.gaussian.mul."),
    (r"^encoder\.space\.gaussians\.shift\.", "encoder.gaussian.bias."),
    (r"^encoder\.space\.gaussians\.(mean|width)$", r"encoder.gaussian.\1s"),
    (r"^encoder\.space\.bias\.0\.", "encoder.gaussian.hidden."),
    (r"^encoder\.space\.bias\.2\.", "encoder.gaussian.heads."),
    (r"^encoder\.space\.surroundings\.", "encoder.gaussian.atoms."),
    (r"^(encoder\.)blocks(\.\d+)\.norm_attention\.", r"\1layers\2.attention_norm."),
    (r"^(encoder\.)blocks(\.\d+)\.norm\.", r"\1layers\2.ffn_norm."),
    (r"^(encoder\.)blocks(\.\d+)\.widen\.", r"\1layers\2.ffn_in."),
    (r"^(encoder\.)blocks(\.\d+)\.narrow\.", r"\1layers\2.ffn_out."),
    (r"^(encoder\.)blocks(\.\d+)\.out\.", r"\1layers\2.output."),
    (r"^(encoder\.)blocks(\.\d+)\.qkv\.", r"\1layers\2.attention.qkv."),
    (r"^length\.", "spd_head."),
    (r"^bonds\.", "edge_head."),
    (r"^geometry\.", "head_3d."),
    (r"^direction\.weight$", "noise_head.output.weight"),
    (r"^direction\.", "noise_head.attention."),
    (r"_head\.rows\.0\.", "_head.row."),
    (r"^head_3d\.rows\.0\.", "head_3d.row."),
    (r"\.rows\.2\.", ".row_norm."),
    (r"\.columns\.0\.", ".column."),
    (r"\.columns\.2\.", ".column_norm."),
    (r"\.form\.", ".output."),
)
"""Patterns of our names and what they become, applied one after the other."""


def as_reference(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights or gradients of our ``PretrainingModule`` under the names of ``ReferenceMoleBLEND``."""
    found: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        found.update(_parts(name, tensor))
    return found


def _parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the reference that one of ours stands for."""
    layer, _, kind = name.rpartition(".")
    if layer.endswith(".qkv"):
        for part, rows in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            yield f"{layer.removesuffix('qkv')}{part}.{kind}", rows
    elif layer == "head_3d.out":
        for axis, row in enumerate(tensor.split(1)):
            yield f"head_3d.axes.{axis}.{kind}", row
    elif name == "noise_head.output.weight":
        yield name, tensor.reshape(1, -1)
    else:
        yield name, tensor


def as_draws(found: Recovered, batch: MoleculeBatch) -> Draws:
    """What our step has drawn, padded."""
    size, molecule = int(batch.ptr.diff().max()), batch.batch
    place = torch.arange(batch.num_nodes) - batch.ptr[molecule]
    first, second = ordered_rows(molecule_pairs(molecule), batch.num_nodes)
    pairs = torch.zeros(batch.num_graphs, size, size, dtype=torch.long)
    pairs[molecule[first], place[first], place[second]] = found.blend.relation
    atoms = torch.zeros(batch.num_graphs, size, dtype=torch.bool)
    atoms[molecule, place] = found.blend.surroundings
    noise = found.noise.new_zeros(batch.num_graphs, size, 3)
    noise[molecule, place] = found.noise
    return Draws(pairs, atoms, noise)
