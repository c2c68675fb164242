"""One molecule, one spelling: real molecules in other atom orders, Kekule forms, resonance forms and drawings.

A resonance form is another spelling only if it says as much: one that writes a bond with E or Z as a single bond, or as
one of two double bonds in a row, names any of its isomers. Run with ``-rP`` to see the share of molecules that have
more than one record; there is no exception among the 20,000.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from rdkit import Chem, rdBase

from molstream.preprocessing.standardize import StandardizedMolecule
from tests.support.diverse import (
    heteroaromatics,
    natural_products,
    pubchem_substances,
    screened,
    smiles_record,
    standardized,
    zinc,
)
from tests.support.spellings import other_spellings

SETS: dict[Callable[[Path], list[str]], int] = {
    zinc: 5000,
    pubchem_substances: 6000,
    natural_products: 4000,
    screened: 3000,
    heteroaromatics: 2000,
}
"""Every set, and how many of its molecules make up the 20,000."""


def disagreements(text: str, seed: int, counts: Counter[str]) -> list[str]:
    """What other spellings of a molecule give, where that is not what its SMILES gives."""
    expected = standardized(smiles_record(text))
    if not isinstance(expected, StandardizedMolecule):
        counts[f"rejected: {expected.reason}"] += 1
        return []
    counts["molecules"] += 1
    found = []
    for kind, spelling in [("itself", expected.smiles), *other_spellings(text, seed)]:
        again = standardized(smiles_record(spelling))
        if isinstance(again, StandardizedMolecule) and (again.smiles, again.key) == (expected.smiles, expected.key):
            counts[kind] += 1
        elif kind == "resonance form that says less":
            counts["less in it"] += 1
        elif Chem.MolFromSmiles(spelling) is None:
            counts["text that RDKit cannot read back"] += 1
        else:
            found.append(f"{kind} {spelling} of {text}: {again}, expected {expected.smiles}")
    return found


def share_with_two_records(texts: Iterable[str]) -> float:
    """The share of molecules that some spelling gives another record of; prints it, and every one of them."""
    counts: Counter[str] = Counter()
    failed = 0
    with rdBase.BlockLogs():
        for seed, text in enumerate(texts):
            found = disagreements(text, seed, counts)
            failed += bool(found)
            print(*found, sep="\n", end="\n" if found else "")
    print(f"{failed} of {counts['molecules']} molecules have more than one record; {dict(counts)}")
    return failed / counts["molecules"]


def every(shared_data: Path, part: int) -> Iterable[str]:
    """A ``part``-th of the 20,000."""
    for read, count in SETS.items():
        texts = read(shared_data)
        yield from texts[:: len(texts) * part // count][: count // part]


def test_some_real_molecules_have_one_record_each(shared_data):
    assert share_with_two_records(every(shared_data, 100)) == 0


@pytest.mark.slow
def test_20000_real_molecules_have_one_record_each(shared_data):
    assert share_with_two_records(every(shared_data, 1)) <= 1 / 10_000
