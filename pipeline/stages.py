"""The two stages of a split, each a pure function of the split whose result is committed by one rename.

Stage one standardizes and keys every row, cheaply; then duplicates are found over all splits; stage two pays for the
conformers of what is kept and writes the shard. A row that stage one rejects is final.
"""

import functools
import json
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import write_atomically, written_whole
from pipeline.sandbox import Sandbox, SandboxConfig
from pipeline.shards.columns import Columns
from pipeline.shards.containers import Block
from pipeline.shards.manifest import Account, Shard
from pipeline.shards.writer import file_sha256, shard_name, write_shard
from pipeline.sources import InputSplit, read_split
from preprocessing.errors import DataError
from preprocessing.featurize import FeaturizeConfig
from preprocessing.fields import ConformerStatus, RawMolecule, Rejection

REJECTED_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("text", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("seconds", pa.float64()),
    ]
)
DUPLICATES_SCHEMA = pa.schema([("source", pa.string()), ("row", pa.int64()), ("key", pa.string())])
KEYS_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("rejection", pa.struct(list(REJECTED_SCHEMA)))])

PORTION = 512
"""Molecules that are read and sent through the sandbox at a time: what bounds a task's memory."""


@dataclass(frozen=True)
class SplitTask:
    """A split with all that its two stages need."""

    index: int
    split: InputSplit
    folder: str
    """The dataset's folder."""
    work: str
    """Its folder of intermediate results."""
    container: str
    block_rows: int
    featurize: FeaturizeConfig
    sandbox: SandboxConfig

    def path(self, kind: str) -> Path:
        """The intermediate file of this split called ``kind``, such as ``keys.parquet``."""
        return Path(self.work) / f"{self.index:05d}.{kind}"


@dataclass(frozen=True)
class SplitCommit:
    """What became of a split: its shard and its accounts. The file that says so is written after the shard."""

    account: Account
    shard: Shard | None
    conformer_status: dict[str, int]
    histograms: dict[str, dict[str, int]]

    def to_json(self) -> bytes:
        """As stored."""
        return (json.dumps({**asdict(self), "account": self.account.to_dict()}) + "\n").encode()

    @classmethod
    def from_json(cls, text: str) -> "SplitCommit":
        """The inverse of :meth:`to_json`."""
        record = json.loads(text)
        shard = record["shard"] and Shard(
            **{**record["shard"], "blocks": tuple(Block(**b) for b in record["shard"]["blocks"])}
        )
        account = Account.from_dict(record["account"])
        return cls(account, shard, record["conformer_status"], record["histograms"])


# --- stage one ------------------------------------------------------------------------------------------------------


def key_split(task: SplitTask) -> int:
    """Stage one: the key or the rejection of every row, committed as ``keys.parquet``; the number of rejected rows."""
    if not Path(task.work).is_dir():
        raise DataError(f"{task.work} is not there on {socket.gethostname()}: all nodes must share the output folder.")
    done = task.path("keys.parquet")
    if not done.exists():
        results: list[str | Rejection] = []
        sandbox = _sandbox(task.sandbox, task.featurize)
        for portion in _portions(list(read_split(task.split))):
            keyed = iter(sandbox.keys([m for m in portion if isinstance(m, RawMolecule)]))
            results += [next(keyed) if isinstance(m, RawMolecule) else m for m in portion]
        rows = range(task.split.first_row, task.split.first_row + task.split.rows)
        records = [
            {"row": row, "key": None, "rejection": asdict(r)} if isinstance(r, Rejection) else {"row": row, "key": r}
            for row, r in zip(rows, results, strict=True)
        ]
        write_parquet(done, records, KEYS_SCHEMA)
    return pq.read_table(done, columns=["key"])["key"].null_count


def read_keys(task: SplitTask) -> list[str | None]:
    """The keys that stage one found, None for rejected rows."""
    return pq.read_table(task.path("keys.parquet"), columns=["key"])["key"].to_pylist()


# --- stage two ------------------------------------------------------------------------------------------------------


