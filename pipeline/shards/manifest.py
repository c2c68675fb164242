"""manifest.json: written last, it is the commit of a dataset and says everything about it.

It holds no time, host or path, so that preparing the same input again gives the same bytes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from molstream.errors import DataError, in_words
from molstream.io.files import write_atomically
from molstream.io.names import is_file_name, is_sha256
from molstream.io.reading import mismatch, parse_json, read_bounded
from molstream.pipeline.shards import manifest_shape
from molstream.pipeline.shards.containers import CONTAINERS, Blocks
from molstream.pipeline.shards.distributions import Distribution, distributions
from molstream.preprocessing.fields import SCHEMA_VERSION, ConformerStatus

FORMAT_VERSION = 4
NAME = "manifest.json"
APPENDING = "append.json"
"""File with the plan of an unfinished append; it is renamed to plan.json once the manifest is written."""
MAX_BYTES = 1 << 30
"""Largest size of a manifest: that of a dataset of some million shards."""
AGAIN = "Preprocess again, or restore the file from a copy."
STATISTICS = ("descriptor_statistics", "target_statistics")
"""Keys of distributions by name; the second one may be absent."""
VERSIONS = {"format_version": int, "schema_version": int}
"""What manifests of all versions have."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard file: its name, counts, checksum and blocks."""

    name: str
    rows: int
    atoms: int
    bytes: int
    sha256: str
    blocks: Blocks

    def to_dict(self) -> dict[str, Any]:
        """As stored: a block is [offset, bytes, rows], for there are many."""
        return {
            **{name: getattr(self, name) for name in ("name", "rows", "atoms", "bytes", "sha256")},
            "blocks": self.blocks.table.tolist(),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Shard":
        """The inverse of :meth:`to_dict`; :meth:`problem` says whether it can be true."""
        return cls(**{**record, "blocks": Blocks(np.array(record["blocks"], np.int64).reshape(-1, 3))})

    def problem(self) -> str | None:
        """What cannot be true of it: its name or checksum, which become paths, or its numbers; None if all can."""
        if not is_file_name(self.name):
            return f"a shard is called {self.name!r}, expected the name of a file beside the manifest"
        if not is_sha256(self.sha256):
            return f"the sha256 of {self.name} is {self.sha256!r}, expected 64 hexadecimal digits in lower case"
        if any(type(number) is not int or number < 0 for number in (self.rows, self.atoms, self.bytes)):
            return f"{self.name}: rows, atoms and bytes are {self.rows}, {self.atoms} and {self.bytes}"
        fitting = (self.blocks.table >= 0).all() and self.blocks.rows.sum() == self.rows
        return None if fitting else f"the blocks of {self.name} do not add up to its {self.rows} rows"


@dataclass(frozen=True, slots=True)
class DroppedTable:
    """The file of one kind of dropped rows."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Account:
    """The rows of an input split, or of all splits, by their outcome.

    The conservation law: ``in = written + duplicates + decontaminated + rejected``.
    """

    rows_in: int
    written: int
    duplicates: int
    rejected: dict[str, int]
    """Number of rejected rows by reason."""
    decontaminated: int = 0
    """Rows that were left out because a benchmark set holds their molecule."""

    def check(self, where: str) -> None:
        """Check that no row is lost or counted twice.

        Raises:
            DataError: the law does not hold.
        """
        total = self.written + self.duplicates + self.decontaminated + sum(self.rejected.values())
        if total != self.rows_in:
            raise DataError(
                f"{where}: {self.rows_in} rows in, but {self.written} written + {self.duplicates} duplicates + "
                f"{self.decontaminated} decontaminated + {sum(self.rejected.values())} rejected = {total}. "
                "The dataset is damaged: preprocess it again."
            )

    def to_dict(self) -> dict[str, Any]:
        """As stored, under the names that people read."""
        return {
            "in": self.rows_in,
            "written": self.written,
            "duplicates": self.duplicates,
            "decontaminated": self.decontaminated,
            "rejected": dict(sorted(self.rejected.items())),
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Account":
        """The inverse of :meth:`to_dict`."""
        return cls(record["in"], record["written"], record["duplicates"], record["rejected"], record["decontaminated"])

    @classmethod
    def total(cls, accounts: list["Account"]) -> "Account":
        """The sum of accounts."""
        rejected: dict[str, int] = {}
        for account in accounts:
            for reason, count in account.rejected.items():
                rejected[reason] = rejected.get(reason, 0) + count
        return cls(
            sum(a.rows_in for a in accounts),
            sum(a.written for a in accounts),
            sum(a.duplicates for a in accounts),
            rejected,
            sum(a.decontaminated for a in accounts),
        )


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json: a committed dataset."""

    container: str
    block_rows: int
    hydrogens: str
    """Which atoms are stored: heavy or all."""
    target_names: tuple[str, ...]
    descriptor_names: tuple[str, ...]
    """Names of the stored descriptors; empty if there are none."""
    config: dict[str, Any]
    """Everything that the records depend on; ``featurize`` holds the featurizer's configuration."""
    versions: dict[str, str]
    """rdkit, pyarrow and numpy."""
    counts: Account
    splits: tuple[tuple[str, Account], ...]
    """Every input split, by name, and its account."""
    shards: tuple[Shard, ...]
    conformer_status: dict[str, int]
    """Molecules by ConformerStatus name."""
    changes: dict[str, int]
    """Molecules that a step of standardization changed, by step."""
    left_out: dict[str, int]
    """Conformers of written molecules that the input gives, but that are not of the molecule, by reason."""
    benchmarks: dict[str, int]
    """Decontaminated rows by the benchmark set that holds them, every set named; a row may be in several."""
    dropped: dict[str, DroppedTable]
    """Size and checksum of ``<kind>.parquet`` for every kind of dropped rows."""
    histograms: dict[str, dict[str, int]]
    """Counts for reports, as :class:`~molstream.pipeline.stages.tally.Tally` makes them."""
    descriptor_statistics: dict[str, Distribution]
    """By name, of the molecules that :func:`~molstream.pipeline.stages.summarize.summarize` counts."""
    target_statistics: dict[str, Distribution] = field(default_factory=dict)
    """The same of the targets; empty if there are none, or the manifest is from before they were counted."""
    fingerprint: str = ""
    """sha256 of all of the above; goes into every run and export."""

    @property
    def num_rows(self) -> int:
        """Molecules in the shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def num_with_conformer(self) -> int:
        """Molecules that have at least one conformer."""
        return sum(n for name, n in self.conformer_status.items() if name != ConformerStatus.NONE.name.lower())

    def to_dict(self) -> dict[str, Any]:
        """As stored in manifest.json."""
        return {**self._without_shards(), "shards": [shard.to_dict() for shard in self.shards]}

    def _without_shards(self) -> dict[str, Any]:
        record = {each.name: getattr(self, each.name) for each in fields(self)}
        record["counts"] = self.counts.to_dict()
        record["splits"] = [{"name": name, **account.to_dict()} for name, account in self.splits]
        for key in STATISTICS:
            record[key] = {name: each.to_dict() for name, each in record[key].items()}
        if not record["target_statistics"]:
            # A manifest without the key keeps its fingerprint.
            del record["target_statistics"]
        record["dropped"] = {kind: asdict(table) for kind, table in self.dropped.items()}
        return {"format_version": FORMAT_VERSION, "schema_version": SCHEMA_VERSION, **record}

    def with_fingerprint(self) -> "Manifest":
        """The same manifest with its fingerprint filled in."""
        record, digest = self._without_shards(), hashlib.sha256()
        del record["fingerprint"]
        # The digest of the sorted JSON of to_dict(), one shard at a time, since a large dataset has many.
        for place, name in enumerate(sorted(record)):
            digest.update(f'{"," if place else "{"}"{name}":'.encode())
            if name == "shards":
                for number, shard in enumerate(self.shards):
                    digest.update(f"{',' if number else '['}{_sorted(shard.to_dict())}".encode())
                digest.update(b"]" if self.shards else b"[]")
            else:
                digest.update(_sorted(record[name]).encode())
        digest.update(b"}")
        return replace(self, fingerprint=digest.hexdigest())

    def check(self) -> None:
        """Check that every row is accounted for, in every split and in total.

        Raises:
            DataError: the conservation law does not hold, or the shards hold another number of rows.
        """
        self.counts.check("all splits")
        for name, account in self.splits:
            account.check(f"split {name}")
        if Account.total([account for _, account in self.splits]) != self.counts:
            raise DataError("manifest: the splits do not add up to the total. Preprocess the dataset again.")
        if self.num_rows != self.counts.written:
            raise DataError(f"manifest: {self.counts.written} rows written, but the shards hold {self.num_rows}.")

    def write(self, folder: Path) -> None:
        """Commit: check, then write manifest.json atomically."""
        self.check()
        write_atomically(folder / NAME, _to_text(self.with_fingerprint().to_dict()).encode())


def _to_text(record: dict[str, Any]) -> str:
    """JSON for people, but a split, shard, descriptor or target takes one line: a large dataset has 100,000 splits."""
    parts = []
    for name, value in record.items():
        if name in ("splits", "shards"):
            lines = (json.dumps(item, separators=(",", ":")) for item in value)
            parts.append(f'"{name}": [\n ' + ",\n ".join(lines) + "\n]")
        elif name in STATISTICS and value:
            lines = (f"{json.dumps(key)}: {json.dumps(item, separators=(',', ':'))}" for key, item in value.items())
            parts.append(f'"{name}": {{\n ' + ",\n ".join(lines) + "\n}")
        else:
            parts.append(f'"{name}": {json.dumps(value, indent=1)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _compact(record: dict[str, Any]) -> dict[str, Any] | Shard:
    """Hook of the JSON decoder: the entry of a shard becomes a Shard at once, with its many numbers in one array."""
    return Shard.from_dict(record) if {"blocks", "sha256"} <= record.keys() else record


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a committed dataset.

    Raises:
        DataError: there is none (never finished, or no dataset at all), it is damaged, or of another version.
    """
    path = folder / NAME
    if not path.is_file():
        raise DataError(
            f"{folder} is not a committed dataset: it has no {NAME}. If its preparation was interrupted, run the same "
            "`molstream preprocess` command again."
        )
    return parse_manifest(read_bounded(path, AGAIN, most=MAX_BYTES), str(folder))


def parse_manifest(content: bytes, folder: str) -> Manifest:
    """The manifest in the bytes of a manifest.json; ``folder`` names its dataset in messages.

    Raises:
        DataError: it is damaged, or of another version.
    """
    path = f"{folder}/{NAME}"
    try:
        record = parse_json(content, path, VERSIONS, AGAIN, hook=_compact)
        versions = (record.pop("format_version"), record.pop("schema_version"))
        if versions != (FORMAT_VERSION, SCHEMA_VERSION):
            raise DataError(
                f"{folder} has format and schema versions {versions}, this molstream reads "
                f"{(FORMAT_VERSION, SCHEMA_VERSION)}. Preprocess the molecules again, or install the molstream that "
                "wrote it."
            )
        if unlike := mismatch(record, manifest_shape.SHAPE):
            raise DataError(f"{path} cannot be used: {unlike}. {AGAIN}")
        if problem := next((found for shard in record["shards"] if (found := shard.problem())), None):
            raise ValueError(problem)
        if wrong := manifest_shape.problem(record):
            raise ValueError(wrong)
        if record["container"] not in CONTAINERS:
            raise ValueError(f"container={record['container']!r}, expected one of {', '.join(CONTAINERS)}")
        manifest = Manifest(
            **{
                **record,
                "target_names": tuple(record["target_names"]),
                "descriptor_names": tuple(record["descriptor_names"]),
                **{key: distributions(record[key]) for key in STATISTICS if key in record},
                "dropped": {kind: DroppedTable(**table) for kind, table in record["dropped"].items()},
                "counts": Account.from_dict(record["counts"]),
                "splits": tuple((split["name"], Account.from_dict(split)) for split in record["splits"]),
                "shards": tuple(record["shards"]),
            }
        )
        if len({shard.name for shard in manifest.shards}) < len(manifest.shards):
            raise ValueError("two shards have one name")
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} cannot be used: it is not the manifest of a dataset ({in_words(error)}). {AGAIN}"
        ) from error
    if manifest.with_fingerprint().fingerprint != manifest.fingerprint:
        raise DataError(f"{path} was changed after it was written: its fingerprint does not fit. {AGAIN}")
    return manifest
