"""GEOM (Axelrod & Gomez-Bombarelli, 2022): conformers of drug-like molecules by CREST, energies by GFN2-xTB.

``drugs_crude.msgpack`` and ``qm9_crude.msgpack`` are streams of msgpack maps, each of many molecules:
``{smiles: molecule}``. A molecule is a map with ``conformers``, ``charge`` (e) and numbers such as ``lowestenergy``
(hartree), ``ensembleenergy`` and ``ensemblefreeenergy`` (kcal/mol), which ``target_columns`` may name. A conformer is a
map with ``xyz``, n rows of atomic number and x, y, z in angstrom; ``totalenergy`` (hartree); ``relativeenergy``
(kcal/mol above the lowest of the molecule), which becomes its energy; ``boltzmannweight`` and more.

The ``max_conformers`` of lowest energy are read.
"""

import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import msgpack

from molstream.errors import DataError
from molstream.pipeline.readers.base import Format, Layout, Molecule, RefusedError, by_bytes, geometry, target
from molstream.pipeline.readers.text import named_targets

MAX_MOLECULE_BYTES = (1 << 31) - 1
"""Most bytes of a molecule with all its conformers; real ones have some hundred megabytes at most."""


def _molecules(file: BinaryIO, layout: Layout) -> Iterator[bytes]:
    """Records of one SMILES and its molecule each; the head of a map belongs to the first record in it."""
    base, descriptor = file.tell(), file.fileno()
    unpacker = _unpacker(file)
    start = 0
    while True:
        try:
            while _is_map(os.pread(descriptor, 1, base + unpacker.tell())):
                unpacker.read_map_header()
            unpacker.skip()
            unpacker.skip()
        except msgpack.OutOfData:
            # The remaining bytes are a molecule that is cut short.
            if rest := os.pread(descriptor, MAX_MOLECULE_BYTES, base + start):
                yield rest
            return
        except (msgpack.UnpackException, ValueError) as error:
            raise DataError(
                f"{file.name} is damaged, or not as GEOM's files, at byte {base + start}: {error}"
            ) from error
        end = unpacker.tell()
        yield os.pread(descriptor, end - start, base + start)
        start = end


def _unpacker(file: BinaryIO | None = None) -> msgpack.Unpacker:
    return msgpack.Unpacker(file, strict_map_key=False, max_buffer_size=MAX_MOLECULE_BYTES)


def _is_map(head: bytes) -> bool:
    """Whether a msgpack value with this first byte is a map."""
    return bool(head) and (0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF))


def _parse(record: bytes, layout: Layout) -> Molecule:
    unpacker = _unpacker()
    unpacker.feed(record)
    smiles: Any = "<a molecule that is cut short>"
    try:
        while _is_map(record[unpacker.tell() : unpacker.tell() + 1]):
            unpacker.read_map_header()
        smiles = unpacker.unpack()
        molecule = unpacker.unpack()
        return _molecule(str(smiles), molecule, layout)
    except (msgpack.UnpackException, LookupError, TypeError, ValueError) as error:
        raise RefusedError(
            "malformed_row", f"not as GEOM's molecules: {type(error).__name__} {error}".rstrip(), str(smiles)
        ) from error


def _molecule(smiles: str, molecule: dict[str, Any], layout: Layout) -> Molecule:
    conformers = sorted(molecule["conformers"], key=lambda c: c["relativeenergy"])[: layout.max_conformers]
    numbers = [int(atom[0]) for atom in conformers[0]["xyz"]]
    if any([int(atom[0]) for atom in conformer["xyz"]] != numbers for conformer in conformers):
        raise ValueError("conformers of different atoms")
    text = geometry(
        {
            "smiles": smiles,
            "charge": molecule.get("charge") or None,
            "numbers": numbers,
            "positions": [[list(map(float, atom[1:4])) for atom in conformer["xyz"]] for conformer in conformers],
            "energies": [float(conformer["relativeenergy"]) for conformer in conformers],
        }
    )
    return Molecule(text, "geometry", tuple(target(molecule.get(name)) for name in layout.targets))


FORMATS: tuple[Format, ...] = (Format((".msgpack",), named_targets, by_bytes(_molecules), _parse),)
