"""QM9 as arrays: 60,000 molecules in one npz file, B3LYP/6-31G(2df,p).

Arrays, for M molecules with N atoms in all: ``n_atoms`` [M]; ``Z`` [N] atomic numbers and ``pos`` [N, 3] positions in
angstrom, hydrogens included, one molecule after the other; ``smiles``, one text with a line per molecule; ``targets``
[M, t], whose columns ``target_names`` [t] names with their units. All of them are targets by default.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from molstream.errors import DataError
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.base import Batches, Format, Layout, Molecule, Place, geometry, target
from molstream.pipeline.readers.datasets.npz import Array, arrays, is_stored, unpack
from molstream.pipeline.readers.delimited import column_of

NAMES = ("n_atoms", "Z", "pos", "smiles", "targets", "target_names")

BATCH_MOLECULES = 1024


def _arrays(where: str, path: Path) -> dict[str, Array]:
    found = arrays(where, path)
    if missing := [name for name in NAMES if name not in found]:
        raise DataError(f"{where} lacks {', '.join(missing)} among its arrays ({', '.join(found)}).")
    molecules, atoms = found["n_atoms"].shape, found["Z"].shape
    expected = {"pos": (*atoms, 3), "smiles": (), "targets": (*molecules, *found["target_names"].shape)}
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise DataError(f"{where}: {name} has the shape {list(found[name].shape)}, expected {list(shape)}.")
    return found


def _layout(where: str, path: Path, config: ReadConfig) -> Layout:
    found = _arrays(where, path)
    names = found["target_names"].rows().tolist()
    columns = tuple(column_of(where, names, name, "target") for name in config.target_columns)
    counts = (found["n_atoms"].shape[0], len(_smiles(found)))
    if counts[0] != counts[1] or found["n_atoms"].rows().sum(dtype=np.int64) != found["Z"].shape[0]:
        raise DataError(
            f"{where}: n_atoms tells of {counts[0]} molecules, smiles has {counts[1]} lines, Z has "
            f"{found['Z'].shape[0]} atoms: they do not fit together."
        )
    return Layout(columns=columns, targets=tuple(config.target_columns))


def _smiles(found: dict[str, Array]) -> list[str]:
    return str(found["smiles"].rows()).split("\n")


def _batches(path: str, layout: Layout, place: Place, rows: int) -> Batches:
    """Molecules, each as targets (float64), positions (float32), atomic numbers (uint8) and, last, SMILES.

    The length of the SMILES is in the first four bytes, so that the number of atoms follows.
    """
    found = _arrays(path, Path(path))
    smiles = [line.encode() for line in _smiles(found)]
    ends = np.cumsum(found["n_atoms"].rows(), dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    for begin in range(sum(place), len(smiles), batch := min(rows, BATCH_MOLECULES)):
        end = min(begin + batch, len(smiles))
        base = starts[begin]
        numbers = found["Z"].rows(base, ends[end - 1]).astype(np.uint8)
        positions = found["pos"].rows(base, ends[end - 1]).astype("<f4")
        targets = found["targets"].rows(begin, end).astype("<f8")[:, list(layout.columns)]
        records: list[bytes] = []
        for k in range(begin, end):
            atoms = slice(starts[k] - base, ends[k] - base)
            size = len(smiles[k]).to_bytes(4, "little")
            values = targets[k - begin].tobytes() + positions[atoms].tobytes()
            records.append(size + values + numbers[atoms].tobytes() + smiles[k])
        yield Place(begin), records


def _parse(record: bytes, layout: Layout) -> Molecule:
    end = len(record) - int.from_bytes(record[:4], "little")
    behind = 4 + 8 * len(layout.columns)
    atoms = (end - behind) // (3 * 4 + 1)
    targets = tuple(map(target, np.frombuffer(record[4:behind], "<f8").tolist()))
    positions = np.frombuffer(record[behind : end - atoms], "<f4").reshape(1, atoms, 3)
    smiles = record[end:].decode().strip()
    content = {"smiles": smiles, "numbers": list(record[end - atoms : end]), "positions": positions.tolist()}
    return Molecule(geometry(content), "geometry", targets)


def _all_targets(config: ReadConfig, where: str, path: Path) -> ReadConfig:
    names = _arrays(where, path)["target_names"].rows().tolist()
    return replace(config, target_columns=list(config.target_columns) or names)


FORMATS: tuple[Format, ...] = (Format((".npz",), _layout, _batches, _parse, is_stored, unpack, configure=_all_targets),)
