"""Sources of molecules: the files of an input, with checksums, fetched and unpacked so that any part can be read.

Remote files are fetched once and compressed files decompressed once, streaming, into the work folder. Nothing here
knows chemistry or holds a whole file in memory.
"""

import hashlib
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from molstream.errors import DataError, in_words
from molstream.io import remote
from molstream.io.hashing import file_sha256
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.compression import DAMAGES, compression, is_damage, opened
from molstream.pipeline.readers.discover import InputFile, format_named, format_of


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


def describe_sources(
    files: Sequence[InputFile], work: Path, before: Sequence[Mapping[str, Any]] = ()
) -> list[SourceFile]:
    """The sources with size and checksum. The plain file of one that must be unpacked has a path in ``work``.

    Remote objects are fetched for their checksum, unless it is known. :func:`unpack` writes the plain files.

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


def fetch(source: SourceFile) -> None:
    """Fetch the files of a source that are at a URL, unless they are here."""
    for part in source.parts:
        if remote.is_url(part.given):
            remote.fetch(part.given, part.identity, Path(part.local))


def unpack(source: SourceFile) -> None:
    """Write the plain file of a source, unless it exists: decompress, join.

    Raises:
        DataError: the content is truncated or damaged, or cannot be joined.
    """
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


def is_empty(source: SourceFile) -> bool:
    """Whether the plain file of a source has no byte."""
    return Path(source.path).stat().st_size == 0
