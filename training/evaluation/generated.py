"""``molstream evaluate conformers|bonds``: compares generated molecules with a dataset and with ETKDG."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rich.table import Table

from molstream.errors import ConfigError, DataError, MoleculeError
from molstream.pipeline.shards.codec import SCHEMA, samples
from molstream.pipeline.shards.reader import ShardDataset
from molstream.preprocessing.assemble import assemble
from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig, ForceField
from molstream.preprocessing.conformers import conformers as etkdg
from molstream.preprocessing.featurize import describe
from molstream.preprocessing.fields import MoleculeSample, RawMolecule, Rejection
from molstream.training.diffusion.bond_transformer import FORMAL_CHARGE
from molstream.training.evaluation.config import EvaluateGeneratedConfig
from molstream.training.evaluation.conformer_scores import ensemble_score, posebusters_validity, score_conformers
from molstream.training.evaluation.gallery import write_gallery
from molstream.training.inference.generator import GeneratedBonds, MoleculeGenerator, Watch
from molstream.training.metrics.console import progress

BASELINES: dict[str, ForceField] = {"ETKDG": "none", "ETKDG + MMFF94s": "MMFF94s"}
"""Baseline methods, with the force field that relaxes their conformers."""
GALLERY = 6
"""Number of molecules in the gallery."""


def evaluate_conformers(config: EvaluateGeneratedConfig, output: Path) -> dict[str, Any]:
    """Compute COV, MAT, handedness and validity of generated conformers, and of as many of ETKDG.

    A gallery of some of them, aligned to their references, is written to ``output`` with the suffix ``.sdf``.

    Raises:
        ConfigError, CheckpointError, DataError: run or dataset cannot be used, or do not belong together.
    """
    if output.suffix == ".sdf":
        raise ConfigError(f"output={output}: expected another suffix, since the gallery is written to that file.")
    generator, references = _open(config)
    counts = [config.per_reference * len(sample.positions) for sample in references]
    with progress("conformers", sum(counts)) as tell:
        generated = _generated(generator, references, counts, tell)
    methods = {"molstream": generated}
    methods |= {name: _embedded(references, counts, force_field) for name, force_field in BASELINES.items()}
    shown = {name: methods[name][:GALLERY] for name in ("molstream", "ETKDG")}
    smiles, positions = zip(*((sample.smiles, sample.positions) for sample in references[:GALLERY]), strict=True)
    write_gallery(smiles, positions, shown, output.with_suffix(".sdf"))
    judged = in_every(list(methods.values()))[: config.posebusters_molecules]
    rows = []
    for name, ensembles in methods.items():
        columns = list(zip(references, ensembles, strict=True))
        scores = [score_conformers(r.smiles, r.positions, g, config.threshold) for r, g in columns]
        valid = posebusters_validity([(references[k].smiles, ensembles[k]) for k in judged])
        rows.append(asdict(ensemble_score(name, scores, valid)))
    return {"threshold": config.threshold, "per_reference": config.per_reference, "scores": rows}


def evaluate_bonds(config: EvaluateGeneratedConfig, output: Path) -> dict[str, Any]:
    """Measure how well bonds and charges are recovered from the first conformer of each molecule.

    Raises:
        ConfigError, CheckpointError, DataError: run or dataset cannot be used, or do not belong together.
    """
    generator, references = _open(config)
    with progress("molecules", len(references)) as tell:
        generated = [found[0] for found in generator.bonds(references, 1, tell)]
    featurizer = generator.trained.featurize
    rows = [_bond_score(*both, featurizer) for both in zip(references, generated, strict=True)]
    bonds, right, false = (sum(row[name] for row in rows) for name in ("bonds", "right", "false"))
    return {
        "molecules": len(rows),
        "exact": float(np.mean([row["exact"] for row in rows])),
        "valid": float(np.mean([row["valid"] for row in rows])),
        "same_molecule": float(np.mean([row["same"] for row in rows])),
        "bond_accuracy": right / bonds if bonds else float("nan"),
        "false_bonds": false / len(rows),
    }


def _bond_score(sample: MoleculeSample, found: GeneratedBonds, featurizer: FeaturizeConfig) -> dict[str, int]:
    """Count correct bonds and properties of one molecule; ``same`` compares InChIKeys."""
    truth = {
        (min(i, j), max(i, j)): int(kind)
        for (i, j), kind in zip(sample.bond_index.T.tolist(), sample.bond_features[:, 0], strict=True)
    }
    guess = dict(zip(map(tuple, found.bond_index.T.tolist()), found.bond_type.tolist(), strict=True))
    try:
        mol = assemble(
            sample.atom_features[:, 0],
            found.formal_charge,
            found.bond_index,
            found.bond_type,
            sample.positions[0],
            featurizer.hydrogens == "all",
        )
        again = describe(RawMolecule(Chem.MolToSmiles(mol), "smiles", sample.source, sample.row), featurizer)
        key = None if isinstance(again, Rejection) else again.sample.key
    except MoleculeError:
        key = None
    return {
        "exact": guess == truth and bool((found.formal_charge == sample.atom_features[:, FORMAL_CHARGE]).all()),
        "valid": key is not None,
        # The first block only: handedness comes from the positions, and tautomers may differ in hydrogens.
        "same": key is not None and key.split("-")[0] == sample.key.split("-")[0],
        "bonds": len(truth),
        "right": sum(guess.get(pair) == kind for pair, kind in truth.items()),
        "false": len(guess.keys() - truth.keys()),
    }


def _open(config: EvaluateGeneratedConfig) -> tuple[MoleculeGenerator, list[MoleculeSample]]:
    """Load the run's generator, and the molecules of the dataset that it is evaluated on."""
    generator = MoleculeGenerator.load(
        config.run_dir, config.sampler, config.step, config.device, config.seed, config.batch_size
    )
    dataset = ShardDataset(config.dataset)
    hydrogens = dataset.manifest.hydrogens
    if hydrogens != generator.trained.featurize.hydrogens:
        raise ConfigError(
            f"dataset={config.dataset} stores hydrogens={hydrogens}, the run was trained on "
            f"hydrogens={generator.trained.featurize.hydrogens}. Preprocess it like the dataset of the run."
        )
    order = np.random.default_rng(config.seed).permutation(dataset.num_rows)
    wanted = config.molecules or dataset.num_rows
    chosen: list[MoleculeSample] = []
    for start in range(0, len(order), 256):
        if len(chosen) >= wanted:
            break
        rows = dataset.read_rows(np.sort(order[start : start + 256]), SCHEMA.names)
        chosen += [sample for sample in samples(rows) if len(sample.positions)]
    if not chosen:
        raise DataError(f"dataset={config.dataset}: none of its {dataset.num_rows} molecules has a conformer.")
    return generator, chosen[:wanted]


