"""Where molecules that a user hands over in Python are featurized: in this process, or in bounded child processes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from molstream.config import load
from molstream.errors import ConfigError
from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.pool import SandboxPool
from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection

Featurize = Callable[[Iterable[RawMolecule]], Iterator[MoleculeSample | Rejection]]
"""The record of every molecule, or why there is none, in their order."""


def model_featurizer(record: dict[str, Any], where: str) -> FeaturizeConfig:
    """The featurizer of a model's inputs: that of its training data, but for the descriptors, which no encoder reads.

    Args:
        record: the configuration of that featurizer; keys that an older molstream did not have get their defaults.
        where: where the record stands, for messages.

    Raises:
        ConfigError: a key is unknown, or its value not possible.
    """
    return replace(load(FeaturizeConfig, record, where), descriptors="none")


@contextmanager
def featurizing(
    config: FeaturizeConfig, n_jobs: int | None, deadline_s: float, memory_mib: int, with_keys: bool = True
) -> Iterator[Featurize]:
    """What featurizes molecules while the body runs: this process, without bounds, or ``n_jobs`` others.

    Args:
        config: how a molecule becomes a record.
        n_jobs: number of child processes, -1 for one per core; None for this process.
        deadline_s: CPU seconds that a molecule may take in a child process.
        memory_mib: address space of a child process, at least 1024.
        with_keys: whether molecules have a key where no conformer depends on it.

    Raises:
        ConfigError: a value is not possible.
    """
    check_jobs(n_jobs)
    if n_jobs is None:
        yield lambda raws: (featurize(raw, config, with_key=with_keys) for raw in raws)
        return
    limits = SandboxConfig(deadline_s=deadline_s, memory_mib=memory_mib)
    with SandboxPool(limits, config, None if n_jobs == -1 else n_jobs, with_keys) as pool:
        yield pool.featurize


def check_jobs(n_jobs: object) -> None:
    """Check a number of child processes.

    Raises:
        ConfigError: it is none.
    """
    if n_jobs is not None and (not isinstance(n_jobs, int) or (n_jobs < 1 and n_jobs != -1)):
        raise ConfigError(f"n_jobs={n_jobs!r}: expected a whole number, at least 1, or -1, or None.")
