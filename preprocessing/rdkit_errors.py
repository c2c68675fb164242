"""RDKit's exceptions as errors of a molecule."""

from collections.abc import Iterator
from contextlib import contextmanager

from molstream.errors import MoleculeError


@contextmanager
def rdkit_errors(stage: str, reason: str = "rdkit_error") -> Iterator[None]:
    """Turns the exceptions of RDKit's C++ (failed invariants, sanitization) into a :class:`MoleculeError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise MoleculeError(stage, reason, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