def _generated(
    generator: MoleculeGenerator, references: Sequence[MoleculeSample], counts: Sequence[int], watch: Watch
) -> list[np.ndarray]:
    """Generate conformers [count, n, 3] of each molecule; molecules with the same count are generated together."""
    found: dict[int, np.ndarray] = {}
    done = 0
    for count in sorted(set(counts)):
        members = [k for k, c in enumerate(counts) if c == count]
        drawn = generator.conformers([references[k] for k in members], count, partial(_after, watch, done))
        found |= dict(zip(members, drawn, strict=True))
        done += count * len(members)
    return [found[k] for k in range(len(references))]


def _after(watch: Watch, before: int, done: float) -> None:
    watch(before + done)


def _embedded(references: Sequence[MoleculeSample], counts: Sequence[int], force_field: ForceField) -> list[np.ndarray]:
    """Embed conformers of each molecule with RDKit, [g, n, 3]; g = 0 if it fails."""
    made = []
    for sample, count in zip(references, counts, strict=True):
        settings = ConformerConfig(num_conformers=count, force_field=force_field)
        mol = Chem.AddHs(Chem.MolFromSmiles(sample.smiles))
        made.append(etkdg(mol, sample.num_atoms, sample.key, settings).positions)
    return made


def in_every(methods: Sequence[Sequence[np.ndarray]]) -> list[int]:
    """List the numbers of the molecules of which every method has conformers [g, n, 3], ascending.

    Only these are passed to PoseBusters: it embeds molecules itself, and takes minutes where ETKDG fails.
    """
    return [k for k, ensembles in enumerate(zip(*methods, strict=True)) if all(len(found) for found in ensembles)]


def conformer_table(result: dict[str, Any]) -> Table:
    """The scores as a table for a terminal."""
    title = f"conformers, threshold {result['threshold']} A, {result['per_reference']} per reference; mean (median)"
    table, scores = Table(title=title), result["scores"]
    table.add_column()
    for score in scores:
        table.add_column(score["method"], justify="right")
    for name in ("cov_r", "cov_p"):
        cells = (f"{100 * score[name][0]:.1f} ({100 * score[name][1]:.1f})" for score in scores)
        table.add_row(f"{name.upper().replace('_', '-')} %", *cells)
    for name in ("mat_r", "mat_p"):
        cells = (f"{score[name][0]:.3f} ({score[name][1]:.3f})" for score in scores)
        table.add_row(f"{name.upper().replace('_', '-')} A", *cells)
    for name, title in (
        ("chirality_kept", "stereocentres kept %"),
        ("chirality_flipped", "stereocentres flipped %"),
        ("valid", "valid by PoseBusters %"),
    ):
        shares = ("-" if score[name] is None else f"{100 * score[name]:.1f}" for score in scores)
        table.add_row(title, *shares)
    table.add_row("molecules (failed)", *(f"{score['molecules']} ({score['failed']})" for score in scores))
    return table


def bond_table(result: dict[str, Any]) -> Table:
    """The scores as a table for a terminal."""
    table = Table(title=f"bonds of {result['molecules']} molecules")
    for column in ("exact %", "valid %", "same molecule %", "bonds right %", "false bonds per molecule"):
        table.add_column(column, justify="right")
    shares = (result[name] for name in ("exact", "valid", "same_molecule", "bond_accuracy"))
    table.add_row(*(f"{100 * share:.1f}" for share in shares), f"{result['false_bonds']:.3f}")
    return table


Evaluation = tuple[Callable[[EvaluateGeneratedConfig, Path], dict[str, Any]], Callable[[dict[str, Any]], Table]]

GENERATED: dict[str, Evaluation] = {
    "conformers": (evaluate_conformers, conformer_table),
    "bonds": (evaluate_bonds, bond_table),
}
"""Evaluations of generated molecules by name: functions that compute the scores, and that format their table."""
