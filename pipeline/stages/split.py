"""The two stages of a split, each a pure function of the split whose result is committed by one rename.

Stage one describes every row, cheaply: parent molecule, key, graph. Then duplicates are found over all splits. Stage
two pays for the conformers of what is kept and writes the shard. A row that stage one drops is final.
"""

import functools
import json
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from molstream.errors import DataError
from molstream.io.files import write_atomically, written_whole
from molstream.io.hashing import file_sha256
from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.readers.split import InputSplit, read_split
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.containers import CONTAINERS
from molstream.pipeline.shards.manifest import Account, Shard
from molstream.pipeline.shards.writer import shard_name, write_shard
from molstream.pipeline.stages.decontaminate import Benchmarks
from molstream.pipeline.stages.dedup import duplicates_of, key_table, keys_path, write_array
from molstream.pipeline.stages.described import DESCRIBED_SCHEMA, records
from molstream.pipeline.stages.tally import Tally, Timing
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import needs_embedding
from molstream.preprocessing.fields import ConformerStatus, RawMolecule, Rejection

REJECTED_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("text", pa.string()),
        ("key", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("seconds", pa.float64()),
    ]
)
"""``key`` is null where the row fell before it had one."""
DUPLICATES_SCHEMA = pa.schema([("source", pa.string()), ("row", pa.int64()), ("key", pa.string())])
DECONTAMINATED_SCHEMA = pa.schema([*DUPLICATES_SCHEMA, ("sets", pa.list_(pa.string()))])
DROPPED = {"rejected": REJECTED_SCHEMA, "duplicates": DUPLICATES_SCHEMA, "decontaminated": DECONTAMINATED_SCHEMA}
"""Rows that are not written: a file ``<name>.parquet`` for each kind, in the dataset."""

PORTION = 512
"""Molecules that are sent through the sandbox between two looks at the clock."""

IDENTITIES = ("key", "connectivity", "smiles", "none")
"""What makes two molecules duplicates: the whole InChIKey; its first block, which knows no stereochemistry, isotopes or
charges; the canonical SMILES, which tells tautomers apart; nothing."""


@dataclass(frozen=True)
class Decontamination:
    """Benchmark sets whose molecules are left out."""

    by: str
    """``key`` or ``scaffold``."""
    names: tuple[str, ...]
    entries: str
    """File of :class:`~molstream.pipeline.stages.decontaminate.Benchmarks`."""


@dataclass(frozen=True, slots=True)
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
    duplicates: str
    """One of IDENTITIES."""
    featurize: FeaturizeConfig
    sandbox: SandboxConfig
    decontamination: Decontamination | None = None

    def path(self, kind: str) -> Path:
        """The intermediate file of this split called ``kind``, such as ``commit.json``."""
        return Path(self.work) / f"{self.index:05d}.{kind}"


@dataclass(frozen=True)
class SplitCommit:
    """What became of a split: its shard and its accounts. The file that says so is written after the shard."""

    account: Account
    shard: Shard | None
    tally: Tally
    timing: Timing
    benchmarks: dict[str, int]
    """Decontaminated rows by the benchmark set that holds them; a row may be in several."""

    def to_json(self) -> bytes:
        """As stored."""
        parts = {name: getattr(self, name).to_dict() for name in ("account", "tally", "timing")}
        shard = self.shard and self.shard.to_dict()
        return (json.dumps({**parts, "shard": shard, "benchmarks": self.benchmarks}) + "\n").encode()

    @classmethod
    def from_json(cls, text: str) -> "SplitCommit":
        """The inverse of :meth:`to_json`."""
        record = json.loads(text)
        shard = record["shard"] and Shard.from_dict(record["shard"])
        account, tally = Account.from_dict(record["account"]), Tally.from_dict(record["tally"])
        return cls(account, shard, tally, Timing.from_dict(record["timing"]), record["benchmarks"])


# --- stage one ------------------------------------------------------------------------------------------------------


def describe_split(task: SplitTask, avoid: Sequence[int] = (), only: range | None = None) -> dict[str, int]:
    """Stage one: the description or the rejection of every row; rejected rows by reason.

    Args:
        avoid: rows of the split, counted from its first, that killed a worker: rejected without a look.
        only: do just these rows and leave nothing, to find out which one kills.
    """
    if not Path(task.work).is_dir():
        raise DataError(f"{task.work} is not there on {socket.gethostname()}: all nodes must share the output folder.")
    done = keys_path(Path(task.work), task.index)
    if only is not None or not done.exists():
        raws = list(read_split(task.split))
        if only is not None:
            _sandbox(task).describe([m for m in raws[only.start : only.stop] if isinstance(m, RawMolecule)])
            return {}
        _commit_description(task, raws, avoid, done)
    return dict(Counter(r["reason"] for r in json.loads(task.path("described.json").read_text())["rejected"]))


