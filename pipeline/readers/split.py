"""Input splits: molecule files are cut into them, always in the same way, and each is read back as raw molecules.

Remote files are fetched once and compressed files decompressed once, streaming, into the work folder, so that every
split is a part of a plain file and can be read by itself. Nothing here knows chemistry or holds a whole file in memory.
"""

import hashlib
import itertools
import socket
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from molstream.errors import DataError, in_words
from molstream.io import remote
from molstream.io.hashing import file_sha256
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.base import Layout, Place, RefusedError, runs
from molstream.pipeline.readers.compression import DAMAGES, compression, is_damage, opened
from molstream.pipeline.readers.discover import InputFile, find_files, format_named, format_of
from molstream.preprocessing.fields import RawMolecule, Rejection


@dataclass(frozen=True)
class GivenFile:
    """A file of the input, with its checksum."""

    given: str
    """Path or URL."""
    local: str
    """Path on this machine; that of a remote file exists once the file is fetched."""
    bytes: int
    sha256: str
    identity: str
    """Identity of a remote object: it changes with the object, and is known without a fetch. Empty for local files."""


@dataclass(frozen=True)
class SourceFile:
    """One source of molecules: a file, or a file and the table that is joined to it."""

    name: str
    """Name in the records: the path below the folder that all inputs share."""
    path: str
    """The plain file that splits are parts of."""
    format: str
    """A name of SOURCES, or that of an adapter with a file ending: ``qm9.sdf``."""
    parts: tuple[GivenFile, ...]
    """The file, and the one that is joined to it where the format needs that."""
    config: ReadConfig
    """How it is read."""
    options: Mapping[str, Any]
    """Options that were given for this file's input alone; ``config`` includes them."""

    @property
    def given(self) -> str:
        """The file as it was given: path or URL."""
        return self.parts[0].given

    @property
    def identity(self) -> str:
        """Identities of the remote objects. A plan keeps them: the checksum of an unchanged object needs no fetch."""
        return "+".join(part.identity for part in self.parts if part.identity)

    def record(self) -> dict[str, Any]:
        """The entry of the source in plan and manifest: name, size, checksum and options."""
        first, *more = ({"bytes": part.bytes, "sha256": part.sha256} for part in self.parts)
        options = {"options": dict(self.options)} if self.options else {}
        return {"name": self.name, **first, **({"joined": more[0]} if more else {}), **options}


@dataclass(frozen=True, slots=True)
class InputSplit:
    """Consecutive records of one file: the input of one shard."""

    source: str
    path: str
    format: str
    start: int
    """Where in ``path``: a byte, or the number of a row group, batch or row."""
    skip: int
    """Records between ``start`` and the first record of the split."""
    first_row: int
    """Number of the first record in its file, from 0; headers are not counted."""
    rows: int
    sha256: str
    """Checksum of the records, by which a file that changed after the plan is noticed."""
    layout: Layout
    """What is read from a record."""

    @property
    def name(self) -> str:
        """Name of the split in accounts: source, first and last row."""
        return f"{self.source}:{self.first_row}-{self.first_row + self.rows - 1}"


# --- files ----------------------------------------------------------------------------------------------------------


def open_sources(inputs: Any, work: Path, config: ReadConfig) -> list[SourceFile]:
    """The sources that ``inputs`` name (see ``find_files``), fetched and unpacked to ``work`` and ready to be cut.

    Raises:
        DataError, ConfigError: see ``find_files``, ``describe_sources`` and ``prepare``.
    """
    sources = describe_sources(find_files(inputs, config), work)
    for source in sources:
        prepare(source)
    return sources


