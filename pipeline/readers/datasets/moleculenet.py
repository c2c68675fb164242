"""MoleculeNet's tasks as CSV files: which files hold them, and which columns are their targets.

The column names are those of two distributions: KANO's cleaned files and the original ones (DeepChem). SMILES are in
``smiles``, or in ``mol`` in the original file of BACE. Targets are 0 or 1, empty where unknown, but for ``esol`` (log10
of mol/l), ``freesolv`` (kcal/mol), ``lipo`` (log10 of the octanol/water distribution at pH 7.4), ``qm7`` (kcal/mol) and
``qm8`` (energies E in hartree, oscillator strengths f).
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from molstream.errors import ConfigError, DataError
from molstream.pipeline.config import ReadConfig
from molstream.pipeline.readers import SOURCES
from molstream.pipeline.readers.base import Format
from molstream.pipeline.readers.compression import COMPRESSIONS, compression
from molstream.pipeline.readers.delimited import column_names

SMILES = ("smiles", "mol")
NO_TARGETS = (*SMILES, "mol_id", "num", "name")
"""Columns that are no targets, in tasks whose targets are all other columns."""


class Task(NamedTuple):
    """A task: the names of its files without ending, and the target columns in each distribution."""

    stems: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...] = ()
    """Empty: all other columns are targets."""


TOX21 = (
    *("NR-AR", "NR-AR-LBD", "NR-AhR", "NR-Aromatase", "NR-ER", "NR-ER-LBD", "NR-PPAR-gamma"),
    *("SR-ARE", "SR-ATAD5", "SR-HSE", "SR-MMP", "SR-p53"),
)
QM8 = tuple(f"{value}-{method}" for method in ("CC2", "PBE0", "CAM") for value in ("E1", "E2", "f1", "f2"))

TASKS: dict[str, Task] = {
    "bace": Task(("bace",), (("Class",),)),
    "bbbp": Task(("bbbp", "BBBP"), (("p_np",),)),
    "clintox": Task(("clintox",), (("FDA_APPROVED", "CT_TOX"),)),
    "esol": Task(
        ("esol", "delaney-processed", "delaney"), (("logSolubility",), ("measured log solubility in mols per litre",))
    ),
    "freesolv": Task(("freesolv", "SAMPL"), (("freesolv",), ("expt",))),
    "hiv": Task(("hiv", "HIV"), (("HIV_active",),)),
    "lipo": Task(("lipo", "Lipophilicity", "lipophilicity"), (("lipo",), ("exp",))),
    "muv": Task(("muv",)),
    "qm7": Task(("qm7",), (("u0_atom",),)),
    "qm8": Task(("qm8",), (QM8,)),
    "sider": Task(("sider",)),
    "tox21": Task(("tox21",), (TOX21,)),
    "toxcast": Task(("toxcast", "toxcast_data")),
}


def benchmark_file(name: str, folder: Path) -> Path:
    """The file of a task in a folder.

    Raises:
        ConfigError: there is no such task, or no file of it in the folder.
    """
    if name not in TASKS:
        raise ConfigError(f"'{name}' is neither a file nor a MoleculeNet task; the tasks are {', '.join(TASKS)}.")
    wanted = [f"{stem}.csv{ending}" for stem in TASKS[name].stems for ending in ("", *COMPRESSIONS)]
    for candidate in wanted:
        if (folder / candidate).is_file():
            return folder / candidate
    raise ConfigError(
        f"benchmark_folder={folder} holds no file of the task '{name}': looked for {', '.join(wanted)}. Put one there, "
        "or name the file itself."
    )


def _columns(config: ReadConfig, where: str, path: Path) -> ReadConfig:
    name = where.rpartition("/")[2].lower()
    stem = name.removesuffix(compression(name)).removesuffix(".csv")
    task = next((task for task in TASKS.values() if stem in map(str.lower, task.stems)), None)
    if task is None:
        stems = ", ".join(stem for task in TASKS.values() for stem in task.stems)
        raise DataError(f"{where}: no MoleculeNet task is called so; expected a file named {stems}, or format=csv.")
    names = column_names(path)
    smiles = config.smiles_column or next((name for name in SMILES if name in names), SMILES[0])
    targets = list(config.target_columns)
    if not targets and not task.targets:
        targets = [name for name in names if name not in (*NO_TARGETS, smiles)]
    if not targets:
        targets = next((list(known) for known in task.targets if set(known) <= set(names)), [])
    if not targets:
        expected = " or ".join(", ".join(known) for known in task.targets)
        raise DataError(f"{where} has the columns {', '.join(names[:20])}; expected the targets {expected}.")
    return replace(config, smiles_column=smiles, target_columns=targets)


FORMATS: tuple[Format, ...] = (SOURCES["csv"]._replace(configure=_columns),)
