"""``molstream verify DATASET``: checks that every byte is as it was written, and that every count holds."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from molstream.errors import DataError, in_words
from molstream.io.hashing import file_sha256
from molstream.pipeline.shards.codec import SCHEMA
from molstream.pipeline.shards.containers import CONTAINERS, Container, TarContainer
from molstream.pipeline.shards.manifest import APPENDING, DroppedTable, Shard, read_manifest


def verify(path: Path) -> list[str]:
    """Everything that is wrong with a dataset, one sentence each; empty if it is intact.

    Raises:
        DataError: the folder holds no committed dataset.
    """
    manifest = read_manifest(path)
    problems = []
    try:
        manifest.check()
    except DataError as error:
        problems.append(str(error))
    for shard in manifest.shards:
        problems += [
            f"shard {shard.name}: {problem}"
            for problem in _verify_shard(path / shard.name, shard, CONTAINERS[manifest.container])
        ]
    sources = [source["name"] for source in manifest.config["sources"]] if unfinished(path) else None
    rows = {
        "rejected": sum(manifest.counts.rejected.values()),
        "duplicates": manifest.counts.duplicates,
        "decontaminated": manifest.counts.decontaminated,
    }
    for kind, table in manifest.dropped.items():
        problems += _verify_dropped(path / f"{kind}.parquet", table, rows[kind], sources)
    known = {shard.name for shard in manifest.shards}
    strangers = [p.name for p in sorted(path.glob("shard-*")) if p.name not in known]
    if sources is not None:
        strangers = [name for name in strangers if not _is_of_later_split(name, len(manifest.splits))]
    return problems + [f"{name} is a shard that the manifest does not name" for name in strangers]


def unfinished(path: Path) -> str | None:
    """That files are being appended to a dataset, a clause with what to do; None if none are.

    The dataset is whole without them. An append that is interrupted just before its commit has moved files into the
    dataset that its manifest does not name.
    """
    if not (path / APPENDING).is_file():
        return None
    return (
        "an append is unfinished, and the dataset is without its molecules: give the same `molstream append` command "
        "again to finish it"
    )


def _is_of_later_split(name: str, num_splits: int) -> bool:
    number = name.partition(".")[0].removeprefix("shard-")
    return number.isdecimal() and int(number) >= num_splits


def _verify_shard(file: Path, shard: Shard, container: type[Container]) -> list[str]:
    if not file.is_file():
        return ["the file is missing"]
    if file.stat().st_size != shard.bytes:
        return [f"{file.stat().st_size} bytes, expected {shard.bytes}"]
    if (found := file_sha256(file)) != shard.sha256:
        return [f"its sha256 is {found}, expected {shard.sha256}: some byte was changed"]
    rows = atoms = 0
    with file.open("rb") as stream:
        for number, block in enumerate(shard.blocks):
            stream.seek(block.offset)
            try:
                batch = container.decode(stream.read(block.bytes), SCHEMA, SCHEMA.names)
                batch.validate(full=True)
            except (OSError, ValueError) as error:
                return [f"block {number} cannot be decoded: {error}"]
            if batch.num_rows != block.rows:
                return [f"block {number} holds {batch.num_rows} molecules, expected {block.rows}"]
            rows, atoms = rows + batch.num_rows, atoms + len(batch.column("atom_features").flatten())
    if (rows, atoms) != (shard.rows, shard.atoms):
        return [f"{rows} molecules and {atoms} atoms, expected {shard.rows} and {shard.atoms}"]
    return _verify_members(file, shard) if container is TarContainer else []


def _verify_members(file: Path, shard: Shard) -> list[str]:
    """What webdataset itself reads otherwise than the manifest says: the members of a tar shard, in order."""
    from webdataset.tariterators import tar_file_iterator

    with file.open("rb") as stream:
        found = [(member["fname"], len(member["data"])) for member in tar_file_iterator(stream)]  # pyright: ignore[reportArgumentType]
    expected = [(f"{number:06d}.arrow", block.bytes) for number, block in enumerate(shard.blocks)]
    if found != expected:
        return [f"webdataset reads {len(found)} members that are not the {len(expected)} blocks of the manifest"]
    return []


def _verify_dropped(file: Path, table: DroppedTable, expected: int, sources: list[str] | None) -> list[str]:
    """Check every byte of a table of dropped rows, and the number of its rows.

    Args:
        sources: while an append is unfinished, those of the manifest: the table may be that of the append already, of
            which the rows of these sources are counted.
    """
    try:
        found = pq.read_metadata(file).num_rows
        changed = (file.stat().st_size, file_sha256(file)) != (table.bytes, table.sha256)
        if changed and sources is not None:
            rows = pq.read_table(file, columns=["source"])["source"].to_pylist()
            found, before = sum(source in sources for source in rows), found
            changed = found == before
    except (OSError, ValueError, pa.ArrowException) as error:
        return [f"{file.name} cannot be read: {in_words(error)}"]
    if found != expected:
        return [f"{file.name} has {found} rows, expected {expected}"]
    return [f"{file.name} differs from its checksum in the manifest: some byte was changed"] if changed else []