def _commit_description(
    task: SplitTask, raws: Sequence[RawMolecule | Rejection], avoid: Sequence[int], done: Path
) -> None:
    rejections = [m for m in raws if isinstance(m, Rejection)]
    rejections += [_killed(m) for k, m in enumerate(raws) if k in set(avoid) and isinstance(m, RawMolecule)]
    batches = []
    for portion in _portions([m for k, m in enumerate(raws) if k not in avoid and isinstance(m, RawMolecule)]):
        found, refused = _sandbox(task).describe(portion)
        batches += found
        rejections += refused
    described = pa.Table.from_batches(batches, DESCRIBED_SCHEMA).combine_chunks()
    sets = _benchmark_sets(task, described)
    clean = np.array([not names for names in sets], bool)
    keys = described.column("key").to_pylist()
    dropped = {
        "rejected": [_as_row(r, None) for r in sorted(rejections, key=_row)],
        "decontaminated": [
            {"source": task.split.source, "row": row, "key": key, "sets": list(names)}
            for row, key, names in zip(described.column("row").to_pylist(), keys, sets, strict=True)
            if names
        ],
    }
    described = described.filter(pa.array(clean))
    with (
        written_whole(task.path("described.arrow")) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, DESCRIBED_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer,
    ):
        writer.write_table(described)
    write_atomically(task.path("described.json"), json.dumps(dropped).encode())
    places = described.column("row").to_numpy() - task.split.first_row
    identities = [] if task.duplicates == "none" else _identities(described, task.duplicates)
    write_array(done, key_table(identities, places[: len(identities)].tolist()))


def _identities(described: pa.Table, duplicates: str) -> list[str]:
    if duplicates == "smiles":
        return described.column("smiles").to_pylist()
    keys = described.column("key").to_pylist()
    # The stand-in for an InChIKey, SMILES-<hash>, has no block that means anything alone.
    return [k.split("-")[0] if duplicates == "connectivity" and not k.startswith("SMILES-") else k for k in keys]


def _benchmark_sets(task: SplitTask, described: pa.Table) -> list[tuple[str, ...]]:
    if task.decontamination is None:
        return [()] * described.num_rows
    wanted = task.decontamination
    return _benchmarks(wanted.entries, wanted.names).sets(described.column(wanted.by).to_pylist())


@functools.lru_cache(maxsize=1)
def _benchmarks(entries: str, names: tuple[str, ...]) -> Benchmarks:
    """Loaded once per worker process."""
    return Benchmarks.load(Path(entries), names)


def read_described(task: SplitTask) -> pa.Table:
    """What stage one found (DESCRIBED_SCHEMA), without rejected and decontaminated rows."""
    with pa.OSFile(str(task.path("described.arrow"))) as file:
        return pa.ipc.open_file(file).read_all()


def key_shard(
    folder: str, work: str, index: int, name: str, shard: Shard | None, container: str, duplicates: str
) -> None:
    """The hashes of a split of a finished dataset, as stage one left them, for molecules that are appended.

    A row that was rejected after it had its key counts too, as it did then; but not where duplicates are told by
    SMILES, which rejections do not record.
    """
    path = keys_path(Path(work), index)
    if path.exists():
        return
    source, _, numbers = name.rpartition(":")
    first, last = map(int, numbers.split("-"))
    columns = ["row", "key", "smiles"]
    tables = []
    if shard is not None:
        with (Path(folder) / shard.name).open("rb") as file:
            for block in shard.blocks:
                file.seek(block.offset)
                data = CONTAINERS[container].decode(file.read(block.bytes), SCHEMA, columns)
                tables.append(pa.Table.from_batches([data]).select(columns))
    if duplicates != "smiles":
        inside = (pc.field("source") == source) & (pc.field("row") >= first) & (pc.field("row") <= last)
        rejected = pq.read_table(Path(folder) / "rejected.parquet", filters=inside & ~pc.field("key").is_null())
        tables.append(rejected.rename_columns({"text": "smiles"}).select(columns))
    known = pa.concat_tables([t.cast(_KNOWN_SCHEMA) for t in tables]) if tables else _KNOWN_SCHEMA.empty_table()
    identities = [] if duplicates == "none" else _identities(known, duplicates)
    places = (known.column("row").to_numpy() - first).tolist()
    write_array(path, key_table(identities, places[: len(identities)]))


_KNOWN_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.string()), ("smiles", pa.string())])


# --- stage two ------------------------------------------------------------------------------------------------------


