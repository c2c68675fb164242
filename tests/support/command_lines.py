"""Command lines that tests run in this process, and what a refused one must look like.

Words in capitals stand for folders and files: DATASET, RUN and EXPORT are intact, CSV has molecules, HERE is a new
folder.
"""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from molstream.cli.main import main

FAILED, USAGE = 1, 2
TINY = "model=tiny data.lanes=2 data.micro_batch=8 steps=1"

FOREIGN = ("Traceback", "LexerNoViableAlt", "mismatched input", "omegaconf", "hydra", "pydantic", "validation error")
FOREIGN += ("override", "exception", "jsondecodeerror", "keyerror", "typeerror", "object has no attribute", ".writing-")
"""Words of the libraries behind, which say nothing to a user, in lower case."""

NOTE = re.compile(
    r"warning: .*|.*: SMILES are read from the column .*|.* has no records|"
    r"(samples|batches|molecules|conformers|fits of \S+)  .*"
)
"""Lines that a command may print before it fails."""


class Places(NamedTuple):
    """What the words in capitals stand for."""

    DATASET: Path
    RUN: Path
    EXPORT: Path
    CSV: Path
    HERE: Path

    def words(self, line: str) -> list[str]:
        """The words of a command line."""
        pattern = re.compile(rf"\b({'|'.join(self._fields)})\b")
        return [pattern.sub(lambda found: str(getattr(self, found[0])), word) for word in shlex.split(line)]


def assert_one_message(code: int, out: str, err: str, expected: int, parts: tuple[str, ...]) -> None:
    """The command has failed as it should: with the exit code, nothing on stdout, one message that has all parts."""
    *notes, message = err.rstrip("\n").split("\n")
    assert code == expected, err
    assert out == ""
    assert message.startswith("error: "), err
    assert not [note for note in notes if not NOTE.fullmatch(note)], err
    assert message.endswith(".") or re.search(r"Did you mean '[^?]*\?$", message), message
    assert message.isprintable()
    assert "  " not in message, message
    assert not re.search(r"\w\.\.(\s|$)", message), message
    for word in FOREIGN:
        assert word.lower() not in message.lower(), message
    for part in parts:
        assert part in message, message


def refused(places: Places, capfd: Any, line: str, expected: int, *parts: str) -> None:
    """Run a command line in this process, and assert that it fails as it should."""
    code = main(places.words(line))
    out, err = capfd.readouterr()
    assert_one_message(code, out, err, expected, tuple(place_in(places, part) for part in parts))


def place_in(places: Places, text: str) -> str:
    return re.sub(rf"\b({'|'.join(places._fields)})\b", lambda found: str(getattr(places, found[0])), text)


def copy_of(places: Places, what: str) -> Path:
    """A copy in HERE."""
    target = places.HERE / "copy"
    shutil.copytree(getattr(places, what), target)
    return target
