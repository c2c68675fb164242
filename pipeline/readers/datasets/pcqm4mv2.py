"""PCQM4Mv2 (OGB-LSC): 3.4 million molecules with the DFT geometry (B3LYP/6-31G*) of PubChemQC.

- ``pcqm4m-v2-train.sdf``: entry k has the positions (angstrom), hydrogens included, of row k of the table. It has the
  training set only, the first 3,378,606 of 3,746,620 rows.
- ``data.csv`` (or ``data.csv.gz``), beside it or in ``raw/``: ``idx``, ``smiles``, ``homolumogap``, the HOMO-LUMO gap
  in eV, empty for the two test sets.

A CSV file alone is read too: without geometry, or with that of CXSMILES in its column ``smiles``, as in the sample that
Graphium ships; there the gap is called ``homo``.
"""

from collections.abc import Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers import SOURCES
from molstream.pipeline.readers.base import Format
from molstream.pipeline.readers.datasets.join import joined
from molstream.pipeline.readers.delimited import column_names

GAP = "homolumogap"
NUM_TRAIN = 3_378_606
NUM_ALL = 3_746_620


def _companions(given: str) -> list[str]:
    folder = given.rpartition("/")[0]
    return [f"{folder}/{place}data.csv{ending}" for place in ("", "raw/") for ending in ("", ".gz")]


def _belong(entries: int, rows: int) -> bool:
    return entries == rows or (entries, rows) == (NUM_TRAIN, NUM_ALL)


def _join(streams: Sequence[BufferedReader], plain: Path) -> None:
    joined(streams, plain, "", _belong)


def _gap(config: ReadConfig, where: str, path: Path) -> ReadConfig:
    return replace(config, target_columns=list(config.target_columns) or [GAP])


def _gap_of_table(config: ReadConfig, where: str, path: Path) -> ReadConfig:
    gap = "homo" if GAP not in (names := column_names(path)) and "homo" in names else GAP
    targets = list(config.target_columns) or [gap]
    return replace(config, smiles_column=config.smiles_column or "smiles", target_columns=targets)


FORMATS: tuple[Format, ...] = (
    SOURCES["sdf"]._replace(companions=_companions, unpack=_join, configure=_gap),
    SOURCES["csv"]._replace(configure=_gap_of_table),
)