def describe_sources(
    files: Sequence[InputFile], work: Path, before: Sequence[Mapping[str, Any]] = ()
) -> list[SourceFile]:
    """The sources with size and checksum. The plain file of one that must be unpacked has a path in ``work``.

    Remote objects are fetched for their checksum, unless it is known. :func:`prepare` writes the plain files.

    Args:
        before: records of sources from an earlier plan, those of remote ones with their ``identity``.

    Raises:
        DataError: a file cannot be fetched, or the table that is joined to it does not exist.
    """
    known: dict[str, Mapping[str, Any]] = {}
    for record in before:
        parts = [record, *([record["joined"]] if "joined" in record else [])]
        known.update(zip(str(record.get("identity", "")).split("+"), parts))
    names = _names([file.given for file in files])
    return [_describe(file, name, work, known) for file, name in zip(files, names, strict=True)]


def _names(files: Sequence[str]) -> list[str]:
    """The files' paths below the folder that all share."""
    parts = [remote.shown(file).split("/") for file in files]
    folders = zip(*(part[:-1] for part in parts))
    shared = sum(1 for _ in itertools.takewhile(lambda level: len(set(level)) == 1, folders))
    return ["/".join(part[shared:]) for part in parts]


def _describe(input: InputFile, name: str, work: Path, known: Mapping[str, Mapping[str, Any]]) -> SourceFile:
    file, config = input.given, input.config
    format = format_of(file, config)
    form = format_named(format)
    given = [file]
    if names := form.companions(file):
        given.append(next((n for n in names if (remote.exists(n) if remote.is_url(n) else Path(n).is_file())), ""))
        if not given[1]:
            raise DataError(
                f"{remote.shown(file)}: format={config.format} joins it to a table that is not there: "
                f"{' or '.join(map(remote.shown, names))}."
            )
    parts = tuple(_given(part, work, known) for part in given)
    path = parts[0].local
    if parts[0].bytes and (len(parts) > 1 or compression(file) or not form.is_plain(Path(path))):
        content = "\n".join([format, *(part.sha256 for part in parts)])
        path = str(work / f"plain-{hashlib.sha256(content.encode()).hexdigest()[:32]}")
    return SourceFile(name, path, format, parts, config, input.options)


def _given(file: str, work: Path, known: Mapping[str, Mapping[str, Any]]) -> GivenFile:
    identity, local = "", Path(file)
    if remote.is_url(file):
        identity = remote.identity(file)
        local = work / f"fetched-{identity}"
        if identity in known:
            return GivenFile(file, str(local), known[identity]["bytes"], known[identity]["sha256"], identity)
        remote.fetch(file, identity, local)
    return GivenFile(file, str(local), local.stat().st_size, file_sha256(local), identity)


def prepare(source: SourceFile) -> None:
    """Write the plain file of a source, unless it exists: fetch, decompress, join.

    Raises:
        DataError: the content is truncated or damaged, or cannot be joined.
    """
    for part in source.parts:
        if remote.is_url(part.given):
            remote.fetch(part.given, part.identity, Path(part.local))
    plain = Path(source.path)
    if plain.exists():
        return
    file = remote.shown(source.given)
    try:
        with ExitStack() as stack:
            streams = [stack.enter_context(opened(Path(part.local), compression(part.given))) for part in source.parts]
            format_named(source.format).unpack(streams, plain)
    except (*DAMAGES, pa.ArrowException, zipfile.BadZipFile) as error:
        if not is_damage(error):
            raise
        raise DataError(
            f"{file} is truncated or damaged: {in_words(error)}. Nothing of it was used; fetch the file again."
        ) from error
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


# --- splits ---------------------------------------------------------------------------------------------------------


def target_names(sources: Sequence[SourceFile]) -> tuple[str, ...]:
    """Names of the targets of every record: ``target_columns``, or by default those of a known data set.

    Args:
        sources: prepared.

    Raises:
        DataError: the sources have different targets.
    """
    found = {tuple(_configured(source).target_columns): source.name for source in sources if not _is_empty(source)}
    if len(found) > 1:
        each = "; ".join(f"{name}: {', '.join(names[:5]) or 'none'}" for names, name in found.items())
        raise DataError(f"the inputs have different targets ({each}): name those to keep, target_columns=[...].")
    return next(iter(found), ())


