"""QM9 (GDB-9) as MoleculeNet distributes it: 133,885 molecules of up to nine heavy atoms, B3LYP/6-31G(2df,p).

- ``gdb9.sdf``: positions in angstrom, hydrogens included; the title of entry k is ``gdb_<k+1>``.
- ``gdb9.sdf.csv`` beside it, row by row: ``mol_id`` (the title), rotational constants ``A``, ``B``, ``C`` (GHz), ``mu``
  (debye), ``alpha`` (bohr^3), ``homo``, ``lumo``, ``gap`` (hartree), ``r2`` (bohr^2), ``zpve`` and the energies ``u0``,
  ``u298``, ``h298``, ``g298`` (hartree), ``cv`` (cal/mol/K), and the atomization energies ``u0_atom``, ``u298_atom``,
  ``h298_atom``, ``g298_atom`` (kcal/mol).

All columns but ``mol_id`` are targets by default, in these units. A table without ``mol_id`` is joined by order alone.
DeepChem's sample ``gdb1k.sdf`` cannot be joined: its table lacks the nine of 1,000 entries that RDKit refuses, and only
chemistry can tell which.
"""

from collections.abc import Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers import SOURCES
from molstream.pipeline.readers.base import Format
from molstream.pipeline.readers.compression import compression
from molstream.pipeline.readers.datasets.join import item_names, joined

TITLE = "mol_id"


def _companions(given: str) -> list[str]:
    plain = given.removesuffix(compression(given))
    return [f"{plain}.csv{ending}" for ending in ("", ".gz")]


def _join(streams: Sequence[BufferedReader], plain: Path) -> None:
    joined(streams, plain, TITLE, int.__eq__)


def _all_columns(config: ReadConfig, where: str, path: Path) -> ReadConfig:
    targets = list(config.target_columns) or [name for name in item_names(path) if name != TITLE]
    return replace(config, target_columns=targets)


FORMATS: tuple[Format, ...] = (SOURCES["sdf"]._replace(companions=_companions, unpack=_join, configure=_all_columns),)
