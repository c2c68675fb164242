"""Makes sources ready to be cut: fetched, tried where a damaged file could end the process, unpacked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.discover import find_files, format_named
from molstream.pipeline.readers.source import SourceFile, describe_sources, fetch, unpack
from molstream.pipeline.readers.trial import require_survival


def open_sources(inputs: Any, work: Path, config: ReadConfig) -> list[SourceFile]:
    """The sources that ``inputs`` name (see ``find_files``), ready to be cut; plain files are written to ``work``.

    Raises:
        DataError, ConfigError: see ``find_files``, ``describe_sources`` and ``prepare``.
    """
    sources = describe_sources(find_files(inputs, config), work)
    prepare(sources)
    return sources


def prepare(sources: Sequence[SourceFile]) -> None:
    """Fetch sources and write their plain files, unless they exist.

    Raises:
        DataError: the content is truncated or damaged, or cannot be joined.
    """
    for source in sources:
        fetch(source)
    require_survival([source for source in sources if format_named(source.format).may_crash])
    for source in sources:
        unpack(source)
