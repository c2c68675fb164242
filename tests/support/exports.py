"""Exports of encoders at random weights, for tests of embedding that need neither a dataset nor a run."""

from pathlib import Path
from typing import Any

import rdkit
import torch

from molstream.config import tree_of
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.fields import SCHEMA_VERSION
from molstream.training.checkpoint.exported import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE, sealed
from molstream.training.checkpoint.format import write_safetensors
from molstream.training.models.config import GraphTransformerConfig, ModelConfig, TransformerConfig
from molstream.training.models.encoders import Encoders

SMALL: dict[str, Any] = {"hidden": 32, "num_layers": 2, "num_heads": 2, "feed_forward": 48, "pair_hidden": 8}
BOTH = ModelConfig(graph_transformer=GraphTransformerConfig(**SMALL), geometry_transformer=TransformerConfig(**SMALL))
"""A 2D encoder, whose vectors have 96 numbers, and a 3D encoder, whose vectors have 32."""


def write_export(
    folder: Path, model: ModelConfig = BOTH, featurize: FeaturizeConfig | None = None, seed: int = 0
) -> Path:
    """Write an export of newly initialised encoders.

    Args:
        folder: a new folder.
        model: the encoders.
        featurize: how molecules become records; by default as a dataset's.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    encoders = Encoders(model)
    description = {
        "format_version": FORMAT_VERSION,
        "library": "molstream",
        "purpose": "random weights",
        "model": {name: tree_of(getattr(model, name)) for name in model.encoders().values()},
        "featurizer": {
            "schema_version": SCHEMA_VERSION,
            "rdkit": rdkit.__version__,
            "config": tree_of(featurize or FeaturizeConfig(descriptors="none")),
        },
        "training": {"objective": {}, "dataset_fingerprint": f"{seed:064x}"},
    }
    folder.mkdir(parents=True)
    write_safetensors(folder / WEIGHTS_FILE, encoders.state_dict(), {"format": "pt"})
    (folder / CONFIG_FILE).write_bytes(sealed(description, folder))
    return folder
