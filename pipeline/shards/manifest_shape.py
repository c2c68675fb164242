"""What the JSON of a manifest has to be: the types of its keys, and what cannot be true of their values."""

import re
from typing import Any

from molstream.io.names import is_sha256
from molstream.io.reading import Natural, Shape, mismatch
from molstream.pipeline.shards.distributions import Distribution, distributions

DROPPED_KINDS = ("rejected", "duplicates", "decontaminated")
"""Kinds of rows that are not written; the dataset has a table ``<kind>.parquet`` of each."""
MAX_DESCRIPTORS = 1 << 14
"""Most descriptors of a dataset."""
_COUNTS = {
    **dict.fromkeys(("in", "written", "duplicates", "decontaminated"), Natural),
    "rejected": dict[str, Natural],
}
_NUMBER = re.compile(r"-?\d{1,9}")
"""What a histogram counts by, as a key of JSON."""
SHAPE: Shape = {
    **dict.fromkeys(("container", "hydrogens", "fingerprint"), str),
    **dict.fromkeys(
        ("config", "versions", "conformer_status", "changes", "left_out", "benchmarks", "histograms"), dict
    ),
    "block_rows": int,
    "target_names": list,
    "descriptor_names": [str],
    "descriptor_statistics": dict[str, Distribution],
    "dropped": {kind: {"bytes": Natural, "sha256": str} for kind in DROPPED_KINDS},
    "counts": _COUNTS,
    "splits": [{"name": str, **_COUNTS}],
    "shards": list,
}
"""What a manifest of this version has besides its versions."""


def problem(record: dict[str, Any]) -> str | None:
    """What cannot be true of the tables of a manifest of this SHAPE, a clause; None if all can."""
    return _of_counts(record) or _of_descriptors(record) or _of_targets(record) or _of_dropped(record)


def _of_counts(record: dict[str, Any]) -> str | None:
    """Tables that are not of counts by name, histograms that are not by number."""
    tables = {name: record[name] for name in ("conformer_status", "changes", "benchmarks")}
    histograms = {f"histograms.{name}": table for name, table in record["histograms"].items()}
    for name, table in {**tables, **histograms}.items():
        counts = isinstance(table, dict) and all(type(count) is int and count >= 0 for count in table.values())
        by_number = name in histograms and name != "histograms.elements"
        if not counts or (by_number and not all(map(_NUMBER.fullmatch, table))):
            return f"{name} is no table of counts"
    return None


def _of_descriptors(record: dict[str, Any]) -> str | None:
    names = record["descriptor_names"]
    if len(names) > MAX_DESCRIPTORS or len(set(names)) < len(names):
        return f"expected at most {MAX_DESCRIPTORS} descriptor_names, each once"
    return _of_statistics(record, "descriptor")


def _of_targets(record: dict[str, Any]) -> str | None:
    if "target_statistics" not in record:
        return None
    shape = {"target_statistics": dict[str, Distribution]}
    return mismatch(record, shape) or _of_statistics(record, "target")


def _of_statistics(record: dict[str, Any], kind: str) -> str | None:
    """Distributions that are not of the names, or cannot be."""
    key = f"{kind}_statistics"
    if list(record[key]) != record[f"{kind}_names"]:
        return f"{key} are not those of {kind}_names"
    found = ((name, each.problem()) for name, each in distributions(record[key]).items())
    return next((f"{key}.{name}: {wrong}" for name, wrong in found if wrong), None)


def _of_dropped(record: dict[str, Any]) -> str | None:
    forged = (kind for kind in DROPPED_KINDS if not is_sha256(record["dropped"][kind]["sha256"]))
    return next((f"the sha256 of {kind}.parquet is not 64 hexadecimal digits in lower case" for kind in forged), None)
