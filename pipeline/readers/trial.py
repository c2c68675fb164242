"""Reads files in a child process first, where the library that reads them follows a damaged file into a crash.

The child does what the command will do: unpack, find the columns, read and check every row. Its results are not used.
An exception there is no concern of the child: the command meets it again and words it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from pydantic import TypeAdapter

from molstream.config import PACKAGE
from molstream.errors import DataError
from molstream.io import remote
from molstream.pipeline.readers.source import SourceFile, unpack
from molstream.pipeline.readers.split import cut

ROWS = 1 << 14
"""Rows that are read at a time."""
SOURCES = TypeAdapter(list[SourceFile])


def require_survival(sources: Sequence[SourceFile]) -> None:
    """Check that reading the files, in the process that this function starts, does not end that process.

    Args:
        sources: fetched.

    Raises:
        DataError: a file ends it.
    """
    if not sources:
        return
    paths = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        [sys.executable, "-m", "molstream.pipeline.readers.trial"],
        input=SOURCES.dump_json(list(sources)),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    done = len(ended.stdout)
    if ended.returncode == 0 and done == len(sources):
        return
    why = signal.Signals(-ended.returncode).name if ended.returncode < 0 else f"exit code {ended.returncode}"
    if done == len(sources) or ended.returncode > 0:
        last = ended.stderr.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise DataError(f"the process that tries files does not work ({why}: {last or 'no message'}). Try again.")
    raise DataError(
        f"{remote.shown(sources[done].given)} is damaged, or needs more memory than there is: reading it ends the "
        f"process ({why}). Fetch the file again."
    )


def main() -> None:
    """Read the sources in the JSON on stdin; one byte on stdout for each that was survived."""
    for source in SOURCES.validate_json(sys.stdin.buffer.read()):
        with suppress(Exception):
            unpack(source)
            cut([source], ROWS)
        os.write(1, b".")


if __name__ == "__main__":
    main()
