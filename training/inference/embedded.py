"""The vectors of records, and those of molecules, which have a record for each of their conformers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from molstream.training.inference.inputs import Record

Vector = np.ndarray | str
"""float32 [d], or why there is none: stage, reason and detail."""


@dataclass(frozen=True)
class Embedded:
    """The vectors of g records, and which molecules these are; lists have one item per record."""

    vectors: np.ndarray
    """float32 [g, d]; NaN where a molecule failed."""
    smiles: list[str | None]
    """Canonical SMILES of the standardized molecules; None where they failed."""
    keys: list[str | None]
    """Their InChIKeys (see ``MoleculeSample.key``), as far as they were computed; None where molecules failed."""
    failures: list[str | None]
    """Stage, reason and detail of the failures; None where there was none."""

    @classmethod
    def failed(cls, count: int, width: int) -> "Embedded":
        """Nothing yet, for ``count`` records and vectors of ``width`` numbers."""
        nothing: list[list[str | None]] = [[None] * count for _ in range(3)]
        return cls(np.full((count, width), np.nan, np.float32), *nothing)

    def fail(self, rows: Sequence[int], failure: str) -> None:
        """Leave out the vectors and names of records, for one reason."""
        self.vectors[rows] = np.nan
        for row in rows:
            self.smiles[row], self.keys[row], self.failures[row] = None, None, failure

    def of_molecules(self, molecules: Sequence[Sequence[Record]]) -> list[Vector]:
        """The vector of each molecule, the mean over its records, or why it failed."""
        return [
            self.vectors[part].mean(axis=0) if failure is None else failure
            for part, failure in outcomes(molecules, self.smiles, self.failures)
        ]


def outcomes(
    groups: Sequence[Sequence[Record]], smiles: Sequence[str | None], failures: Sequence[str | None]
) -> Iterator[tuple[slice, str | None]]:
    """The rows of the records of every molecule, and why it failed, which it does if one of its conformers fails.

    Args:
        groups: the records of each molecule.
        smiles: of the standardized molecules, by record.
        failures: by record.
    """
    start = 0
    for group in groups:
        part = slice(start, start + len(group))
        start = part.stop
        failure = next((failure for failure in failures[part] if failure is not None), None)
        if failure is None and len(shown := sorted({str(text) for text in smiles[part]})) > 1:
            failure = f"parse: stereo_mismatch: its 3D conformers show {shown[0]} and {shown[1]}"
        yield part, failure
