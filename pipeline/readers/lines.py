"""Lines of bytes that end as in any text editor: by a line feed, a carriage return, or both."""

import io
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import BinaryIO

BUFFER_BYTES = 1 << 16
LONE_RETURN = re.compile(r"\r(?!\n)")


class LineReader:
    """Iterates over the lines of a file from its position on, with their ends; lines can be put back.

    A carriage return before a line end of two characters (``\\r\\r\\n``, as a transfer in text mode leaves it) is a
    part of that end.
    """

    def __init__(self, file: BinaryIO):
        # Latin-1 is any byte as a character, so that the lines are the bytes of the file.
        self._lines = io.TextIOWrapper(io.BufferedReader(_Kept(file), BUFFER_BYTES), "latin-1", newline="")
        self._waiting: deque[bytes] = deque()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._waiting:
            return self._waiting.popleft()
        line = next(self._lines).encode("latin-1")
        if line.endswith(b"\r") and (following := self._peek()) == b"\r\n":
            self._waiting.clear()
            line += following
        return line

    def put_back(self, lines: Iterable[bytes]) -> None:
        """Let the next lines be these."""
        self._waiting.extendleft(reversed(list(lines)))

    def _peek(self) -> bytes | None:
        following = next(self._lines, None)
        if following is None:
            return None
        self._waiting.append(following.encode("latin-1"))
        return self._waiting[0]


class _Kept(io.RawIOBase):
    """A view of a file that leaves it open when it is closed."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def with_line_feeds(text: str) -> str:
    """The text with line feeds where carriage returns alone end lines."""
    return re.sub(r"\r+\n|\r", "\n", text) if LONE_RETURN.search(text) else text
