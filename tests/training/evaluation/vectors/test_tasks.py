"""Tasks: the built-in sets as they are distributed, files of the user's own, and errors that name what is wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from molstream.errors import ConfigError, DataError
from molstream.preprocessing.fields import RawMolecule
from molstream.training.evaluation.config import EvaluateVectorsConfig
from molstream.training.evaluation.vectors.tasks import BUILT_IN, Task, chosen, read_task, wanted_tasks


def read(**settings: object) -> Task:
    """The one task of a configuration."""
    [wanted] = wanted_tasks(EvaluateVectorsConfig(export="export", **settings))
    return read_task(wanted)


def table(folder: Path, *columns: list[object]) -> str:
    """A CSV of 30 alkanes with columns a, b, ..."""
    names = "abc"[: len(columns)]
    rows = [f"{'C' * (k + 1)},{','.join(str(column[k % len(column)]) for column in columns)}" for k in range(30)]
    (folder / "file.csv").write_text("\n".join([f"smiles,{','.join(names)}", *rows]) + "\n")
    return str(folder / "file.csv")


def test_zeros_and_ones_are_classes_and_unknown_values_are_nan(tmp_path):
    file = table(tmp_path, [0, 1, ""], [0.5, 2, 3], ["", 1, 0])
    classes = read(input=file, target=["a", "c"])
    assert (classes.name, classes.kind, classes.targets) == ("file", "classification", ("a", "c"))
    assert np.isnan(classes.labels).sum(0).tolist() == [10, 10]
    assert read(input=file, target=["b"]).kind == "regression"
    assert read(input=file, target=["a"], kind="regression").kind == "regression"
    own = {"name": "mine", "input": file, "target": "b", "smiles_column": "smiles"}
    assert read(tasks=[own]).name == "mine"


def some(count: int, value: object) -> list[object]:
    """Unknown values but for so many known ones."""
    return [value if k < count else "" for k in range(30)]


@pytest.mark.parametrize(
    ("columns", "target", "parts"),
    [
        ([[0.5, 1.5]], ["z"], ("file.csv has no column 'z'", "smiles, a")),
        ([[""]], ["a"], ("file.csv: target 'a' has no known value in 30 rows",)),
        ([[2.5]], ["a"], ("target 'a' is 2.5 in all 30 rows",)),
        ([["high", "low"]], ["a"], ("file.csv, row 0,", "'high' is not a number")),
        ([some(12, 1.5)], ["a"], ("target 'a' is known for 12 rows", "at least 20")),
        ([[*[1] * 3, *[0] * 27]], ["a"], ("27 rows of class 0 and 3 of class 1", "at least 5 of each")),
        ([[0, 1], [0.5, 1]], ["a", "b"], ("every known value of 'a' is 0 or 1", "two tasks")),
    ],
)
def test_a_target_that_cannot_be_evaluated_is_named(tmp_path, columns, target, parts):
    with pytest.raises(DataError) as caught:
        read(input=table(tmp_path, *columns), target=target)
    for part in parts:
        assert part in str(caught.value)


def test_other_values_than_classes_are_named(tmp_path):
    with pytest.raises(DataError, match=r"target 'a' has the value 2: expected 0 or 1"):
        read(input=table(tmp_path, [0, 1, 2]), target=["a"], kind="classification")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give either tasks"),
        ({"tasks": ["esol"], "input": "a.csv"}, "give either tasks"),
        ({"input": "a.csv"}, "target is missing"),
        ({"tasks": ["esol"], "target": ["a"]}, "target and kind belong to input"),
        ({"tasks": ["esl"]}, r"'esl' is no built-in set. Did you mean 'esol'\?"),
        ({"tasks": ["esol"]}, "data_dir is missing"),
        ({"tasks": ["esol"], "data_dir": "HERE"}, r"neither esol.csv nor esol.csv.gz .* that are there: lipo, bbbp"),
        ({"tasks": ["lipo", "lipo"], "data_dir": "HERE"}, "two are called lipo"),
        ({"tasks": [{"input": "a.csv", "target": []}]}, "tasks: a.csv has no target"),
        ({"tasks": [{"input": "a.csv"}]}, r"tasks\[0\]: the key 'target' is missing"),
        ({"tasks": [{"input": "a.csv", "target": "a", "knd": "auto"}]}, "unknown key 'knd'. Did you mean 'kind'"),
    ],
)
def test_a_task_that_is_not_there_is_named(tmp_path, settings, message):
    (tmp_path / "lipo.csv").touch()
    (tmp_path / "bbbp.csv.gz").touch()
    settings = {key: str(tmp_path) if value == "HERE" else value for key, value in settings.items()}
    with pytest.raises(ConfigError, match=message):
        wanted_tasks(EvaluateVectorsConfig(export="export", **settings))


def test_a_choice_of_rows_keeps_the_classes_and_does_not_depend_on_the_order():
    labels = np.array([[float(k % 10 == 0)] for k in range(1000)])
    records = [RawMolecule(f"{k}", "smiles", "", k) for k in range(1000)]
    rows = chosen(records, labels, 200)
    assert (np.diff(rows) > 0).all()
    assert labels[rows].sum() == 20
    order = np.random.default_rng(0).permutation(1000)
    again = chosen([records[k] for k in order], labels[order], 200)
    assert sorted(order[again]) == rows.tolist()


SIZES = {
    "freesolv": (642, 1),
    "esol": (1128, 1),
    "lipo": (4200, 1),
    "bbbp": (2039, 1),
    "bace": (1513, 1),
    "tox21": (7831, 12),
    "sider": (1427, 27),
    "clintox": (1478, 2),
    "qm7": (6830, 1),
    "hiv": (5000, 1),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_set_is_read_as_it_is_distributed(shared_data, name):
    task = read(tasks=[name], data_dir=str(shared_data / "moleculenet" / "kano"))
    assert (task.name, *task.labels.shape) == (name, *SIZES[name])
    assert task.kind == BUILT_IN[name].kind
    assert np.isin(task.labels[np.isfinite(task.labels)], (0, 1)).all() == (task.kind == "classification")


def test_a_compressed_file_is_found_by_its_name(tmp_path):
    rows = "".join(f"{'C' * (k + 1)},{k}\n" for k in range(30))
    (tmp_path / "freesolv.csv.gz").write_bytes(gzip.compress(f"smiles,freesolv\n{rows}".encode()))
    assert read(tasks=["freesolv"], data_dir=str(tmp_path)).total == 30
