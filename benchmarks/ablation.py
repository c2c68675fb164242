"""Trains one encoder per variant of the recipe, and compares their frozen 2D vectors on tasks.

The base is 700 steps of 64 molecules, 20,000 molecules with one conformer, and encoders of 4 layers of width 128; a
variant has other objectives or encoders, or differs in one respect. Pretraining is `molstream pretrain`, on one core
each; scores are those of `molstream evaluate vectors` on scaffold folds (5 x 5, linear heads). Every finished variant
is a line of benchmarks/ablation.jsonl, so that the command goes on where it was ended; all variants of one seed are
trained before those of the next.

    python benchmarks/ablation.py DATASET TASKS FOLDER [--seeds N] [--jobs N] [--only NAME ...] [--tasks NAME ...]

DATASET is one that `infra/mini_dataset.sh` made; molecules are drawn from it. TASKS is the folder of MoleculeNet's
files (`data_dir` of `molstream evaluate vectors`). FOLDER keeps the drawn datasets and the encoders. With `--seeds 0`
nothing is trained, and the table of what is finished is printed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from molstream import MoleculeDataset, MoleculeEmbedder
from molstream.io.files import write_atomically
from molstream.preprocessing.fields import RawMolecule
from molstream.training.evaluation.config import EvaluateVectorsConfig
from molstream.training.evaluation.vectors.features import Molecules
from molstream.training.evaluation.vectors.scores import compared, cross_validate
from molstream.training.evaluation.vectors.tasks import Task, read_task, wanted_tasks, without
from molstream.training.models.readout import READOUTS

DEVELOPMENT = ("freesolv", "esol", "lipo", "bbbp", "bace")
"""Tasks that choices are made on."""
KEPT = Path(__file__).with_suffix(".jsonl")
"""Results, a line for each variant and seed."""
BASE_MOLECULES, BASE_STEPS, BASE_WIDTH, BASE_LAYERS = 20_000, 700, 128, 4
PRESETS = {"graph_transformer": "tiny", "blend_transformer": "moleblend_tiny", "gin": "mmsa_tiny"}
"""Presets by their first encoder; sizes are set beside them."""
SIZES = (2_000, BASE_MOLECULES)
"""Molecules that are drawn from the dataset and get a conformer; more are the dataset itself, which has none."""


@dataclass(frozen=True)
class Variant:
    """One recipe."""

    overrides: tuple[str, ...]
    """Of `molstream pretrain`, beside those of the base."""
    molecules: int | None = BASE_MOLECULES
    """One of SIZES; None for the whole dataset."""
    steps: int = BASE_STEPS
    width: int = BASE_WIDTH
    layers: int = BASE_LAYERS
    encoders: tuple[str, ...] = ("graph_transformer",)
    """Encoders of the model."""


def moleculesde(*overrides: str, also: str = "") -> Variant:
    """A variant of MoleculeSDE, and perhaps another objective."""
    options = tuple(f"objective.moleculesde.{each}" for each in overrides)
    return Variant((f"objective=[moleculesde{also}]", *options), encoders=("graph_transformer", "geometry_transformer"))


def blended(objectives: str, *overrides: str, steps: int = BASE_STEPS) -> Variant:
    """Objectives on the encoder of MoleBLEND, with options of MoleBLEND."""
    options = tuple(f"objective.moleblend.{each}" for each in overrides)
    return Variant((f"objective=[{objectives}]", *options), encoders=("blend_transformer",), steps=steps)


def mmsa(*overrides: str, also: str = "", encoders: tuple[str, ...] = ("gin", "comenet")) -> Variant:
    """A variant of MMSA-style pretraining, and perhaps another objective."""
    options = tuple(f"objective.mmsa.{each}" for each in overrides)
    return Variant((f"objective=[mmsa{also}]", *options), encoders=encoders)


def descriptors(*overrides: str, **sizes: Any) -> Variant:
    """A variant of the regression of descriptors."""
    return Variant(("objective=descriptors", *overrides), **sizes)


BALANCED = ("noise_coefficient=0.3", "path_length_coefficient=1", "path_bonds_coefficient=1")
"""Weights of MoleBLEND by which no term's gradient drowns the others."""
MOSTLY_GRAPHS = tuple(
    f"blend.{name}" for name in ("path_length=0.4", "path_bonds=0.4", "distance=0.2", "surroundings=0.2")
)
"""What is shown of molecules, near to what the encoder is given when it embeds them."""
NO_CONTRAST, NO_3D, NO_2D = (f"{name}_coefficient=0" for name in ("contrastive", "position", "bond"))
VARIANTS: dict[str, Variant] = {
    "untrained": descriptors(steps=0),
    # terms
    "descriptors": descriptors(),
    "contrast": moleculesde(NO_3D, NO_2D, "projection=null"),
    "contrast, projection heads": moleculesde(NO_3D, NO_2D),
    "contrast, projection heads, temperature 0.5": moleculesde(NO_3D, NO_2D, "temperature=0.5"),
    "prediction without negatives": moleculesde(NO_3D, NO_2D, "contrastive=predictive"),
    "2D to 3D": moleculesde(NO_CONTRAST, NO_2D),
    "MoleculeSDE": moleculesde(),
    "MoleculeSDE without contrast": moleculesde(NO_CONTRAST),
    "MoleculeSDE without 2D to 3D": moleculesde(NO_3D),
    "MoleculeSDE without 3D to 2D": moleculesde(NO_2D),
    "MoleculeSDE without projection heads": moleculesde("projection=null"),
    "MoleculeSDE with a tenth of the contrast": moleculesde("contrastive_coefficient=0.1"),
    "MoleculeSDE + descriptors": moleculesde(also=",descriptors"),
    "MoleculeSDE without contrast + descriptors": moleculesde(NO_CONTRAST, also=",descriptors"),
    "2D to 3D + descriptors": moleculesde(NO_CONTRAST, NO_2D, also=",descriptors"),
    "0.3 x 2D to 3D + descriptors": moleculesde(NO_CONTRAST, NO_2D, "weight=0.3", also=",descriptors"),
    # MoleBLEND, and others on its encoder
    "blend encoder, untrained": blended("descriptors", steps=0),
    "blend encoder, descriptors": blended("descriptors"),
    "blend encoder, MoleculeSDE": blended("moleculesde"),
    "MoleBLEND": blended("moleblend"),
    "MoleBLEND, balanced": blended("moleblend", *BALANCED),
    "MoleBLEND, balanced, hidden pairs": blended("moleblend", *BALANCED, "loss_on=hidden"),
    "MoleBLEND, balanced, mostly bond graphs": blended("moleblend", *BALANCED, *MOSTLY_GRAPHS),
    "MoleBLEND + descriptors": blended("moleblend,descriptors"),
    "MoleBLEND, balanced + descriptors": blended("moleblend,descriptors", *BALANCED),
    "MoleBLEND + MoleculeSDE": blended("moleblend,moleculesde"),
    "MoleBLEND + MoleculeSDE + descriptors": blended("moleblend,moleculesde,descriptors"),
    # MMSA-style, its controls, and others on its encoders
    "GIN, untrained": descriptors(encoders=("gin", "comenet"), steps=0),
    "GIN, descriptors": descriptors(encoders=("gin", "comenet")),
    "MMSA-style": mmsa(),
    "MMSA-style, random hypergraph": mmsa("hypergraph=random"),
    "MMSA-style, one neighbour": mmsa("neighbours=1"),
    "MMSA-style, without memory": mmsa("memory=false"),
    "MMSA-style + descriptors": mmsa(also=",descriptors"),
    "MMSA-style, transformers": mmsa(encoders=("graph_transformer", "geometry_transformer")),
    # the regression
    "descriptors, winsorised": descriptors("objective.descriptors.transform=winsorise"),
    "descriptors, head on the mean": descriptors("model.graph_transformer.readout=mean"),
    "descriptors, rate 2e-3": descriptors("optim.lr=2e-3"),
    "descriptors, rate 5e-4": descriptors("optim.lr=5e-4"),
    # sizes
    "descriptors, width 64": descriptors(width=64),
    "descriptors, width 256": descriptors(width=256),
    "descriptors, 2 layers": descriptors(layers=2),
    "descriptors, 6 layers": descriptors(layers=6),
    "descriptors, 2,000 molecules": descriptors(molecules=2_000),
    "descriptors, all molecules": descriptors(molecules=None),
    "descriptors, 350 steps": descriptors(steps=350),
    "descriptors, 1,400 steps": descriptors(steps=1_400),
    "descriptors, all molecules, 2,800 steps": descriptors(molecules=None, steps=2_800),
    "descriptors, 2,000 molecules, 2,800 steps": descriptors(molecules=2_000, steps=2_800),
}


