"""Runs all commands on fixed molecules: two datasets, three runs, an export and its vectors.

``tests/golden/road`` has the results from before the package was reorganised; ``tests/test_golden_road.py`` and
``tests/support/same_bits.py`` compare with them or between commits. Only commands are used, so that any commit can be
run. To regenerate the golden files: ``python -m tests.support.road tests/golden/road``; review the diff. The run
``narrow`` and the export are of older formats, which must stay readable: leave them as they are.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.support.datasets import REPOSITORY, molecules

GOLDEN = REPOSITORY / "tests" / "golden" / "road"
EMBEDDED = 50
"""Number of molecules with golden vectors."""
STREAM = ("data.lanes=2", "data.micro_batch=8", "log_every=5", "seed=7")
TRANSFORMERS = ("graph_transformer", "geometry_transformer", "position_transformer.trunk", "bond_transformer.trunk")
TRAININGS = {
    "tiny": ("model=tiny", "steps=20", "save_every=20"),
    "paper": ("experiment=paper", "steps=20", "save_every=20"),
    "narrow": (
        "model=tiny",
        "steps=12",
        "save_every=6",
        *(
            f"model.{network}.{key}={value}"
            for network in TRANSFORMERS
            for key, value in (("hidden", 16), ("num_heads", 2), ("feed_forward", 24), ("pair_hidden", 4))
        ),
        "model.position_transformer.readout_hidden=16",
        "model.bond_transformer.readout_hidden=16",
    ),
}
"""Settings of the runs by name; the checkpoint and export of the narrow one are small enough for git."""
PLAIN = ("model.graph_transformer.readout=mean", "objective.moleculesde.projection=null")
"""What ``tiny`` and ``narrow`` had before there were other readouts and projections: the golden records are of it."""
UNTIMED = ("train/", "optim/", "data/")
"""Prefixes of the metrics that do not depend on time."""


def molstream(tree: Path, folder: Path, *arguments: str) -> str:
    """Run a molstream command with the code in ``tree`` from ``folder``; returns its stdout."""
    module = "molstream" if (tree / "molstream").is_dir() else "molstream.cli.main"
    environment = {**os.environ, "PYTHONPATH": str(tree), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{arguments}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def write_input(folder: Path) -> Path:
    """Write a CSV of about 80 molecules with a target, two duplicates and two invalid SMILES."""
    file = folder / "molecules.csv"
    rows = [*molecules(), "OCC", "c1ccccc1C", "not a molecule", "C(C"]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "value"])
        writer.writerows((smiles, number / 10) for number, smiles in enumerate(rows))
    return file


def preprocess(tree: Path, folder: Path, output: str, conformers: str) -> None:
    """Preprocess the input in ``folder`` to a dataset of several shards and blocks."""
    write_input(folder)
    settings = ("target_columns=[value]", "rows_per_shard=30", "block_rows=8", f"conformers={conformers}")
    molstream(tree, folder, "preprocess", "input=molecules.csv", f"output={output}", *settings)


def pretrain(tree: Path, folder: Path, name: str) -> list[dict[str, float]]:
    """Start or resume one of the :data:`TRAININGS` on one process; returns its records."""
    plain = PLAIN if name != "paper" and (tree / "training" / "models" / "readout.py").exists() else ()
    molstream(tree, folder, "pretrain", "data.path=dataset", f"run_dir={name}", *STREAM, *TRAININGS[name], *plain)
    return records(folder / name)


def export(tree: Path, folder: Path) -> None:
    """Export the last checkpoint of the narrow run."""
    molstream(tree, folder, "export", "run_dir=narrow", "output=export", "purpose=test")


def embed(tree: Path, folder: Path) -> np.ndarray:
    """Embed the first molecules of the input with the export, float32 [g, d]."""
    (folder / "embedded.smi").write_text("".join(f"{smiles}\n" for smiles in molecules()[:EMBEDDED]))
    molstream(tree, folder, "embed", "export=export", "input=embedded.smi", "output=vectors.parquet")
    return np.array(pq.read_table(folder / "vectors.parquet")["embedding"].to_pylist(), np.float32)


def records(run_dir: Path) -> list[dict[str, float]]:
    """Read the recorded steps of a run, without metrics that depend on time."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    kept = ({k: v for k, v in json.loads(line).items() if k == "step" or k.startswith(UNTIMED)} for line in lines)
    return list(kept)


def walk(tree: Path, folder: Path) -> np.ndarray:
    """Run all commands in ``folder``; returns the vectors."""
    preprocess(tree, folder, "dataset", "one")
    preprocess(tree, folder, "graphs", "none")
    for name in TRAININGS:
        pretrain(tree, folder, name)
    export(tree, folder)
    return embed(tree, folder)


def write_graphs(folder: Path, file: Path) -> None:
    """Write the manifest of the dataset ``graphs``, but for the quantiles of its numbers, which are many."""
    manifest = json.loads((folder / "graphs" / "manifest.json").read_text())
    del manifest["descriptor_statistics"], manifest["target_statistics"]
    file.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def main(folder: Path) -> None:
    """Regenerate the golden files in ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    np.save(folder / "vectors.npy", walk(REPOSITORY, folder), allow_pickle=False)
    write_graphs(folder, folder / "graphs.json")
    for name in ("tiny", "paper"):
        lines = (json.dumps(record) for record in records(folder / name))
        (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    environment = json.loads((folder / "narrow" / "environment.json").read_text())
    anonymous = environment | {"host": "any", "platform": "any"}
    (folder / "narrow" / "environment.json").write_text(json.dumps(anonymous, indent=1) + "\n")
    for leftover in LEFTOVERS:
        path = folder / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


LEFTOVERS = (
    *("embedded.smi", "vectors.parquet", "graphs", "tiny", "paper"),
    *("dataset/card.html", "dataset/timing.json"),
    *(f"narrow/{name}" for name in ("tensorboard", "loggers", "launches.json", "log.txt", "command.txt")),
    "narrow/checkpoints/step_00000012",
)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