def cut(sources: Sequence[SourceFile], rows_per_split: int, limit: int | None = None) -> list[InputSplit]:
    """Cut every file at record boundaries into splits of ``rows_per_split`` records, in one streaming pass.

    A file without records is reported on stderr.

    Args:
        sources: prepared.
        limit: most records of the whole input; None for all.

    Raises:
        DataError: no file has a record, or a table lacks the named columns.
    """
    target_names(sources)
    splits: list[InputSplit] = []
    left = limit
    for source in sources:
        if left == 0:
            break
        found = [] if _is_empty(source) else _cut(source, rows_per_split, left)
        if not found:
            print(f"{source.name} has no records", file=sys.stderr)
        splits += found
        left = None if left is None else left - sum(split.rows for split in found)
    if not splits:
        raise DataError(f"the input has no records ({_listed(sources)}): expected molecules.")
    return splits


def _is_empty(source: SourceFile) -> bool:
    return Path(source.path).stat().st_size == 0


def _listed(sources: Sequence[SourceFile]) -> str:
    return ", ".join([*(source.name for source in sources[:3]), *(["..."] if len(sources) > 3 else [])])


def _configured(source: SourceFile) -> ReadConfig:
    return format_named(source.format).configure(source.config, source.name, Path(source.path))


def _cut(source: SourceFile, rows_per_split: int, limit: int | None) -> list[InputSplit]:
    form = format_named(source.format)
    layout = form.layout(source.name, Path(source.path), _configured(source))
    splits: list[InputSplit] = []
    row = 0
    try:
        for place, run in runs(form, source.path, layout, Place(layout.start), rows_per_split):
            records = run if limit is None else run[: limit - row]
            where = (source.name, source.path, source.format)
            splits.append(InputSplit(*where, place.start, place.skip, row, len(records), _checksum(records), layout))
            row += len(records)
            if row == limit:
                break
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        where = f"{source.name} is damaged behind record {row}"
        raise DataError(f"{where}: {in_words(error)}. Fetch the file again.") from error
    return splits


def read_split(split: InputSplit) -> Iterator[RawMolecule | Rejection]:
    """The records of a split, in order: raw molecules, and rejections of what cannot be read.

    Raises:
        DataError: the file cannot be read on this machine, or changed since it was cut.
    """
    parse = format_named(split.format).parse
    for row, record in enumerate(_split_records(split), split.first_row):
        try:
            text, format, targets = parse(record, split.layout)
        except RefusedError as error:
            shown = record.decode("utf-8", "backslashreplace") if error.shown is None else error.shown
            yield Rejection(split.source, row, shown, "read", error.reason, error.detail, 0.0)
        else:
            yield RawMolecule(text, format, split.source, row, targets)


def _split_records(split: InputSplit) -> Sequence[bytes]:
    """The split's records, exactly as when the file was cut.

    Raises:
        DataError: the file cannot be read on this machine, or its records have changed.
    """
    place = Place(split.start, split.skip)
    try:
        _, records = next(runs(format_named(split.format), split.path, split.layout, place, split.rows), (place, []))
    except (pa.ArrowException, OSError) as error:
        # It was whole when it was cut.
        records = []
        if not is_damage(error):
            why = in_words(getattr(error, "strerror", error))
            raise DataError(
                f"{split.path} cannot be read on {socket.gethostname()}: {why}. All nodes of a cluster "
                "must see input and output under the same paths."
            ) from error
    if _checksum(records) != split.sha256:
        raise DataError(
            f"{split.path} changed while it was in use (at records {split.first_row} to "
            f"{split.first_row + split.rows - 1}). Put the file back, or give a new output folder."
        )
    return records


def _checksum(records: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(records)).hexdigest()
