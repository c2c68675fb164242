"""What is compared: vectors of the same molecules by the encoder, its untrained twins, fingerprints and descriptors."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from molstream.errors import DataError, in_words
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.training.evaluation.vectors.baselines import describe, ecfp4
from molstream.training.evaluation.vectors.tasks import Task, require_usable, without
from molstream.training.inference.embedded import Embedded
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.vector_files import VECTOR

ENCODER, UNTRAINED, ECFP4, DESCRIPTORS = "encoder", "untrained", "ECFP4 counts", "descriptors"
"""Names of the representations that are always compared."""
EXAMPLES = 3
"""Rows that are named for each reason to leave some out."""


@dataclass(frozen=True)
class LeftOut:
    """Rows that are left out of every representation for one reason."""

    reason: str
    """Such as ``parse: unreadable_smiles``."""
    count: int
    """Number of rows."""
    examples: tuple[str, ...]
    """The first ones, as ``FILE, row N``."""


@dataclass(frozen=True)
class Molecules:
    """The molecules of a task that every representation has, and their vectors."""

    task: Task
    """Without the records that were left out."""
    keys: list[str]
    """InChIKeys."""
    smiles: list[str]
    """Canonical SMILES of the standardized molecules."""
    vectors: dict[str, list[np.ndarray]]
    """By representation, float32 [n, d]: one matrix, or one for each untrained encoder."""
    left_out: list[LeftOut]
    """What the task had beside them, the most frequent reason first."""


def joined(name: str) -> str:
    """Name of a representation with the descriptors behind it."""
    return f"{name} + {DESCRIPTORS}"


def represent(
    task: Task,
    embedder: MoleculeEmbedder,
    untrained: Sequence[MoleculeEmbedder],
    own: Mapping[str, np.ndarray],
    processes: int,
) -> Molecules:
    """Compute every representation of the molecules of a task, and leave out for all what one of them lacks.

    Args:
        task: the records.
        embedder: the encoder.
        untrained: the same encoder untrained.
        own: vectors of other encoders by name, [n, d].
        processes: that compute descriptors.

    Raises:
        DataError: too few molecules are left.
    """
    reasons: list[str | None] = [
        None if known or isinstance(record, Rejection) else "no known target"
        for known, record in zip(np.isfinite(task.labels).max(axis=1).tolist(), task.records, strict=True)
    ]
    found, twins = _encoded(embedder, untrained, task.records)
    texts = [text or "" for text in found.smiles]
    described, crashed = describe(texts, processes)
    for row, failure in enumerate(found.failures):
        if failure is not None:
            reasons[row] = ": ".join(failure.split(": ")[:2])
        elif row in crashed:
            reasons[row] = "descriptors: crashed"
    for name, matrix in own.items():
        for row in np.flatnonzero(~np.isfinite(matrix).all(1)):
            reasons[row] = reasons[row] or f"no finite vector of {name}"
    kept = np.array([reason is None for reason in reasons])
    left = without(task, kept)
    require_usable(left, left.labels, "molecules")
    smiles = [text for text, is_kept in zip(texts, kept) if is_kept]
    vectors = {ENCODER: [found.vectors[kept]], UNTRAINED: [twin[kept] for twin in twins], ECFP4: [ecfp4(smiles)]}
    vectors |= {DESCRIPTORS: [described[kept]], joined(ENCODER): [np.hstack([found.vectors, described])[kept]]}
    for name, matrix in own.items():
        vectors |= {name: [matrix[kept]], joined(name): [np.hstack([matrix, described])[kept]]}
    keys = [key or "" for key, is_kept in zip(found.keys, kept) if is_kept]
    return Molecules(left, keys, smiles, vectors, _counted(task.records, reasons))


def _counted(records: Sequence[RawMolecule | Rejection], reasons: Sequence[str | None]) -> list[LeftOut]:
    counts = Counter(reason for reason in reasons if reason is not None)
    return [
        LeftOut(
            reason,
            count,
            tuple(f"{record.source}, row {record.row}" for record, why in zip(records, reasons) if why == reason)[
                :EXAMPLES
            ],
        )
        for reason, count in counts.most_common()
    ]


def _encoded(
    embedder: MoleculeEmbedder, untrained: Sequence[MoleculeEmbedder], records: Sequence[RawMolecule | Rejection]
) -> tuple[Embedded, list[np.ndarray]]:
    """Vectors of the encoder and of its untrained twins, for which every molecule is featurized once."""
    with embedder.featurizing() as featurize:
        raws = (replace(record, targets=()) for record in records if isinstance(record, RawMolecule))
        samples = list(featurize(raws))
    found = embedder.embed_records(records, lambda _: iter(samples))
    return found, [twin.embed_records(records, lambda _: iter(samples)).vectors for twin in untrained]


# --- vectors of others ----------------------------------------------------------------------------------------------


def read_vectors(file: Path, total: int) -> np.ndarray:
    """Read vectors that anybody computed, float32 [total, d].

    A Parquet file has them in a list column ``embedding``, as ``molstream embed`` writes it, or else in its columns of
    numbers, in their order.

    Args:
        file: ``.npy`` or ``.parquet``.
        total: number of records of the task's input.

    Raises:
        DataError: the file cannot be read, holds something else, or has another number of rows.
    """
    expected = f"expected {total} vectors of numbers, one for each record of the task's input, in .npy or .parquet"
    try:
        matrix = _parquet(file) if file.suffix == ".parquet" else np.load(file, allow_pickle=False)
        with np.errstate(over="ignore"):
            vectors = np.asarray(matrix, np.float32)
    except (OSError, ValueError, EOFError, TypeError, pa.ArrowException) as error:
        why = in_words(getattr(error, "strerror", None) or error)
        raise DataError(f"vectors {file} cannot be read: {why}; {expected}.") from error
    if vectors.ndim != 2 or not vectors.shape[1] or len(vectors) != total:
        shape = " x ".join(map(str, vectors.shape))
        raise DataError(f"vectors {file}: got {shape} numbers; {expected}. Keep the rows of those that failed, as NaN.")
    return vectors


def _parquet(file: Path) -> np.ndarray:
    table = pq.read_table(file)
    if VECTOR in table.column_names:
        rows = table[VECTOR].to_pylist()
        width = max((len(row) for row in rows if row is not None), default=0)
        return np.array([[np.nan] * width if row is None else row for row in rows], np.float32)
    names = [each.name for each in table.schema if pa.types.is_floating(each.type) or pa.types.is_integer(each.type)]
    return np.column_stack([table[name].to_numpy(zero_copy_only=False) for name in names] or [np.empty((0, 0))])
