"""``molstream evaluate vectors``: runs the evaluation, and describes it for JSON."""

import hashlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from molstream.errors import ConfigError
from molstream.training.checkpoint.exported import FILES, WEIGHTS_FILE
from molstream.training.evaluation.config import EvaluateVectorsConfig
from molstream.training.evaluation.vectors.features import (
    DESCRIPTORS,
    ECFP4,
    ENCODER,
    UNTRAINED,
    Molecules,
    joined,
    read_vectors,
    represent,
)
from molstream.training.evaluation.vectors.results import compared_scores, composition, grid, sentences
from molstream.training.evaluation.vectors.scores import METRICS, Scores, compared, cross_validate, fits
from molstream.training.evaluation.vectors.statistics import Estimate, over_seeds, verdict
from molstream.training.evaluation.vectors.tasks import Task, Wanted, read_task, wanted_tasks
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.metrics.console import progress

OWN_FILES = (".parquet", ".npy")
"""Endings of files with vectors of other encoders."""
PACKAGES = ("molstream", "rdkit", "torch", "numpy", "scipy", "scikit-learn")


def evaluate_vectors(config: EvaluateVectorsConfig) -> dict[str, Any]:
    """Evaluate the vectors of an export or run, and what they are compared with, on every task.

    Returns:
        Everything about it, as JSON can hold it.

    Raises:
        ConfigError: an unknown set, or one without its file; or vectors of other encoders that are not there.
        DataError: a file cannot be read, or its targets cannot be evaluated.
        CheckpointError: ``export`` is neither an export nor a run.
    """
    wanted = wanted_tasks(config)
    files = _files(config.vectors, wanted)
    embedder = MoleculeEmbedder.from_pretrained(
        config.export,
        revision=config.revision,
        representation=config.representation,
        readout=config.readout,
        num_layers=config.num_layers,
        n_jobs=config.num_cpus or -1,
        deadline_s=config.sandbox.deadline_s,
        memory_mib=config.sandbox.memory_mib,
    )
    seeds = [config.seed + number for number in range(config.untrained_seeds)]
    untrained = [embedder.untrained(seed) for seed in seeds]
    processes = config.num_cpus or len(os.sched_getaffinity(0))
    # All files are read before the first molecule is featurized, which takes long.
    read = [(read_task(each), files[each.name]) for each in wanted]
    found: list[tuple[Molecules, dict[str, Scores]]] = []
    tasks: list[dict[str, Any]] = []
    for task, others in read:
        own = {name: read_vectors(file, task.total)[task.rows] for name, file in others.items()}
        molecules = represent(task, embedder, untrained, own, processes)
        _warn(task, molecules)
        found.append((molecules, _validated(config, molecules, processes)))
        tasks.append(_described(task, molecules))
    own_names = list(read[0][1])
    return {
        "evaluation": "vectors",
        "export": config.export,
        "revision": config.revision,
        "weights_sha256": embedder.description.get(FILES, {}).get(WEIGHTS_FILE, {}).get("sha256"),
        "dataset_fingerprint": embedder.description["training"]["dataset_fingerprint"],
        "representation": config.representation,
        "readout": config.readout,
        "num_layers": config.num_layers,
        "head": config.head,
        "seed": config.seed,
        "untrained_seeds": seeds,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "tasks": tasks,
        "composition": composition(tasks),
        "foldings": [
            _with_words(tasks, _summary(folding, [(molecules, each[folding]) for molecules, each in found], own_names))
            for folding in _foldings(config)
        ],
    }


def _foldings(config: EvaluateVectorsConfig) -> tuple[str, ...]:
    return ("random", "scaffold") if config.folds == "both" else (config.folds,)


def _validated(config: EvaluateVectorsConfig, molecules: Molecules, processes: int) -> dict[str, Scores]:
    """The scores of a task in every way of folding."""
    scores: dict[str, Scores] = {}
    each = fits(molecules)
    with progress(f"fits of {molecules.task.name}", each * len(_foldings(config))) as tell:
        for number, folding in enumerate(_foldings(config)):
            scores[folding] = cross_validate(
                molecules, folding, config.head, config.seed, processes, partial(_after, tell, number * each)
            )
    return scores


def _after(tell: Callable[[float], None], before: int, done: int) -> None:
    tell(before + done)


def _files(given: Any, wanted: Sequence[Wanted]) -> dict[str, dict[str, Path]]:
    """The files of vectors of other encoders, by task and name of the encoder.

    Raises:
        ConfigError: a file is not there, or a name is taken.
    """
    if given is None:
        return {each.name: {} for each in wanted}
    named = {str(name): Path(str(file)) for name, file in given.items()} if isinstance(given, Mapping) else {}
    named = named or {Path(str(given)).stem: Path(str(given))}
    taken = (ENCODER, UNTRAINED, ECFP4, DESCRIPTORS)
    if wrong := [name for name in named if name in taken or name.endswith(joined(""))]:
        raise ConfigError(f"vectors={given}: the name '{wrong[0]}' is taken. Give another: vectors={{NAME: FILE}}.")
    return {
        each.name: {name: _file(name, path, each.name, len(wanted)) for name, path in named.items()} for each in wanted
    }


