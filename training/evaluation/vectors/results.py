"""What people read of an evaluation of vectors: tables and sentences, which its JSON holds as well."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from molstream.io.reading import AnyNumber
from molstream.training.evaluation.vectors.features import UNTRAINED
from molstream.training.evaluation.vectors.scores import METRICS, TITLES
from molstream.training.evaluation.vectors.statistics import shown

MEAN = "mean"
"""Stands for the mean over tasks."""
SHOWN = {
    "folding": str,
    "table": {"columns": [str], "rows": [{"representation": str, "cells": [str]}]},
    "sentences": [str],
    "compared": [
        {"task": str, "metric": str, "representation": str, "mean": AnyNumber, "low": AnyNumber, "high": AnyNumber}
    ],
}
RESULT = {"evaluation": str, "composition": [str], "foldings": [SHOWN]}
"""What tables and reports need of the JSON."""


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """One table for the terminal for each way of folding."""
    for folding in result["foldings"]:
        table = Table(title=f"{folding['folding']} folds: mean over 5 x 5 folds ± half of the 95 % interval")
        table.add_column("representation")
        for title in folding["table"]["columns"]:
            table.add_column(title, justify="right")
        for row in folding["table"]["rows"]:
            table.add_row(row["representation"], *row["cells"])
        yield table


def grid(tasks: Sequence[Mapping[str, Any]], folding: Mapping[str, Any]) -> dict[str, Any]:
    """The columns and cells of a table: all metrics of one task, or the compared metric of several and their mean.

    Args:
        tasks: what the tasks consist of.
        folding: scores in one way of folding, in the order of the tasks.
    """
    if len(tasks) == 1:
        metrics = list(METRICS[tasks[0]["kind"]])
        columns = [TITLES[metric] for metric in metrics]
        rows = {
            score["representation"]: [score[metric] for metric in metrics] for score in folding["tasks"][0]["scores"]
        }
    else:
        columns = [*(f"{task['name']} {TITLES[task['metric']]}" for task in tasks), MEAN]
        rows = {mean["representation"]: [] for mean in folding[MEAN]}
        for task, found in zip(tasks, folding["tasks"], strict=True):
            for score in found["scores"]:
                rows[score["representation"]].append(score[task["metric"]])
        for mean in folding[MEAN]:
            rows[mean["representation"]].append(mean)
    return {
        "columns": columns,
        "rows": [{"representation": name, "cells": list(map(_cell, cells))} for name, cells in rows.items()],
    }


def _cell(estimate: Mapping[str, float]) -> str:
    return shown(estimate["mean"], estimate["low"], estimate["high"])


def compared_scores(tasks: Sequence[Mapping[str, Any]], folding: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The compared metric of every task and representation, and the means over several tasks, in one list."""

    def entry(task: str, metric: str, name: str, estimate: Mapping[str, float]) -> dict[str, Any]:
        return {
            "task": task,
            "metric": metric,
            "representation": name,
            **{k: estimate[k] for k in ("mean", "low", "high")},
        }

    found = [
        entry(task["name"], TITLES[task["metric"]], score["representation"], score[task["metric"]])
        for task, scored in zip(tasks, folding["tasks"], strict=True)
        for score in scored["scores"]
    ]
    means = folding[MEAN] if len(tasks) > 1 else []
    return found + [entry(MEAN, " and ".join(_metrics(tasks)), each["representation"], each) for each in means]


def _metrics(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(TITLES[task["metric"]] for task in tasks))


def sentences(tasks: Sequence[Mapping[str, Any]], folding: Mapping[str, Any]) -> list[str]:
    """A sentence for each comparison, and one for the spread of the untrained encoders on each task."""
    mean = f"mean of {' and '.join(_metrics(tasks))}"
    found = [
        f"{mean if each['task'] is None else each['task'] + ', ' + TITLES[each['metric']]}: {each['representation']} "
        f"against {each['against']}: {each['verdict']}."
        for each in folding["comparisons"]
    ]
    for task in folding["tasks"]:
        seeds = next(score["by_seed"] for score in task["scores"] if score["representation"] == UNTRAINED)
        if len(seeds) > 1:
            found.append(f"{task['task']}: single untrained encoders have {', '.join(f'{x:.3f}' for x in seeds)}.")
    return found


def composition(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence about each task: what was evaluated, and what was left out."""
    return [
        f"{task['name']}: {_targets(task)}; {task['molecules']:,} molecules of {task['rows']:,} rows of "
        f"{task['source']}{_chosen(task)}, {task['duplicates']:,} of them duplicates of others."
        for task in tasks
    ]


def _targets(task: Mapping[str, Any]) -> str:
    names = [target["name"] for target in task["targets"]]
    what = f"{task['kind']} of {names[0]}" if len(names) == 1 else f"{task['kind']} of {len(names)} targets"
    return f"{what}, {task['missing_labels']:,} values unknown" if task["missing_labels"] else what


def _chosen(task: Mapping[str, Any]) -> str:
    return f" (chosen of {task['file_rows']:,})" if task["file_rows"] > task["rows"] else ""
