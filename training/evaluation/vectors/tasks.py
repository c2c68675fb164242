"""What is predicted: built-in sets, which are MoleculeNet's, and files of the user's own."""

import difflib
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from molstream.config import NEAR, load
from molstream.errors import ConfigError, DataError, in_words
from molstream.pipeline.config import InputConfig, ReadConfig
from molstream.pipeline.readers.datasets.moleculenet import TASKS
from molstream.pipeline.readers.prepare import open_sources
from molstream.pipeline.readers.split import cut, read_split
from molstream.preprocessing.fields import RawMolecule, Rejection
from molstream.training.evaluation.config import EvaluateVectorsConfig, TaskConfig
from molstream.training.evaluation.vectors.folds import FOLDS
from molstream.training.evaluation.vectors.heads import Kind

FEWEST = 20
"""Molecules with a known value that a target needs."""
ROWS_AT_A_TIME = 4096
MOST_NAMES = 8
"""Most columns or names that a message lists."""


class BuiltIn(NamedTuple):
    """A set that is known by name; its columns are those of :data:`moleculenet.TASKS`."""

    kind: Kind
    rows: int | None = None
    """So many rows are chosen of a larger file."""


BUILT_IN: dict[str, BuiltIn] = {
    "freesolv": BuiltIn("regression"),
    "esol": BuiltIn("regression"),
    "lipo": BuiltIn("regression"),
    "bbbp": BuiltIn("classification"),
    "bace": BuiltIn("classification"),
    "tox21": BuiltIn("classification"),
    "sider": BuiltIn("classification"),
    "clintox": BuiltIn("classification"),
    "qm7": BuiltIn("regression"),
    "hiv": BuiltIn("classification", 5000),
}
"""The built-in sets by name."""


@dataclass(frozen=True)
class Wanted:
    """A task before its file is read."""

    name: str
    """Name in the results."""
    input: Any
    """What names the files, see ``find_files``."""
    reading: ReadConfig
    """How they are read, with the columns of the targets; none for the known columns of a built-in set."""
    kind: Kind | None
    """What the targets are; None if their values decide."""
    rows: int | None = None
    """So many rows are chosen of a larger file."""


@dataclass(frozen=True)
class Task:
    """The records of a task and what is to be predicted for them."""

    name: str
    """Name in the results."""
    source: str
    """Names of the files."""
    kind: Kind
    """What the targets are."""
    targets: tuple[str, ...]
    """Names of the targets."""
    records: list[RawMolecule | Rejection]
    """The n records that are evaluated on, and why some cannot be read."""
    rows: np.ndarray
    """Their places in the whole input, int64 [n], ascending."""
    total: int
    """Number of records of the whole input."""
    labels: np.ndarray
    """float64 [n, t]; NaN if unknown."""


def wanted_tasks(config: EvaluateVectorsConfig) -> list[Wanted]:
    """List the tasks of a configuration.

    Raises:
        ConfigError: an unknown built-in set, one whose file is not in ``data_dir``, an impossible mapping, or a name
            that two tasks have.
    """
    shared = {each.name: getattr(config, each.name) for each in fields(InputConfig)}
    if config.input is not None:
        return [_own(TaskConfig(**shared, input=config.input, target=config.target, kind=config.kind))]
    found = [
        _built_in(item, config.data_dir)
        if isinstance(item, str)
        else _own(load(TaskConfig, {**shared, **item}, f"tasks[{number}]"))
        for number, item in enumerate(config.tasks)
    ]
    names = [each.name for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"tasks: two are called {', '.join(twice)}. Give each a name of its own, {{name: ..., ...}}.")
    return found


def _own(task: TaskConfig) -> Wanted:
    given = task.input["path"] if isinstance(task.input, dict) and "path" in task.input else task.input
    if not task.target:
        raise ConfigError(f"tasks: {given} has no target: give target: COLUMN, or a list of columns.")
    name = task.name or (Path(given).name.partition(".")[0] if isinstance(given, str) else "input")
    return Wanted(name, task.input, task.with_targets(task.target), None if task.kind == "auto" else task.kind)


def _built_in(name: str, data_dir: str | None) -> Wanted:
    if name not in BUILT_IN:
        near = difflib.get_close_matches(name, BUILT_IN, 1, NEAR)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise ConfigError(
            f"tasks: '{name}' is no built-in set. {hint}Choose of {', '.join(BUILT_IN)}; a file of your own is "
            "{input: FILE, target: COLUMN}."
        )
    if data_dir is None:
        raise ConfigError(f"data_dir is missing: give data_dir=FOLDER, which holds {name}.csv or {name}.csv.gz.")
    if (file := _file_of(name, Path(data_dir))) is None:
        there = [each for each in BUILT_IN if _file_of(each, Path(data_dir))]
        raise ConfigError(
            f"data_dir={data_dir}: neither {name}.csv nor {name}.csv.gz is in it; the sets that are there: "
            f"{', '.join(there) or 'none'}. Put the file there, or leave {name} out of tasks."
        )
    known = BUILT_IN[name]
    return Wanted(name, {"path": str(file)}, ReadConfig(format="moleculenet"), known.kind, known.rows)


