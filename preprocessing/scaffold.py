"""Bemis-Murcko scaffolds and the deterministic scaffold split of MoleculeNet benchmarks (MoleculeSDE spec 7.1)."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold

from molstream.errors import ConfigError, DataError


def murcko_scaffold(mol: Chem.Mol, include_chirality: bool = True) -> str:
    """Canonical SMILES of the ring systems and the linkers between them; empty for an acyclic molecule."""
    scaffold = MurckoScaffold.GetScaffoldForMol(mol)
    # Re-read: what was a stereocentre of the molecule need not be one of its scaffold.
    return Chem.MolToSmiles(
        Chem.MolFromSmiles(Chem.MolToSmiles(scaffold, isomericSmiles=include_chirality)),
        isomericSmiles=include_chirality,
    )


def scaffold_split(
    smiles: Sequence[str], fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), include_chirality: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ascending rows (int64) of train, validation and test; no scaffold is in two of them.

    Groups of one scaffold are placed whole, the largest first, into the first of train, validation, test that they do
    not overfill. Equally large groups are taken in the order of their scaffold, so that a molecule's part does not
    depend on the order of the rows.

    Raises:
        ConfigError: fractions that are negative or do not add up to 1.
        DataError: a SMILES that RDKit cannot read.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ConfigError(f"split fractions are {tuple(fractions)}; expected three, none negative, that add up to 1")
    groups: defaultdict[str, list[int]] = defaultdict(list)
    with rdBase.BlockLogs():
        for row, text in enumerate(smiles):
            mol = Chem.MolFromSmiles(text)
            if mol is None:
                raise DataError(f"scaffold split: row {row}: RDKit cannot read the SMILES '{text}'. Remove the row.")
            groups[murcko_scaffold(mol, include_chirality)].append(row)
    # Rounded because 0.7 + 0.2 is a little less than 0.9.
    train_size = round(fractions[0] * len(smiles), 6)
    train_valid_size = round((fractions[0] + fractions[1]) * len(smiles), 6)
    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    for _, rows in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(train) + len(rows) <= train_size:
            train += rows
        elif len(train) + len(valid) + len(rows) <= train_valid_size:
            valid += rows
        else:
            test += rows
    part_train, part_valid, part_test = (np.array(sorted(part), dtype=np.int64) for part in (train, valid, test))
    return part_train, part_valid, part_test
