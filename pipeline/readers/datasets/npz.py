"""Arrays of an npz file, read a few rows at a time.

An npz file is a zip file of npy files. If these are not compressed, rows are read in place; otherwise the file is
rewritten once without compression. Arrays of Python objects, which would need pickle, are refused.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from molstream.errors import DataError
from molstream.io.files import written_whole
from molstream.pipeline.readers.base import COPY_BYTES

LOCAL_HEADER_BYTES = 30
"""Length of a zip member's local header, before name and extra field; its last four bytes are the lengths of these."""


@dataclass(frozen=True)
class Array:
    """An array in an uncompressed npz file."""

    path: Path
    offset: int
    """First byte of the values."""
    dtype: np.dtype
    shape: tuple[int, ...]

    def rows(self, begin: int = 0, end: int | None = None) -> np.ndarray:
        """Rows along the first axis (all of a scalar), read from the disk."""
        if not self.shape:
            return np.fromfile(self.path, self.dtype, 1, offset=self.offset).reshape(())
        end = self.shape[0] if end is None else min(end, self.shape[0])
        width = int(np.prod(self.shape[1:]))
        place = self.offset + begin * width * self.dtype.itemsize
        values = np.fromfile(self.path, self.dtype, (end - begin) * width, offset=place)
        if len(values) != (end - begin) * width:
            raise OSError(f"{self.path} ends within an array")
        return values.reshape(-1, *self.shape[1:])


def is_stored(path: Path) -> bool:
    """Whether a file is a zip file whose members are not compressed."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return all(member.compress_type == zipfile.ZIP_STORED for member in file.infolist())


def unpack(streams: Sequence[BufferedReader], plain: Path) -> None:
    """Rewrite an npz file without compression."""
    with (
        zipfile.ZipFile(streams[0]) as packed,
        written_whole(plain) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target,
    ):
        for member in packed.infolist():
            with packed.open(member) as source, target.open(member.filename, "w", force_zip64=True) as copy:
                while chunk := source.read(COPY_BYTES):
                    copy.write(chunk)


def arrays(where: str, path: Path) -> dict[str, Array]:
    """The arrays of an uncompressed npz file by name.

    Raises:
        DataError: one of them cannot be read by rows.
    """
    found: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            file.seek(member.header_offset + LOCAL_HEADER_BYTES - 4)
            lengths = file.read(4)
            file.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), 1)
            name = member.filename.removesuffix(".npy")
            try:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = read[version](file)
            except (ValueError, KeyError) as error:
                raise DataError(f"{where}: the member '{member.filename}' is no array: {error}.") from error
            if dtype.hasobject or (fortran and len(shape) > 1):
                kind = "Python objects" if dtype.hasobject else "columns first"
                raise DataError(f"{where}: the array '{name}' is stored as {kind}: expected plain values, rows first.")
            found[name] = Array(path, file.tell(), dtype, shape)
    return found