def _file(name: str, path: Path, task: str, tasks: int) -> Path:
    if tasks == 1 and path.is_file() and path.suffix in OWN_FILES:
        return path
    candidates = [path / f"{task}{ending}" for ending in reversed(OWN_FILES)]
    if (found := next((file for file in candidates if file.is_file()), None)) is not None:
        return found
    one = f"a file that ends in {' or '.join(OWN_FILES)}, or " if tasks == 1 else ""
    raise ConfigError(f"vectors {name}: {path} has no vectors of {task}: expected {one}a folder with {task}.npy in it.")


def _warn(task: Task, molecules: Molecules) -> None:
    """Name what was left out, on stderr."""
    for each in molecules.left_out:
        examples = ", ".join(each.examples) + (", ..." if each.count > len(each.examples) else "")
        print(
            f"warning: {task.name}: {each.count} of {len(task.records)} rows are left out: {each.reason} ({examples})",
            file=sys.stderr,
        )


def _described(task: Task, molecules: Molecules) -> dict[str, Any]:
    """What a task consists of."""
    left = molecules.task
    digest = hashlib.sha256("".join(f"{key}\n" for key in sorted(molecules.keys)).encode()).hexdigest()
    targets = [
        {"name": name, "known": int(np.isfinite(column).sum()), "mean": float(np.nanmean(column))}
        for name, column in zip(left.targets, left.labels.T, strict=True)
    ]
    return {
        "name": task.name,
        "source": task.source,
        "kind": task.kind,
        "metric": compared(task.kind),
        "targets": targets,
        "missing_labels": int((~np.isfinite(left.labels)).sum()),
        "file_rows": task.total,
        "rows": len(task.records),
        "molecules": len(molecules.keys),
        "duplicates": len(molecules.keys) - len(set(molecules.keys)),
        "left_out": [asdict(each) for each in molecules.left_out],
        "keys_sha256": digest,
    }


# --- what the scores show -------------------------------------------------------------------------------------------


def pairs(own: Sequence[str]) -> list[tuple[str, str]]:
    """The comparisons: the encoder with each other representation, and descriptors with and without its vectors.

    Args:
        own: names of the vectors of other encoders.
    """
    others = [UNTRAINED, ECFP4, DESCRIPTORS, *own]
    return [
        *((ENCODER, other) for other in others),
        *((joined(ENCODER), other) for other in (DESCRIPTORS, *map(joined, own))),
    ]


def _summary(folding: str, found: Sequence[tuple[Molecules, Scores]], own: Sequence[str]) -> dict[str, Any]:
    """The scores and comparisons in one way of folding."""
    metrics = [compared(molecules.task.kind) for molecules, _ in found]
    ratios = [scores.test_to_train for _, scores in found]
    means = {
        name: over_seeds([scores.by_fold[name][metric] for (_, scores), metric in zip(found, metrics)], ratios)
        for name in found[0][0].vectors
    }
    comparisons = []
    seeds = len(found[0][0].vectors[UNTRAINED])
    for name, other in pairs(own):
        twins = f" and {seeds} untrained encoders" if other == UNTRAINED and seeds > 1 else ""
        for (molecules, scores), metric in zip(found, metrics):
            samples = f"{len(molecules.keys):,} molecules{twins}"
            difference = scores.difference(name, other, metric)
            comparisons.append(_comparison(molecules.task.name, metric, name, other, difference, samples))
        if len(found) > 1:
            each = [scores.differences(name, other, metric) for (_, scores), metric in zip(found, metrics)]
            whole = over_seeds(each, ratios)
            comparisons.append(_comparison(None, "mean", name, other, whole, f"{len(found)} sets{twins}"))
    return {
        "folding": folding,
        "tasks": [_scored(molecules, scores) for molecules, scores in found],
        "mean": [{"representation": name, **mean.plain()} for name, mean in means.items()],
        "comparisons": comparisons,
    }


def _with_words(tasks: Sequence[dict[str, Any]], folding: dict[str, Any]) -> dict[str, Any]:
    """The scores in one way of folding, with what people read of them."""
    return {
        **folding,
        "compared": compared_scores(tasks, folding),
        "table": grid(tasks, folding),
        "sentences": sentences(tasks, folding),
    }


def _comparison(
    task: str | None, metric: str, name: str, other: str, difference: Estimate, samples: str
) -> dict[str, Any]:
    numbers = {**difference.plain(), "p": difference.p}
    shown = {"task": task, "metric": metric, "representation": name, "against": other}
    return {**shown, **numbers, "verdict": verdict(difference, samples)}


def _scored(molecules: Molecules, scores: Scores) -> dict[str, Any]:
    task = molecules.task
    return {
        "task": task.name,
        "groups": scores.groups,
        "targets_left_out_of_folds": scores.left_out,
        "test_to_train": scores.test_to_train,
        "scores": [
            {
                "representation": name,
                "width": molecules.vectors[name][0].shape[1],
                **{metric: scores.estimate(name, metric).plain() for metric in METRICS[task.kind]},
                "by_fold": {metric: each.mean(0).tolist() for metric, each in by_metric.items()},
                "by_seed": by_metric[compared(task.kind)].mean(1).tolist(),
            }
            for name, by_metric in scores.by_fold.items()
        ],
    }