# --- pretraining ----------------------------------------------------------------------------------------------------


def molstream(*arguments: str) -> None:
    """Run a command of molstream on one core; what it says is shown if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "molstream", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-4000:]}")


def draw(dataset: Path, count: int, folder: Path) -> Path:
    """A dataset of ``count`` molecules of another one, with a conformer each; the smaller are part of the larger."""
    output = folder / f"molecules-{count}"
    if not (output / "manifest.json").is_file():
        batches = MoleculeDataset(dataset, batch_size=1024, with_smiles=True)
        texts: list[str] = [text for batch in batches for text in batch["smiles"]]
        chosen = np.random.default_rng(0).permutation(len(texts))[:count]
        write_atomically(folder / f"{count}.smi", "".join(f"{texts[k]}\n" for k in chosen).encode())
        molstream("preprocess", f"input={folder / f'{count}.smi'}", f"output={output}", "conformers=one")
    return output


def sizes(variant: Variant) -> Iterator[str]:
    """The overrides that set the sizes of a model: encoders, and score networks of three quarters of their width."""
    width, layers = variant.width, variant.layers
    trunk = f"hidden: {3 * width // 4}, num_layers: {layers - 1}, num_heads: 3, feed_forward: {2 * width}"
    yield from (f"model.{name}={encoder(name, width, layers)}" for name in variant.encoders)
    if "gin" in variant.encoders:
        return
    if variant.encoders == ("graph_transformer",):
        yield "model/encoder_3d=none"
        return
    for name in ("position_transformer", "bond_transformer"):
        yield f"model.{name}={{trunk: {{{trunk}, pair_hidden: 32}}, readout_hidden: {3 * width // 4}}}"


def encoder(name: str, width: int, layers: int) -> str:
    """The sizes of an encoder."""
    if name == "gin":
        return f"{{hidden: {width}, num_layers: {layers}}}"
    if name == "comenet":
        return f"{{hidden: {width}, middle: {width // 4}, num_blocks: {layers}}}"
    return f"{{hidden: {width}, num_layers: {layers}, num_heads: 4, feed_forward: {5 * width // 2}, pair_hidden: 32}}"


def train(name: str, seed: int, datasets: dict[int | None, Path], folder: Path) -> tuple[Path, float]:
    """Pretrain a variant, a step at least; returns its export and the seconds that it took."""
    variant = VARIANTS[name]
    run = folder / "runs" / f"{list(VARIANTS).index(name):02d}-{seed}"
    shutil.rmtree(run, ignore_errors=True)
    steps = max(1, variant.steps)
    start = time.perf_counter()
    molstream(
        "pretrain",
        f"data.path={datasets[variant.molecules]}",
        f"run_dir={run}",
        f"model={PRESETS[variant.encoders[0]]}",
        *sizes(variant),
        "data.lanes=1",
        "data.micro_batch=64",
        "optim.lr=1e-3",
        f"optim.warmup_steps={steps // 10}",
        f"steps={steps}",
        f"save_every={steps}",
        f"seed={seed}",
        *variant.overrides,
    )
    seconds = time.perf_counter() - start
    molstream("export", f"run_dir={run}", f"output={run / 'export'}", "purpose=test")
    return run / "export", seconds


# --- scores ---------------------------------------------------------------------------------------------------------


class Scorer:
    """Tasks whose molecules are featurized once for all encoders."""

    def __init__(self, names: Iterable[str], tasks: Path):
        config = EvaluateVectorsConfig(export="", tasks=list(names), data_dir=str(tasks))
        self.tasks: list[tuple[Task, list[Any]]] = []
        self.wanted = wanted_tasks(config)

    def score(self, export: Path, untrained: int | None) -> dict[str, dict[str, float]]:
        """Mean scores over folds, by readout and task; with the seed ``untrained``, of the encoder's untrained twin."""
        found: dict[str, dict[str, float]] = {}
        for readout in READOUTS:
            embedder = MoleculeEmbedder.from_pretrained(export, representation="2d", readout=readout, n_jobs=1)
            embedder = embedder if untrained is None else embedder.untrained(untrained)
            found[readout] = {task.name: scored(task, samples, embedder) for task, samples in self.featurized(embedder)}
        return found

    def featurized(self, embedder: MoleculeEmbedder) -> list[tuple[Task, list[Any]]]:
        """The tasks with the samples of their molecules."""
        if not self.tasks:
            for task in map(read_task, self.wanted):
                with embedder.featurizing() as featurize:
                    raws = (replace(each, targets=()) for each in task.records if isinstance(each, RawMolecule))
                    self.tasks.append((task, list(featurize(raws))))
        return self.tasks


