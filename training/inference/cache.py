"""Vectors that are kept on disk from one call to the next, in one SQLite file that several processes may use."""

import hashlib
import importlib.metadata
import json
import os
import sqlite3
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
import torch

from molstream.config import tree_of
from molstream.errors import DataError, in_words
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.fields import SCHEMA_VERSION, RawMolecule
from molstream.training.inference.embedded import Vector
from molstream.training.inference.inputs import Record
from molstream.training.inference.pretrained import PretrainedEncoders

FILE = "vectors.sqlite"
FORMAT = 1
"""Version of the tables."""
APPLICATION = 0x6D6F6C73
"""Number by which SQLite tells our files from those of other programs: "mols" in ASCII."""
WAIT_S = 60.0
"""How long a process waits for another one that writes."""
ASKED = 500
"""Keys per query; SQLite has allowed 999 parameters in all its versions."""
UNBOUND = ("sandbox", "conformer")
"""Stages whose failures depend on limits of time and memory, and may not come again: they are not kept."""
TABLE = """
create table if not exists vectors (
    key blob primary key, vector blob, failure text, checksum integer not null
) without rowid
"""

AT_ONCE = 4096
"""Molecules whose vectors are computed, and then kept, at a time."""


def fingerprint(pretrained: PretrainedEncoders, config: FeaturizeConfig, choices: Mapping[str, Any]) -> bytes:
    """SHA-256 of all that a vector depends on besides its molecule.

    Args:
        pretrained: the encoders, of which every weight counts.
        config: how molecules are featurized.
        choices: further parameters that change vectors.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(pretrained.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    rest = {
        "molstream": importlib.metadata.version("molstream"),
        "rdkit": rdkit.__version__,
        "schema": SCHEMA_VERSION,
        "model": tree_of(pretrained.model),
        "featurize": tree_of(config),
        **choices,
    }
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.digest()


class VectorCache:
    """The vectors of one embedder in the file of a folder; :func:`vector_cache` opens it.

    Args:
        connection: to the file.
        path: of the file, for messages.
        of: the embedder's :func:`fingerprint`.
        width: numbers of a vector.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, of: bytes, width: int):
        self._connection, self._path, self._of, self._width = connection, path, of, width

    def key(self, raws: Sequence[RawMolecule]) -> bytes:
        """The key of a molecule: SHA-256 of the texts of its records, mol blocks with their conformers included."""
        digest = hashlib.sha256(self._of)
        for raw in raws:
            text = raw.text.encode("utf-8", "surrogatepass")
            digest.update(f"{raw.format} {len(text)} ".encode() + text)
        return digest.digest()

    def get(self, keys: Iterable[bytes]) -> dict[bytes, Vector]:
        """The vectors that are known.

        Raises:
            DataError: the file is damaged, or another process writes for too long.
        """
        wanted, found = list(dict.fromkeys(keys)), dict[bytes, Vector]()
        for start in range(0, len(wanted), ASKED):
            part = wanted[start : start + ASKED]
            marks = ",".join("?" * len(part))
            with _clear(self._path):
                rows = self._connection.execute(
                    f"select key, vector, failure, checksum from vectors where key in ({marks})",
                    part,
                ).fetchall()
            found |= {row[0]: self._vector(*row) for row in rows}
        return found

    def put(self, vectors: Mapping[bytes, Vector]) -> None:
        """Keep vectors, and failures that come again; in one transaction.

        Raises:
            DataError: the file cannot be written, or another process writes for too long.
        """
        rows = [
            (key, None, vector) if isinstance(vector, str) else (key, vector.astype("<f4").tobytes(), None)
            for key, vector in vectors.items()
            if not isinstance(vector, str) or vector.partition(":")[0] not in UNBOUND
        ]
        with _clear(self._path):
            self._connection.execute("begin immediate")
            self._connection.executemany(
                "insert or ignore into vectors values (?, ?, ?, ?)", [(*row, _checksum(*row)) for row in rows]
            )
            self._connection.execute("commit")

    def _vector(self, key: bytes, vector: Any, failure: Any, checksum: Any) -> Vector:
        if _checksum(key, vector, failure) != checksum:
            raise _damaged(self._path, "a vector differs from its checksum")
        if vector is None:
            return failure
        if len(vector) != 4 * self._width:
            raise _damaged(self._path, f"a vector has {len(vector)} bytes instead of {4 * self._width}")
        return np.frombuffer(vector, "<f4")


