"""Splits an npz file of QM9 at random into a training file and a held-out file.

A molecule can occur twice in QM9, so the held-out SMILES are written to a third file, for ``decontaminate``:

    python benchmarks/split_qm9.py qm9_dev_60k.npz train.npz held_out.npz [--held-out 5000] [--seed 0]
    molstream preprocess input=train.npz format=qm9_npz output=qm9/train decontaminate=[held_out.smi]
    molstream preprocess input=held_out.npz format=qm9_npz output=qm9/held_out
"""

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    """Write both files, with the arrays of the input (see ``pipeline/readers/datasets/qm9_npz.py``)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--held-out", type=int, default=5_000, dest="count", help="molecules in the second file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with np.load(options.input, allow_pickle=False) as file:
        arrays = dict(file)
    molecules, smiles = len(arrays["n_atoms"]), np.array(str(arrays["smiles"]).split("\n"))
    order = np.random.default_rng(options.seed).permutation(molecules)
    of_atoms = np.repeat(np.arange(molecules), arrays["n_atoms"])
    for path, chosen in (
        (options.train, np.sort(order[options.count :])),
        (options.held_out, np.sort(order[: options.count])),
    ):
        atoms = np.isin(of_atoms, chosen)
        np.savez_compressed(
            path,
            n_atoms=arrays["n_atoms"][chosen],
            Z=arrays["Z"][atoms],
            pos=arrays["pos"][atoms],
            smiles=np.array("\n".join(smiles[chosen])),
            targets=arrays["targets"][chosen],
            target_names=arrays["target_names"],
        )
        print(f"{path}: {len(chosen)} molecules, {atoms.sum()} atoms")
    options.held_out.with_suffix(".smi").write_text("".join(f"{text}\n" for text in smiles[chosen]))


if __name__ == "__main__":
    main()
