"""MoleculeNet: its tasks by name, and the files that people keep them in."""

from pathlib import Path

from preprocessing.errors import ConfigError

FILES: dict[str, tuple[str, ...]] = {
    "bace": ("bace",),
    "bbbp": ("bbbp", "BBBP"),
    "clintox": ("clintox",),
    "esol": ("esol", "delaney-processed", "delaney"),
    "freesolv": ("freesolv", "SAMPL"),
    "hiv": ("hiv", "HIV"),
    "lipo": ("lipo", "Lipophilicity", "lipophilicity"),
    "muv": ("muv",),
    "qm7": ("qm7",),
    "qm8": ("qm8",),
    "sider": ("sider",),
    "tox21": ("tox21",),
    "toxcast": ("toxcast", "toxcast_data"),
}
"""For every task, the names of its file, without ``.csv`` and a compression, that are in circulation."""

ENDINGS = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz")


def benchmark_file(name: str, folder: Path) -> Path:
    """The file of a task in a folder.

    Raises:
        ConfigError: there is no such task, or no file of it in the folder.
    """
    if name not in FILES:
        raise ConfigError(f"'{name}' is neither a file nor a MoleculeNet task; the tasks are {', '.join(FILES)}.")
    wanted = [f"{stem}{ending}" for stem in FILES[name] for ending in ENDINGS]
    for candidate in wanted:
        if (folder / candidate).is_file():
            return folder / candidate
    raise ConfigError(
        f"benchmark_folder={folder} holds no file of the task '{name}': looked for {', '.join(wanted)}. Put one there, "
        "or name the file itself."
    )