@contextmanager
def vector_cache(folder: str | Path, of: bytes, width: int) -> Iterator[VectorCache]:
    """Open the cache of a folder; both are created if they do not exist, for this user alone.

    Args:
        folder: where the file is.
        of: the embedder's :func:`fingerprint`.
        width: numbers of a vector.

    Raises:
        DataError: the folder or the file cannot be used, is damaged, or may be written by others, who could put other
            vectors there.
    """
    path = Path(folder) / FILE
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        for each in (path.parent, path):
            _require_own(each)
    except OSError as error:
        why = in_words(error.strerror or error)
        raise DataError(f"cache={folder} cannot be used: {why}. Give a folder that you can write to.") from error
    with _clear(path), closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as connection:
        _prepare(connection, path)
        yield VectorCache(connection, path, of, width)


def _require_own(path: Path) -> None:
    """Check that nobody else may write to a file or folder.

    Raises:
        DataError: it belongs to another user, or its mode lets others write.
    """
    found = path.stat()
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid == os.getuid() and not others:
        return
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    raise DataError(
        f"cache: {path} belongs to user {found.st_uid} and has the mode {mode}: expected what only you can write to, "
        f"since others could put other vectors there. Give another folder, or run `chmod go-w {path}`."
    )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the table of a new file, or check that a file has it; other processes wait.

    Raises:
        DataError: the file is of another program or version.
    """
    connection.execute("begin immediate")
    found = [connection.execute(f"pragma {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if connection.execute("select count(*) from sqlite_master").fetchone() == (0,):
        connection.execute(TABLE)
        connection.execute(f"pragma application_id = {APPLICATION}")
        connection.execute(f"pragma user_version = {FORMAT}")
    elif found != [APPLICATION, FORMAT]:
        raise DataError(
            f"{path} is no cache of this molstream: it has application id and version {found}, expected "
            f"{[APPLICATION, FORMAT]}. Give another folder, or remove the file."
        )
    connection.execute("commit")


@contextmanager
def _clear(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into errors that say what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(
            f"cache {path} cannot be used: {in_words(error)}. Another process may have written to it for more than "
            f"{WAIT_S:.0f} s, or the disk is full or read-only."
        ) from error
    except sqlite3.Error as error:
        raise _damaged(path, in_words(error)) from error


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"cache {path} is damaged: {why}. Remove the file; its vectors are then computed again.")


def _checksum(key: bytes, vector: bytes | None, failure: str | None) -> int:
    """CRC-32 of a row, against flipped bits."""
    kind, content = (b"v", vector) if failure is None else (b"f", failure.encode("utf-8", "surrogatepass"))
    return zlib.crc32(kind + key + (content or b""))


def vectors_of(
    molecules: Sequence[Sequence[Record]],
    cache: VectorCache | None,
    compute: Callable[[list[Sequence[Record]]], list[Vector]],
) -> Iterator[tuple[int, Vector]]:
    """The vectors of molecules, each with its row: first those that are known, then those that are computed.

    Args:
        molecules: by row.
        cache: where vectors are looked for and kept; None computes all.
        compute: the vectors of molecules, in their order; called for a part of them at a time, so that an interrupted
            call loses the last part alone.

    Raises:
        DataError: the cache is damaged, or cannot be written.
    """
    keys: dict[int, bytes] = {}
    known: dict[bytes, Vector] = {}
    if cache is not None:
        for row, molecule in enumerate(molecules):
            raws = [record for record in molecule if isinstance(record, RawMolecule)]
            if len(raws) == len(molecule):
                keys[row] = cache.key(raws)
        known = cache.get(keys.values())
    waiting = []
    for row in range(len(molecules)):
        if row in keys and keys[row] in known:
            yield row, known[keys[row]]
        else:
            waiting.append(row)
    for start in range(0, len(waiting), AT_ONCE):
        rows = waiting[start : start + AT_ONCE]
        found = dict(zip(rows, compute([molecules[row] for row in rows]), strict=True))
        if cache is not None:
            cache.put({keys[row]: vector for row, vector in found.items() if row in keys})
        yield from found.items()
