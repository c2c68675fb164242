"""Files of an export: weights, and a config.json with their checksums and its own.

The seal is for damage, not for forgers: a flipped bit anywhere in these files is refused, also one that leaves valid
JSON or a finite weight behind.
"""

import hashlib
import json
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from molstream.errors import CheckpointError
from molstream.io.reading import mismatch, parse_json
from molstream.preprocessing.fields import SAME_MOLECULE_VERSIONS, SAME_RECORD_VERSIONS, SCHEMA_VERSION
from molstream.training.checkpoint.format import ANOTHER, checksums, read_safetensors

FORMAT_VERSION = 4
READABLE_VERSIONS = (1, 2, 3, 4)
"""Format versions that can be loaded; 1 also has the sizes of unused networks, 1 and 2 have no checksums, and from 4 on
there can be files beside the weights."""
SEALED_SINCE = 3
"""The first format version with checksums."""
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE, EVALUATION_FILE = "config.json", "model.safetensors", "README.md", "eval.json"
HEADS_FILE = "heads.safetensors"
ONNX_FILE, PROGRAM_FILE = "encoder_2d.onnx", "encoder_2d.pt2"
REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
ENCODER_FILES = (*REQUIRED_FILES, CARD_FILE, EVALUATION_FILE)
"""What the encoders of an export need, and what is said of them."""
SEALED_FILES = (WEIGHTS_FILE, HEADS_FILE, ONNX_FILE, PROGRAM_FILE)
"""Files with a checksum in config.json; all but the first are optional."""
EXPORT_FILES = tuple(dict.fromkeys((*ENCODER_FILES, *SEALED_FILES)))
"""All that an export can have."""
LIBRARY = "molstream"
"""What config.json says of the library, in every version."""
FILES, FINGERPRINT = "files", "fingerprint"
"""Keys of config.json: size and SHA-256 of the sealed files, and the SHA-256 of everything else in config.json."""
VERSIONS = {"format_version": int, "featurizer": {"schema_version": int}}
"""What the config.json of every version has."""
CONFIG = {
    "purpose": str,
    "model": dict,
    "featurizer": {"config": dict},
    "training": {"objective": dict, "dataset_fingerprint": str},
}
"""What of the config.json of a readable version is used."""
CHECKSUM = {"bytes": int, "sha256": str}
SEAL = {FINGERPRINT: str, FILES: {WEIGHTS_FILE: CHECKSUM}}
"""What the config.json of a version with checksums has besides."""


def check_schema(source: Path, schema: int) -> None:
    """Check the schema of the molecules that the model of an export or a run learnt from; warn of one that standardized
    otherwise.

    Raises:
        CheckpointError: records of this schema are laid out in another way.
    """
    if schema not in SAME_RECORD_VERSIONS:
        raise CheckpointError(
            f"{source} was trained on molecules of schema {schema}, this molstream reads models of schemas "
            f"{', '.join(map(str, SAME_RECORD_VERSIONS))}. Install the molstream that trained it."
        )
    if schema not in SAME_MOLECULE_VERSIONS:
        _warn_of_schema(source.resolve(), schema)


@cache
def _warn_of_schema(source: Path, schema: int) -> None:
    """Say, once in a process, that a model learnt from molecules that were standardized by other rules."""
    print(
        f"warning: {source} was trained on molecules of schema {schema}, which standardized conjugated ions, separated "
        f"charges and some rings in another way than schema {SCHEMA_VERSION}: vectors of such molecules may differ",
        file=sys.stderr,
    )


def sealed(description: dict[str, Any], folder: Path) -> bytes:
    """The content of a config.json.

    Args:
        description: what it says of the model.
        folder: with the complete files of an export.
    """
    return _written(
        {**description, FILES: checksums(folder / name for name in SEALED_FILES if (folder / name).exists())}
    )


def _written(config: dict[str, Any]) -> bytes:
    """A configuration as JSON with its fingerprint, the only bytes that stand for it."""
    rest = {key: value for key, value in config.items() if key != FINGERPRINT}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**rest, FINGERPRINT: digest}, indent=2) + "\n").encode()


def read_config(folder: Path) -> dict[str, Any]:
    """The content of an export's config.json.

    Raises:
        CheckpointError: ``folder`` is not an export, has another format or schema version, or was changed.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise CheckpointError(
            f"{folder} is not an export: expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, "
            "as written by `molstream export`."
        )
    content = file.read_bytes()
    config = parse_json(content, str(file), VERSIONS, ANOTHER, CheckpointError)
    version, schema = config["format_version"], config["featurizer"]["schema_version"]
    if version not in READABLE_VERSIONS or schema not in SAME_RECORD_VERSIONS:
        raise CheckpointError(
            f"{folder} has format version {version} and schema version {schema}, this molstream reads formats "
            f"{', '.join(map(str, READABLE_VERSIONS))} with schemas {', '.join(map(str, SAME_RECORD_VERSIONS))}. "
            "Install the molstream that wrote it."
        )
    unlike = mismatch(config, {**CONFIG, **(SEAL if version >= SEALED_SINCE else {})})
    if unlike := unlike or _unlike_files(config):
        raise CheckpointError(f"{file} cannot be used: {unlike}. {ANOTHER}")
    return config


def _unlike_files(config: dict[str, Any]) -> str | None:
    """In what the checksums of a config.json are none; None where they are, or where there are none."""
    listed = config.get(FILES, {})
    if unlike := mismatch(listed, dict, FILES) or mismatch(listed, dict.fromkeys(listed, CHECKSUM), FILES):
        return unlike
    strange = sorted(listed.keys() - set(SEALED_FILES))
    return f"{FILES} names {strange[0]!r}, which is no file of an export" if strange else None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of an export by name, on the CPU; :func:`require_intact` compares them with their checksum.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    return read_safetensors(folder / WEIGHTS_FILE)


def require_intact(folder: Path, config: dict[str, Any], files: Collection[str] = (WEIGHTS_FILE,)) -> None:
    """Compare the files of an export with their checksums; there are none in formats 1 and 2.

    Args:
        folder: the export.
        config: its :func:`read_config`.
        files: which of the :data:`SEALED_FILES` to compare; one that config.json does not name is not looked for.

    Raises:
        CheckpointError: a file is missing, or was changed after it was written.
    """
    # A version that was changed to one without checksums does not unseal the file.
    if config["format_version"] < SEALED_SINCE and config.keys().isdisjoint(SEAL):
        return
    if _written(config) != (folder / CONFIG_FILE).read_bytes():
        raise CheckpointError(
            f"{folder / CONFIG_FILE} was changed after it was written: its fingerprint does not fit. {ANOTHER}"
        )
    for name in (name for name in SEALED_FILES if name in files and name in config[FILES]):
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, which {CONFIG_FILE} names. {ANOTHER}")
        if checksums([file])[name] != config[FILES][name]:
            raise CheckpointError(f"{file} differs from its checksum in {CONFIG_FILE}: it was changed. {ANOTHER}")
