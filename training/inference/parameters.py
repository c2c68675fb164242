"""What the parameters of :class:`MoleculeEmbedder` may be."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from molstream.errors import ConfigError
from molstream.preprocessing.config import MAX_CONFORMERS
from molstream.training.inference.featurizing import check_jobs


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "on_error": (lambda value: value in ("nan", "raise"), "nan or raise"),
    "batch_size": (_is_count, "a whole number, at least 1"),
    "num_conformers": (
        lambda value: value is None or (_is_count(value) and value <= MAX_CONFORMERS),
        f"a whole number from 1 to {MAX_CONFORMERS}, or None",
    ),
    "cache": (lambda value: isinstance(value, str | Path | None), "a folder, or None"),
    "descriptors": (lambda value: isinstance(value, bool), "True or False"),
}
"""By name: whether a value is possible, and what is expected. What is loaded is checked where it is loaded."""


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Check the parameters of an embedder.

    Raises:
        ConfigError: one has no possible value.
    """
    for name, (is_possible, expected) in ALLOWED.items():
        if not is_possible(parameters[name]):
            raise ConfigError(f"{name}={parameters[name]!r}: expected {expected}.")
    check_jobs(parameters["n_jobs"])
