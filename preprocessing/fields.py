"""The table of everything stored for a molecule, which drives codec, collate, docs and tests.

Symbols in shapes: ``n`` atoms, ``b`` bonds (each once), ``c`` conformers, ``t`` targets, ``k`` descriptors. A field
with symbolic dimensions is stored with those outermost (``bond_index`` [2, b] is stored as b rows of 2).
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

SCHEMA_VERSION = 4
"""Raised whenever the meaning or the type of a stored field changes; readers of datasets refuse other versions."""
SAME_RECORD_VERSIONS = (2, 3, 4)
"""Versions with the same graphs and geometry, whose models read today's records. 2 and 3 have no descriptors."""
SAME_MOLECULE_VERSIONS = (3, 4)
"""Those of them that store the same drawing of a molecule as today: 2 did not unify conjugated ions, separated charges
and Kekule forms."""


Format = Literal["smiles", "molblock", "geometry"]
"""What the text of a record is: SMILES or CXSMILES, an MDL mol block, or a geometry record."""


class ConformerStatus(IntEnum):
    """Which rung of the conformer ladder gave the positions of a molecule."""

    NONE = 0
    GIVEN = 1
    ETKDG = 2
    RANDOM_COORDINATES = 3


@dataclass(frozen=True)
class Field:
    """One stored array: its name, element type, symbolic shape, level, unit and meaning."""

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    level: Literal["molecule", "atom", "bond", "conformer"]
    unit: str
    doc: str

    @property
    def is_ragged(self) -> bool:
        """Whether the number of entries differs between molecules or datasets."""
        return any(isinstance(size, str) for size in self.shape)

    @property
    def width(self) -> int:
        """Values per stored entry: the product of the fixed dimensions."""
        return math.prod(size for size in self.shape if isinstance(size, int))

    def to_stored(self, value: np.ndarray) -> np.ndarray:
        """A ragged field's array as it is stored: symbolic dimensions outermost and flattened, [entries, width]."""
        symbolic = [axis for axis, size in enumerate(self.shape) if isinstance(size, str)]
        fixed = [axis for axis, size in enumerate(self.shape) if isinstance(size, int)]
        return np.ascontiguousarray(value.transpose(symbolic + fixed), self.dtype).reshape(-1, self.width)

    def from_stored(self, entries: np.ndarray, num_atoms: int) -> np.ndarray:
        """The inverse of :meth:`to_stored`, for a molecule of ``num_atoms`` atoms."""
        if self.shape == ("c", "n", 3):
            return entries.reshape(-1, num_atoms, 3)
        return entries.T if self.shape == (2, "b") else entries


FIELDS: tuple[Field, ...] = (
    Field("key", "string", (), "molecule", "", "full InChIKey, or a hash of the canonical SMILES where InChI fails"),
    Field("smiles", "string", (), "molecule", "", "canonical isomeric SMILES of the standardized molecule"),
    Field("source", "string", (), "molecule", "", "name of the input file"),
    Field("row", "int64", (), "molecule", "", "zero-based record number in the input file"),
    Field("atom_features", "uint8", ("n", 9), "atom", "", "OGB atom columns; column 0 is the atomic number - 1"),
    Field("bond_index", "uint16", (2, "b"), "bond", "", "the two atoms of every bond, each bond once"),
    Field("bond_features", "uint8", ("b", 3), "bond", "", "OGB bond columns: type, stereo, conjugated"),
    Field("positions", "float32", ("c", "n", 3), "conformer", "angstrom", "centred on the unweighted centroid"),
    Field(
        "conformer_energy",
        "float32",
        ("c",),
        "conformer",
        "kcal/mol",
        "given with the conformer, or of the force field; NaN where there is none",
    ),
    Field(
        "forces",
        "float32",
        ("c", "n", 3),
        "conformer",
        "kcal/mol/angstrom",
        "given with the conformers: all c of them have forces, or none has (then there are 0 entries)",
    ),
    Field("conformer_status", "uint8", (), "molecule", "", "a ConformerStatus"),
    Field("targets", "float32", ("t",), "molecule", "as in the source", "named in the manifest; NaN where missing"),
    Field(
        "descriptors",
        "float32",
        ("k",),
        "molecule",
        "of RDKit",
        "named in the manifest; NaN where undefined; 0 entries where the dataset has none",
    ),
)


@dataclass(frozen=True)
class MoleculeSample:
    """One featurized molecule: exactly the fields of :data:`FIELDS`, with their dtypes and shapes."""

    key: str
    smiles: str
    source: str
    row: int
    atom_features: np.ndarray
    bond_index: np.ndarray
    bond_features: np.ndarray
    positions: np.ndarray
    conformer_energy: np.ndarray
    forces: np.ndarray
    conformer_status: int
    targets: np.ndarray
    descriptors: np.ndarray

    @property
    def num_atoms(self) -> int:
        """Number of stored atoms n."""
        return self.atom_features.shape[0]


@dataclass(frozen=True)
class RawMolecule:
    """One input record before chemistry: its text as read, and where it came from.

    ``format`` says what the text is; ``geometry`` is one line of JSON, see ``molstream.preprocessing.geometry``.
    """

    text: str
    format: Format
    source: str
    row: int
    targets: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rejection:
    """A record that gave no sample: kept as data, never skipped in silence.

    ``stage`` is where it was rejected (read, parse, standardize, features, conformer, sandbox), ``reason`` a stable
    word that counts are grouped by, ``detail`` a message for people, ``seconds`` the CPU time spent on it.
    """

    source: str
    row: int
    text: str
    stage: str
    reason: str
    detail: str
    seconds: float