def _file_of(name: str, folder: Path) -> Path | None:
    """The file of a built-in set, under any name that the adapter knows."""
    names = [f"{stem}.csv{ending}" for stem in TASKS[name].stems for ending in ("", ".gz")]
    return next((folder / each for each in names if (folder / each).is_file()), None)


# --- reading --------------------------------------------------------------------------------------------------------


def read_task(wanted: Wanted) -> Task:
    """Read the records and targets of a task.

    Raises:
        DataError: a file cannot be read or lacks a column, or a target is no number or cannot be evaluated.
        ConfigError: no such file, or an impossible option.
    """
    with tempfile.TemporaryDirectory() as work:
        splits = cut(open_sources(wanted.input, Path(work), wanted.reading), ROWS_AT_A_TIME)
        records = [record for split in splits for record in read_split(split)]
        targets = tuple(splits[0].layout.targets)
        source = ", ".join(dict.fromkeys(split.source for split in splits))
    for record in records:
        if isinstance(record, Rejection) and record.reason == "bad_target":
            raise DataError(
                f"{record.source}, row {record.row}, cannot be evaluated: bad_target: {in_words(record.detail)}. Mend "
                "or remove the row, or name another target."
            )
    nothing = (np.nan,) * len(targets)
    labels = np.array([each.targets if isinstance(each, RawMolecule) else nothing for each in records], np.float64)
    kind = wanted.kind or _kind_of(source, targets, labels)
    rows = np.arange(len(records))
    if wanted.rows is not None and len(records) > wanted.rows:
        rows = chosen(records, labels, wanted.rows)
    task = Task(wanted.name, source, kind, targets, [records[row] for row in rows], rows, len(records), labels[rows])
    require_usable(task, task.labels, "rows")
    return task


def _kind_of(source: str, targets: Sequence[str], labels: np.ndarray) -> Kind:
    """Tell classes from numbers: classes if every known value is 0 or 1.

    Raises:
        DataError: some targets are classes, and others are not.
    """
    binary = [bool(np.isin(column[np.isfinite(column)], (0, 1)).all()) for column in labels.T]
    if all(binary):
        return "classification"
    if any(binary):
        names = _named(name for name, is_binary in zip(targets, binary) if is_binary)
        raise DataError(
            f"{source}: every known value of {names} is 0 or 1, those of other targets are not. Evaluate the two kinds "
            "as two tasks, or give kind=regression."
        )
    return "regression"


def require_usable(task: Task, labels: np.ndarray, unit: str) -> None:
    """Check that every target can be cross-validated.

    Args:
        task: which names the targets.
        labels: [m, t], of the rows or molecules in question.
        unit: what the rows of ``labels`` are, in the plural.

    Raises:
        DataError: a target has too few known values, one value alone, too few of a class, or other values than classes.
    """
    for name, column in zip(task.targets, labels.T, strict=True):
        known = column[np.isfinite(column)]
        where = f"{task.source}: target '{name}'"
        advice = "Name another target, or leave it out."
        if not len(known):
            raise DataError(f"{where} has no known value in {len(column)} {unit}. {advice}")
        if len(known) < FEWEST:
            raise DataError(
                f"{where} is known for {len(known)} {unit}: {FOLDS}-fold cross-validation needs at least {FEWEST}. "
                "Add molecules."
            )
        if task.kind == "classification":
            if len(others := known[~np.isin(known, (0, 1))]):
                raise DataError(
                    f"{where} has the value {others[0]:g}: expected 0 or 1, or nothing where it is unknown. Give "
                    "kind=regression, or mend the column."
                )
            if (fewest := int(min((known == 0).sum(), (known == 1).sum()))) < FOLDS:
                raise DataError(
                    f"{where} has {int((known == 0).sum())} {unit} of class 0 and {int((known == 1).sum())} of class "
                    f"1: {FOLDS}-fold cross-validation needs at least {FOLDS} of each, got {fewest}. {advice}"
                )
        elif np.ptp(known) == 0:
            raise DataError(f"{where} is {known[0]:g} in all {len(known)} {unit} where it is known. {advice}")


def chosen(records: Sequence[RawMolecule | Rejection], labels: np.ndarray, count: int) -> np.ndarray:
    """Choose ``count`` rows, int64 ascending, with the classes of the first target in their proportions.

    The choice is one of the molecules' texts, the same for all seeds and orders of the rows.
    """
    texts = [record.text for record in records]
    order = np.argsort([hashlib.sha256(text.encode()).hexdigest() for text in texts], kind="stable")
    positive = labels[order, 0] == 1
    share = round(count * positive.mean())
    return np.sort(np.concatenate([order[positive][:share], order[~positive][: count - share]]))


def without(task: Task, kept: np.ndarray) -> Task:
    """The task of some of its records alone.

    Args:
        kept: bool [n].
    """
    places = np.flatnonzero(kept)
    return replace(task, records=[task.records[k] for k in places], rows=task.rows[kept], labels=task.labels[kept])


def _named(names: Any) -> str:
    each = [f"'{name}'" for name in names]
    return ", ".join([*each[:MOST_NAMES], *(["..."] if len(each) > MOST_NAMES else [])])