def write_split(task: SplitTask, buckets: int, avoid: Sequence[int] = (), only: range | None = None) -> SplitCommit:
    """Stage two: conformers of the rows that are no duplicates, the shard, then the commit; done before, only read.

    Args:
        buckets: of the duplicates.
        avoid, only: as for :func:`describe_split`.
    """
    if only is None and (commit := read_commit(task)) is not None:
        return commit
    described = read_described(task)
    places = described.column("row").to_numpy() - task.split.first_row
    repeated = np.isin(places, duplicates_of(Path(task.work), task.index, buckets))
    if only is not None:
        chosen = ~repeated & (places >= only.start) & (places < only.stop)
        for batch in described.filter(pa.array(chosen)).to_batches(max_chunksize=PORTION):
            _finish(task, batch)
        return SplitCommit(Account(0, 0, 0, {}), None, Tally(), Timing(), {})
    killers = np.isin(places, list(avoid)) & ~repeated
    rejections = [
        _killed(RawMolecule(row["smiles"], "smiles", row["source"], row["row"]))
        for row in described.filter(pa.array(killers)).select(["smiles", "source", "row"]).to_pylist()
    ]
    tally, timing = Tally(), Timing()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in described.filter(pa.array(~repeated & ~killers)).to_batches(max_chunksize=PORTION):
            written, seconds, refused = _finish(task, batch)
            rejections.extend(refused)
            if written.num_rows:
                kept = np.isin(batch.column("row"), written.column("row"))
                batch = batch.filter(pa.array(kept))
                tally.add(written, batch)
                timing.add(batch.column("smiles").to_pylist(), batch.column("seconds").to_numpy(), seconds)
                yield written

    shard = write_shard(Path(task.folder), task.index, task.container, task.block_rows, batches())
    duplicates = described.filter(pa.array(repeated)).select(DUPLICATES_SCHEMA.names).cast(DUPLICATES_SCHEMA)
    return _commit(task, shard, tally, timing, _told(task, described, rejections), duplicates)


def _finish(task: SplitTask, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, np.ndarray, list[Rejection]]:
    """Described molecules with their final conformers, in order; CPU seconds of each; rejections."""
    config = task.featurize
    wanting = [needs_embedding(ConformerStatus(s), config) for s in batch.column("conformer_status").to_pylist()]
    mask = np.array(wanting, bool)
    if not mask.any() and not config.conformers.require_conformer:
        return records(batch), np.zeros(batch.num_rows), []
    mask |= config.conformers.require_conformer
    found, refused = _sandbox(task).embed(records(batch.filter(pa.array(mask))))
    parts = [records(batch.filter(pa.array(~mask))), *(records(part) for part in found)]
    seconds = np.concatenate([np.zeros(parts[0].num_rows), *(part.column("seconds").to_numpy() for part in found)])
    merged = pa.concat_batches(parts)
    order = np.argsort(merged.column("row").to_numpy(), kind="stable")
    return merged.take(pa.array(order)), seconds[order], refused


def _told(task: SplitTask, described: pa.Table, rejections: Sequence[Rejection]) -> list[dict[str, Any]]:
    """Rejections of stage two as rows, with the key and the text as it was read."""
    if not rejections:
        return []
    keys = dict(zip(described.column("row").to_pylist(), described.column("key").to_pylist()))
    texts = {m.row: m.text for m in read_split(task.split)}
    return [_as_row(replace(r, text=texts[r.row]), keys[r.row]) for r in rejections]


def _commit(
    task: SplitTask,
    shard: Shard | None,
    tally: Tally,
    timing: Timing,
    rejections: list[dict[str, Any]],
    duplicates: pa.Table,
) -> SplitCommit:
    before = json.loads(task.path("described.json").read_text())
    rejected = sorted([*before["rejected"], *rejections], key=lambda r: r["row"])
    write_rows(task.path("rejected.parquet"), pa.Table.from_pylist(rejected, REJECTED_SCHEMA))
    write_rows(task.path("duplicates.parquet"), duplicates)
    decontaminated = pa.Table.from_pylist(before["decontaminated"], DECONTAMINATED_SCHEMA)
    write_rows(task.path("decontaminated.parquet"), decontaminated)
    account = Account(
        rows_in=task.split.rows,
        written=shard.rows if shard else 0,
        duplicates=duplicates.num_rows,
        rejected=dict(sorted(Counter(r["reason"] for r in rejected).items())),
        decontaminated=decontaminated.num_rows,
    )
    account.check(task.split.name)
    benchmarks = Counter(name for row in before["decontaminated"] for name in row["sets"])
    commit = SplitCommit(account, shard, tally, timing, dict(sorted(benchmarks.items())))
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


def write_rows(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, whole or not at all; no file for no rows."""
    path.unlink(missing_ok=True)
    if table.num_rows:
        with written_whole(path) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def _sandbox(task: SplitTask) -> Sandbox:
    scaffolds = task.decontamination is not None and task.decontamination.by == "scaffold"
    return _process_sandbox(task.sandbox, task.featurize, scaffolds)


@functools.lru_cache(maxsize=1)
def _process_sandbox(config: SandboxConfig, featurize: FeaturizeConfig, scaffolds: bool) -> Sandbox:
    """This process's sandbox, for all of its tasks: a child costs as much to start as ten conformers."""
    return Sandbox(config, featurize, scaffolds)


def _killed(molecule: RawMolecule) -> Rejection:
    place = (molecule.source, molecule.row, molecule.text)
    return Rejection(*place, "sandbox", "worker_died", "twice, a worker process ended while it did this row alone", 0.0)


def _as_row(rejection: Rejection, key: str | None) -> dict[str, Any]:
    """As stored: what is no valid Unicode is shown by escapes."""
    text = rejection.text.encode("utf-8", "backslashreplace").decode()
    return {**asdict(rejection), "text": text, "key": key}


def _row(rejection: Rejection) -> int:
    return rejection.row


def _portions(items: list[Any]) -> list[list[Any]]:
    return [items[k : k + PORTION] for k in range(0, len(items), PORTION)]
