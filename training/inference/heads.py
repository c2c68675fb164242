"""The heads of an export, which objectives train beside the encoders: what generation needs.

heads.safetensors has the objective's weights by name, and in its metadata the statistics of the dataset's labels, which
determine the sizes of heads that predict them. The sizes of all other heads are in config.json.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from molstream.config import tree_of
from molstream.errors import CheckpointError, DataError
from molstream.training.checkpoint.format import ANOTHER, write_safetensors
from molstream.training.data.labels import Labels
from molstream.training.extended import ModelConfig

HEADS = "heads"
"""Key of config.json: the networks of the heads."""
LABELS = ("descriptor_statistics", "target_statistics")
"""Keys of a dataset's record, and of the metadata of heads.safetensors."""
PREFIX = "objective."
"""Of the names of an objective's tensors in a checkpoint."""


def heads_of(model: ModelConfig) -> dict[str, Any]:
    """What config.json says of the heads: the networks of a model beside its encoders."""
    encoders = model.encoders().values()
    return {"model": {name: tree for name, tree in tree_of(model).items() if name not in encoders}}


def write_heads(file: Path, published: Mapping[str, Tensor], dataset: Mapping[str, Any]) -> None:
    """Write heads.safetensors.

    Args:
        file: the file.
        published: the weights of a checkpoint for inference, by name.
        dataset: the record of the run's dataset.
    """
    heads = {name.removeprefix(PREFIX): tensor for name, tensor in published.items() if name.startswith(PREFIX)}
    labels = {key: json.dumps(dataset.get(key, {})) for key in LABELS}
    write_safetensors(file, heads, {"format": "pt", **labels})


def labels_of(file: Path) -> Labels:
    """The labels that the heads were made for.

    Raises:
        CheckpointError: the metadata of the file lack them.
    """
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
    try:
        return Labels.of({key: json.loads(metadata[key]) for key in LABELS})
    except (KeyError, ValueError, DataError) as error:
        raise CheckpointError(f"{file} cannot be used: its metadata do not describe the labels. {ANOTHER}") from error
