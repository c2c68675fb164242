"""A split as work: all that its stages need to know, and the commit that says what became of it."""

import json
from dataclasses import dataclass
from pathlib import Path

from molstream.errors import DataError
from molstream.io.hashing import file_sha256
from molstream.io.reading import parse_json, read_bounded
from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.readers.split import InputSplit
from molstream.pipeline.shards.manifest import Account, Shard
from molstream.pipeline.shards.writer import shard_name
from molstream.pipeline.stages.tally import Tally, Timing
from molstream.preprocessing.config import FeaturizeConfig


@dataclass(frozen=True)
class Decontamination:
    """Benchmark sets whose molecules are left out."""

    by: str
    """What is compared: ``key``, ``connectivity`` or ``scaffold``."""
    names: tuple[str, ...]
    entries: str
    """Path of the file that :class:`~molstream.pipeline.stages.decontaminate.Benchmarks` wrote."""


@dataclass(frozen=True, slots=True)
class SplitTask:
    """A split with everything that stages one and two need."""

    index: int
    split: InputSplit
    folder: str
    """Folder of the dataset."""
    work: str
    """Folder of intermediate results."""
    container: str
    block_rows: int
    duplicates: str
    """What duplicates have in common, one of ``dedup.IDENTITIES``."""
    featurize: FeaturizeConfig
    sandbox: SandboxConfig
    decontamination: Decontamination | None = None

    def path(self, kind: str) -> Path:
        """The intermediate file of this split called ``kind``, such as ``commit.json``."""
        return Path(self.work) / f"{self.index:05d}.{kind}"


@dataclass(frozen=True)
class SplitCommit:
    """The result of a split: its shard, account, counts and times. Its file commit.json is written after the shard."""

    account: Account
    shard: Shard | None
    tally: Tally
    timing: Timing
    benchmarks: dict[str, int]
    """Decontaminated rows by the benchmark set that holds them; a row may be in several."""

    def to_json(self) -> bytes:
        """The content of the commit's file."""
        parts = {name: getattr(self, name).to_dict() for name in ("account", "tally", "timing")}
        shard = self.shard and self.shard.to_dict()
        return (json.dumps({**parts, "shard": shard, "benchmarks": self.benchmarks}) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> "SplitCommit":
        """The inverse of :meth:`to_json`.

        Raises:
            DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError: the content is damaged.
        """
        record = parse_json(content, "a commit", dict, "")
        shard = record["shard"] and Shard.from_dict(record["shard"])
        account, tally = Account.from_dict(record["account"]), Tally.from_dict(record["tally"])
        return cls(account, shard, tally, Timing.from_dict(record["timing"]), record["benchmarks"])


def read_commit(task: SplitTask) -> SplitCommit | None:
    """The commit of a split, if its shard has the size and sha256 of the commit; None if stage two has to be done."""
    path = task.path("commit.json")
    if not path.exists():
        return None
    try:
        commit = SplitCommit.from_json(read_bounded(path, ""))
    except (DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    shard = Path(task.folder) / shard_name(task.index, task.container)
    if commit.shard is None:
        return None if shard.exists() else commit
    intact = shard.is_file() and shard.stat().st_size == commit.shard.bytes
    return commit if intact and file_sha256(shard) == commit.shard.sha256 else None