def scored(task: Task, samples: list[Any], embedder: MoleculeEmbedder) -> float:
    """The mean score of an encoder's vectors over the scaffold folds of a task."""
    found = embedder.embed_records(task.records, lambda _: iter(samples))
    kept = np.isfinite(found.vectors).all(axis=1) & (np.isfinite(task.labels).sum(axis=1) > 0)
    left = without(task, kept)
    places = np.flatnonzero(kept)
    keys, smiles = ([each[k] or "" for k in places] for each in (found.keys, found.smiles))
    molecules = Molecules(left, keys, smiles, {"encoder": [found.vectors[kept]]}, [])
    scores = cross_validate(molecules, "scaffold", "linear", 0, 1, lambda _: None)
    return float(scores.by_fold["encoder"][compared(task.kind)].mean())


# --- table ----------------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def table(results: list[dict[str, Any]], names: Iterable[str]) -> str:
    """Means over tasks by variant and readout, with their spread over seeds; then each task, with the best readout."""
    tasks = list(results[0]["scores"]["mean"])
    head = ["variant", "seeds", "seconds", *READOUTS, *tasks]
    lines = [head, ["---"] * len(head)]
    for name in names:
        own = [each for each in results if each["variant"] == name]
        if own:
            means = [
                spread([statistics.mean(each["scores"][readout].values()) for each in own]) for readout in READOUTS
            ]
            last = [spread([each["scores"]["mean_sum_max"][task] for each in own]) for task in tasks]
            seconds = f"{statistics.mean(each['seconds'] for each in own):.0f}"
            lines.append([name, str(len(own)), seconds, *means, *last])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Train and score what is not finished yet, and print the table of everything that is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("dataset", "tasks_folder", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="encoders that are trained at a time, each on one core")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--tasks", nargs="+", default=list(DEVELOPMENT), metavar="NAME")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    results = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    done = {(each["variant"], each["seed"]) for each in results}
    waiting = [(name, seed) for seed in range(options.seeds) for name in options.only if (name, seed) not in done]
    if waiting:
        datasets = {None: options.dataset, **{count: draw(options.dataset, count, options.folder) for count in SIZES}}
        scorer = Scorer(options.tasks, options.tasks_folder)
        with ThreadPoolExecutor(options.jobs) as pool, KEPT.open("a") as file:
            trained = pool.map(lambda each: train(each[0], each[1], datasets, options.folder), waiting)
            for (name, seed), (export, seconds) in zip(waiting, trained, strict=True):
                scores = scorer.score(export, None if VARIANTS[name].steps else seed)
                results.append({"variant": name, "seed": seed, "seconds": seconds, "scores": scores})
                file.write(json.dumps(results[-1]) + "\n")
                file.flush()
                print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
    print(table(results, options.only))


if __name__ == "__main__":
    main()
