"""Lines of text, whichever of the line ends a file has: ``\\n``, ``\\r\\n`` or a lone ``\\r``, mixed too.

A lone carriage return is what old Macs and some spreadsheets end lines with. Whoever looks at the file sees a new line,
and so do we: otherwise the rest of a row would be lost as a part of the one before. ``\\r\\r\\n`` is one end too: a
transfer in text mode leaves it.
"""

import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

ANY_END = re.compile(r"\r?\r\n|\r")
BLOCK_BYTES = 1 << 16
"""Bytes that are read at a time."""


def split_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines from the position of a file on with their ends, blank ones too; reads ahead of the line it yields."""
    rest = b""
    # A line that is longer than a block is read in ever larger ones, so that the time stays linear in its length.
    while block := file.read(max(BLOCK_BYTES, len(rest))):
        found = (rest + block).splitlines(keepends=True)
        # The last line may go on in the next block, even one that ends in \r: with \n, or \r\n.
        rest = found.pop()
        if rest in (b"\r", b"\r\n") and found:
            rest = found.pop() + rest
        yield from _joined(found)
    yield from _joined(rest.splitlines(keepends=True))


def _joined(lines: list[bytes]) -> Iterator[bytes]:
    """The lines, of which those that end with ``\\r\\r\\n`` have come in two parts."""
    before = b""
    for line in lines:
        if line == b"\r\n" and before.endswith(b"\r"):
            yield before + line
            before = b""
            continue
        if before:
            yield before
        before = line
    if before:
        yield before


def first_line(record: bytes) -> bytes:
    """The first line without its end."""
    return record.partition(b"\n")[0].partition(b"\r")[0]


def with_newlines(text: str) -> str:
    """The text with ``\\n`` at the end of every line, as RDKit reads it."""
    return ANY_END.sub("\n", text) if "\r" in text else text


class Lines(Iterator[bytes]):
    """The lines of a file, of which the last ones can be put back."""

    def __init__(self, file: BinaryIO):
        self._waiting: deque[bytes] = deque()
        self._lines = split_lines(file)

    def __next__(self) -> bytes:
        return self._waiting.popleft() if self._waiting else next(self._lines)

    def put_back(self, taken: list[bytes]) -> None:
        """Have lines come once more, in the order in which they came."""
        self._waiting.extendleft(reversed(taken))
