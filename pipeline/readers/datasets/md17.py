"""MD17 and rMD17: molecular dynamics of one small molecule, every frame with its energy and forces.

Arrays of the npz file, in MD17 and, in brackets, in rMD17: ``R`` (``coords``) [T, n, 3] positions in angstrom, ``E``
(``energies``) [T] or [T, 1] in kcal/mol, ``F`` (``forces``) [T, n, 3] in kcal/mol/angstrom, ``z`` (``nuclear_charges``)
[n] atomic numbers, the same for all T frames. PBE+vdW-TS in MD17, PBE/def2-SVP in rMD17. No SMILES, no targets.

Every frame is a record. All are one molecule, so that ``duplicates=none`` is needed to keep more than the first.
"""

from pathlib import Path

import numpy as np

from molstream.errors import DataError
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers.base import Batches, Format, Layout, Molecule, Place, RefusedError, geometry
from molstream.pipeline.readers.datasets.npz import Array, arrays, is_stored, unpack

NAMES = (("R", "coords"), ("F", "forces"), ("E", "energies"), ("z", "nuclear_charges"))

BATCH_FRAMES = 1024


def _arrays(where: str, path: Path) -> list[Array]:
    """The arrays of a file: positions, forces, energies, atomic numbers.

    Raises:
        DataError: one is missing, or their shapes do not fit together.
    """
    found = arrays(where, path)
    chosen = [next((found[name] for name in names if name in found), None) for names in NAMES]
    wanted = ", ".join(f"{one} or {other}" for one, other in NAMES)
    if any(array is None for array in chosen):
        raise DataError(f"{where} has the arrays {', '.join(found)}; expected {wanted}.")
    positions, forces, energies, numbers = result = [array for array in chosen if array is not None]
    frames, atoms = (*positions.shape, 0, 0)[:2]
    fits = positions.shape == forces.shape == (frames, atoms, 3) and numbers.shape == (atoms,)
    if not fits or energies.shape not in ((frames,), (frames, 1)):
        shapes = ", ".join(str(list(array.shape)) for array in result)
        raise DataError(f"{where}: the arrays {wanted} have the shapes {shapes}, which do not fit together.")
    return result


def _layout(where: str, path: Path, config: ReadConfig) -> Layout:
    _arrays(where, path)
    if config.target_columns:
        raise DataError(
            f"{where} has no column '{config.target_columns[0]}' (target_columns): energies and forces are stored as "
            "such."
        )
    return Layout()


def _batches(path: str, layout: Layout, place: Place, rows: int) -> Batches:
    """Frames, each as its atomic numbers (uint8), positions, forces and energy (float64)."""
    positions, forces, energies, numbers = _arrays(path, Path(path))
    atoms = numbers.rows().astype(np.uint8).tobytes()
    for begin in range(sum(place), positions.shape[0], batch := min(rows, BATCH_FRAMES)):
        values = [array.rows(begin, begin + batch).astype("<f8") for array in (positions, forces, energies)]
        packed = np.concatenate([value.reshape(len(value), -1) for value in values], axis=1)
        yield Place(begin), [atoms + row.tobytes() for row in packed]


def _parse(record: bytes, layout: Layout) -> Molecule:
    atoms = (len(record) - 8) // (1 + 2 * 3 * 8)
    values = np.frombuffer(record, "<f8", offset=atoms)
    positions, forces = values[:-1].reshape(2, 1, atoms, 3)
    text = geometry(
        {
            "numbers": list(record[:atoms]),
            "positions": positions.tolist(),
            "energies": [float(values[-1])],
            "forces": forces.tolist(),
        }
    )
    if not np.isfinite(values).all():
        raise RefusedError("malformed_row", "positions, energy or forces are not all finite", text)
    return Molecule(text, "geometry", ())


FORMATS: tuple[Format, ...] = (Format((".npz",), _layout, _batches, _parse, is_stored, unpack),)
