"""Golden records: the reviewed results of the featurizer for 24 molecules.

Regenerate them with ``python -m tests.support.golden_records`` and review the diff of ``tests/golden/records.json``.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import rdkit

from molstream.preprocessing.config import FeaturizeConfig
from molstream.preprocessing.fields import ConformerStatus, MoleculeSample
from tests.support.diverse import DIVERSE, sample

PATH = Path(__file__).resolve().parents[1] / "golden" / "records.json"


def records() -> dict[str, Any]:
    """Compute the golden records of :data:`DIVERSE`: graphs as hashes, geometry as rounded numbers."""
    config = FeaturizeConfig()
    molecules = {name: _record(text, sample(text, config)) for name, text in DIVERSE.items()}
    return {"rdkit": rdkit.__version__, "molecules": molecules}


def _record(text: str, stored: MoleculeSample) -> dict[str, Any]:
    return {
        "input": text,
        "graph": {
            "key": stored.key,
            "smiles": stored.smiles,
            "atoms": stored.num_atoms,
            "bonds": stored.bond_index.shape[1],
            "atomic_numbers": (stored.atom_features[:, 0] + 1).tolist(),
            "atom_features": _hash(stored.atom_features),
            "bond_index": _hash(stored.bond_index),
            "bond_features": _hash(stored.bond_features),
        },
        "geometry": {
            "status": ConformerStatus(stored.conformer_status).name,
            "energy": [None if np.isnan(energy) else round(float(energy), 2) for energy in stored.conformer_energy],
            "radius_of_gyration": [round(float(np.sqrt((p**2).sum(-1).mean())), 3) for p in stored.positions],
        },
    }


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    PATH.write_text(json.dumps(records(), indent=1) + "\n")
