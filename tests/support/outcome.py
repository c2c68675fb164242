"""Output of a job without what differs between runs, to compare a disturbed job with an undisturbed one."""

from pathlib import Path

TIMED = ("timing.json", "card.html")
"""Files with durations, whose content is ignored."""


def outcome(folder: Path) -> dict[str, object]:
    """Read the files of a dataset by name: bytes; None for TIMED."""
    found: dict[str, object] = {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}
    return {name: None if name in TIMED else content for name, content in found.items()}


def assert_same_outcome(folder: Path, undisturbed: Path) -> None:
    """Assert that two folders have the same dataset, byte for byte, and no other files."""
    found, expected = outcome(folder), outcome(undisturbed)
    only = found.keys() ^ expected.keys()
    assert not only, f"in one of the folders only: {sorted(only)}"
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing, f"not the same: {differing}"
