"""Molecules and the commands that tests build real datasets with."""

import os
import subprocess
import sys
from pathlib import Path

from rdkit import RDConfig

REPOSITORY = Path(__file__).resolve().parents[2]

DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "CC(C)Cc1ccc(cc1)[C@@H](C)C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "c1ccc2ccccc2c1",
    "CN1CCC[C@H]1c1cccnc1",
    "NCCc1ccc(O)c(O)c1",
    "C1CCNCC1",
    "CC#N",
    "C=CC=O",
    "OC(=O)c1ccccc1O",
    "CCOC(=O)C",
    "FC(F)(F)c1ccccc1",
    "CS(=O)(=O)N",
    "ClC=C(Cl)Cl",
    "N#Cc1ccncc1",
    "O=C1CCCN1",
    "CC1=CC(=O)C=CC1=O",
    "CCN(CC)CC",
    "C1=CSC=C1",
    "NC(=O)c1cccnc1",
    "OCC(O)CO",
    "CC(C)(C)O",
    "BrCCBr",
    "O=[N+]([O-])c1ccccc1",
    "C[C@H](N)C(=O)O",
    "c1ccoc1",
    "CSC",
    "OCCN",
    "CC1CO1",
    "Cc1ccccc1",
)
"""32 connected molecules of 3 to 15 heavy atoms."""

SMILES = [*DRUGS, "C", "O", "CC"]
"""Small molecules, including single atoms."""

HOMOLOGUES = [
    f"{chain}{end}" for chain in ("C" * n for n in range(2, 10)) for end in ("O", "N", "Cl", "C#N", "C(=O)O", "S")
]
"""Chains that enlarge a dataset and are quick to embed."""


def molecules() -> list[str]:
    """Return about 80 distinct molecules as SMILES."""
    return list(dict.fromkeys(SMILES + HOMOLOGUES))


def screened_drugs(count: int) -> list[str]:
    """The first molecules of the NCI's screening collection, which RDKit carries, as SMILES."""
    lines = (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines[:count]]


def write_csv(path: Path, smiles: list[str]) -> Path:
    """Write a CSV with the columns smiles and value."""
    path.write_text("smiles,value\n" + "".join(f"{s},{k / 10}\n" for k, s in enumerate(smiles)), encoding="utf-8")
    return path


def molstream(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command molstream in a separate process, as a user does."""
    result = subprocess.run(
        [sys.executable, "-m", "molstream.cli.main", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check:
        assert result.returncode == 0, result.stderr
    return result
