"""What a model card is made of: what the run recorded, and what the user says of the molecules."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from molstream.errors import DataError
from molstream.io.reading import AnyNumber, Natural, mismatch, parse_yaml, read_bounded, read_json
from molstream.io.remote import shown
from molstream.preprocessing.config import FeaturizeConfig
from molstream.training.checkpoint.exported import EVALUATION_FILE, FILES, WEIGHTS_FILE
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.featurizing import model_featurizer
from molstream.training.memory import on_meta
from molstream.training.models.config import ModelConfig
from molstream.training.models.encoders import Encoders
from molstream.training.module import num_parameters
from molstream.training.run.directory import RESTORE, RunDirectory
from molstream.training.run.history import Launch, read_launches

EVALUATION = {
    "weights_sha256": str | None,
    "representation": str,
    "head": str,
    "composition": [str],
    "foldings": [
        {
            "folding": str,
            "table": {"columns": [str], "rows": [{"representation": str, "cells": [str]}]},
            "sentences": [str],
        }
    ],
}
"""What is needed of an evaluation's JSON."""
DATASET = {
    "config": {"sources": [{"name": str}], "settings": {"decontaminate_by": str}},
    "counts": {"decontaminated": Natural},
    "conformer_status": dict[str, Natural],
    "benchmarks": dict[str, Natural],
}
"""What is needed of the record of a run's dataset, beside what every use of it needs."""
MIX = {"mix": [{"path": str, "weight": AnyNumber, "fingerprint": str}]}
"""The same of a mixture of datasets."""
GIVEN = ("license", "license_name", "license_link", "datasets")
"""Metadata of Hugging Face that the user can give."""


class Sources(NamedTuple):
    """What the user says of the molecules' sources and their licences."""

    metadata: dict[str, str | list[str]]
    """Of :data:`GIVEN`."""
    text: str
    """Markdown."""


@dataclass(frozen=True)
class Facts:
    """What is known of an export and of the run that it is from."""

    name: str
    """Title of the card."""
    address: str | None
    """Where it is pushed to; None if it is a folder alone."""
    config: Mapping[str, Any]
    """Content of config.json."""
    model: ModelConfig
    """The encoders."""
    featurize: FeaturizeConfig
    """Featurizer of the molecules."""
    parameters: Mapping[str, int]
    """Number of parameters of every encoder, by its name."""
    dataset: Mapping[str, Any]
    """The run's record of its dataset."""
    launches: Sequence[Launch]
    """History of the run; empty where none was kept."""
    ema_decay: float
    """Decay of the moving average of the weights that is exported; 0 where these are the weights themselves."""
    init_from: str | None = None
    """What the run's weights began with, if they were not random."""
    evaluation: Mapping[str, Any] | None = None
    """JSON of ``molstream evaluate vectors`` about these weights."""
    sources: Sources | None = None
    """What the user says of the molecules' sources and their licences."""

    @property
    def modalities(self) -> list[str]:
        """``2d``, ``3d`` or both, which there are encoders of."""
        return sorted(self.model.encoders())


def facts_of(run: RunDirectory, export: ExportConfig, output: Path, config: Mapping[str, Any]) -> Facts:
    """Gather what is known of an export.

    Args:
        run: the run that it is from.
        export: what the user asked for.
        output: the folder of the export.
        config: content of its config.json.

    Raises:
        DataError: a record of the run, its eval.json or the user's ``sources`` cannot be read.
    """
    sources = read_sources(export.sources) if export.sources else None
    pretrain, record = run.config(), run.dataset()
    if wrong := mismatch(record, {**DATASET, **(MIX if "mix" in record else {})}):
        raise DataError(f"{run.path / 'dataset.json'} cannot be used: {wrong}. {RESTORE}")
    encoders = on_meta(lambda: Encoders(pretrain.model))
    given = pretrain.model.encoders().items()
    return Facts(
        name=_title(run, export, output),
        address=shown(export.push) if export.push else None,
        config=config,
        model=pretrain.model,
        featurize=model_featurizer(config["featurizer"]["config"], "config.json"),
        parameters={name: num_parameters(encoders.encoder(modality)) for modality, name in given},
        dataset=record,
        launches=read_launches(run.path),
        ema_decay=pretrain.optim.ema_decay,
        init_from=pretrain.init_from,
        evaluation=evaluation_of(config[FILES][WEIGHTS_FILE]["sha256"], run.path / EVALUATION_FILE),
        sources=sources,
    )


def _title(run: RunDirectory, export: ExportConfig, output: Path) -> str:
    """The last part of the address or folder, or the name of the run."""
    if export.push:
        name = re.split(r"[/:]", export.push.partition("@")[0].rstrip("/"))[-1]
    else:
        name = (output if export.output else run.path.resolve()).name
    return re.sub(r"[^\w.-]+", "-", name)


def evaluation_of(weights_sha256: str, file: Path) -> dict[str, Any] | None:
    """The evaluation in a run's folder, if it is one of these weights; warns of another.

    Raises:
        DataError: it is damaged.
    """
    if not file.is_file():
        return None
    found = read_json(file, EVALUATION, "Write it again with `molstream evaluate vectors`, or remove it.")
    if found["weights_sha256"] == weights_sha256:
        return found
    print(
        f"warning: {file} is about other weights, and is left out: evaluate this one, and export again",
        file=sys.stderr,
    )
    return None


def read_sources(file: str) -> Sources:
    """Read what the user says of the molecules' sources: Markdown, which may begin with metadata between two ``---``.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has other metadata than :data:`GIVEN`.
    """
    advice = "Give the path of a Markdown file as sources=FILE."
    try:
        text = read_bounded(Path(file), advice).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} cannot be read: it is not UTF-8. {advice}") from error
    if (found := re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text, re.DOTALL)) is None:
        return Sources({}, text)
    metadata = parse_yaml(found[1], f"{file}, its metadata", DataError, texts=True)
    expected = f"expected {', '.join(GIVEN)}, each a text, or a list of texts for datasets"
    if not isinstance(metadata, dict):
        raise DataError(f"{file}, its metadata, cannot be used: {expected}.")
    for key, value in metadata.items():
        is_list = key == "datasets" and isinstance(value, list) and all(isinstance(item, str) for item in value)
        if key not in GIVEN or not (isinstance(value, str) or is_list):
            raise DataError(f"{file}, its metadata, cannot be used: got '{key}'; {expected}.")
    return Sources(metadata, text[found.end() :])