def write_split(task: SplitTask, keep: np.ndarray) -> SplitCommit:
    """Stage two: featurize the rows where ``keep`` and write the shard, then the commit; done before, only read.

    Args:
        keep: bool per row: the first of its key among all splits.
    """
    if (commit := read_commit(task)) is not None:
        return commit
    keys = pq.read_table(task.path("keys.parquet")).to_pylist()
    rejections = [Rejection(**k["rejection"]) for k in keys if k["rejection"] is not None]
    duplicates = [
        {"source": task.split.source, "row": k["row"], "key": k["key"]}
        for k, kept in zip(keys, keep, strict=True)
        if k["key"] is not None and not kept
    ]
    status: Counter[str] = Counter()
    atoms: Counter[str] = Counter()
    elements: Counter[str] = Counter()

    def batches():
        sandbox = _sandbox(task.sandbox, task.featurize)
        molecules = [m for m, kept in zip(read_split(task.split), keep, strict=True) if kept]
        for portion in _portions(molecules):
            found, refused = sandbox.samples(portion)
            rejections.extend(refused)
            for batch in found:
                _count(batch, status, atoms, elements)
                yield batch

    shard = write_shard(Path(task.folder), task.index, task.container, task.block_rows, batches())
    write_parquet(task.path("rejected.parquet"), [asdict(r) for r in sorted(rejections, key=_row)], REJECTED_SCHEMA)
    write_parquet(task.path("duplicates.parquet"), duplicates, DUPLICATES_SCHEMA)
    account = Account(
        rows_in=task.split.rows,
        written=shard.rows if shard else 0,
        duplicates=len(duplicates),
        rejected=dict(sorted(Counter(r.reason for r in rejections).items())),
    )
    account.check(task.split.name)
    histograms = {"heavy_atoms": dict(sorted(atoms.items())), "elements": dict(sorted(elements.items()))}
    commit = SplitCommit(account, shard, dict(sorted(status.items())), histograms)
    write_atomically(task.path("commit.json"), commit.to_json())
    return commit


def read_commit(task: SplitTask) -> SplitCommit | None:
    """The commit of a split whose shard is as written; None where there is work to do."""
    path = task.path("commit.json")
    if not path.exists():
        return None
    commit = SplitCommit.from_json(path.read_text())
    shard = Path(task.folder) / shard_name(task.index, task.container)
    if commit.shard is None:
        return None if shard.exists() else commit
    intact = shard.is_file() and shard.stat().st_size == commit.shard.bytes
    return commit if intact and file_sha256(shard) == commit.shard.sha256 else None


def write_parquet(path: Path, records: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as a Parquet file, whole or not at all."""
    with written_whole(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(records), schema), temporary, compression="zstd")


@functools.lru_cache(maxsize=1)
def _sandbox(config: SandboxConfig, featurize: FeaturizeConfig) -> Sandbox:
    """This process's sandbox, for all of its tasks: a child costs as much to start as ten conformers."""
    return Sandbox(config, featurize)


def _row(rejection: Rejection) -> int:
    return rejection.row


def _portions(items: list[Any]) -> list[list[Any]]:
    return [items[k : k + PORTION] for k in range(0, len(items), PORTION)]


def _count(batch: pa.RecordBatch, status: Counter[str], atoms: Counter[str], elements: Counter[str]) -> None:
    """Add a batch to the counts of the manifest: conformers by status, molecules by heavy atoms, atoms by element."""
    from rdkit import Chem

    columns = Columns.from_batch(batch, ("atom_features", "conformer_status"))
    numbers = columns.values["atom_features"][:, 0].astype(np.int64) + 1
    molecule = np.repeat(np.arange(columns.num_rows), np.diff(columns.offsets["atom_features"]))
    heavy = np.bincount(molecule, weights=numbers > 1, minlength=columns.num_rows).astype(np.int64)
    status.update(ConformerStatus(s).name.lower() for s in columns.values["conformer_status"].tolist())
    atoms.update(f"{count:03d}" for count in heavy.tolist())
    table = Chem.GetPeriodicTable()
    found, counts = np.unique(numbers, return_counts=True)
    for number, count in zip(found.tolist(), counts.tolist()):
        elements[table.GetElementSymbol(number) if number <= 118 else "?"] += count
