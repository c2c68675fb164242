"""``molstream diagnose run_dir=...``: measures a run's representations and losses on the molecules of a dataset."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table

from molstream.errors import ConfigError
from molstream.io.files import write_atomically
from molstream.io.remote import is_url
from molstream.pipeline.config import CACHE_FOLDER
from molstream.pipeline.order.mixture import Mixture
from molstream.pipeline.order.steps import StepOrder
from molstream.pipeline.shards.reader import ShardDataset
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import OPTIONAL_FIELDS
from molstream.training.data.config import DataConfig
from molstream.training.data.datasets import open_data, require_fields
from molstream.training.data.images import image_source
from molstream.training.data.labels import Labels
from molstream.training.data.stream import LaneStream
from molstream.training.evaluation.blend_diagnostics import BlendDiagnosis
from molstream.training.evaluation.config import DiagnoseConfig
from molstream.training.evaluation.diagnostics import NUM_DECILES, Diagnosis, diagnose, require_comparable
from molstream.training.inference.device import device_named
from molstream.training.inference.trained import Trained, load_trained
from molstream.training.metrics.console import progress
from molstream.training.run.directory import RunDirectory, require_trusted

FILE = "diagnostics.json"
"""Name of the file with the diagnostics in the run directory."""


def diagnose_run(config: DiagnoseConfig) -> Diagnosis:
    """Compute the diagnostics of a run's checkpoint.

    Raises:
        ConfigError: ``run_dir`` is not a run, its model lacks two encoders of one width, or the dataset does not match
            it (other atoms or targets) or is smaller than a batch.
        CheckpointError: the run has no intact checkpoint, or none of ``step``.
        DataError: ``dataset`` is not a dataset, or has no conformers.
    """
    trained = load_trained(config.run_dir, config.step, device_named(config.device))
    require_comparable(trained.config.model)
    data = Mixture([ShardDataset(config.dataset)]) if config.dataset else _own_data(config.run_dir, trained.config.data)
    if data.hydrogens != trained.featurize.hydrogens:
        raise ConfigError(
            f"dataset={data.path} holds {data.hydrogens} atoms, {config.run_dir} was trained on "
            f"{trained.featurize.hydrogens}. Preprocess with featurize.hydrogens={trained.featurize.hydrogens}."
        )
    required = trained.module.objective.required_fields
    require_fields(set(OPTIONAL_FIELDS) & required, data)
    if "targets" in required:
        require_targets(config.run_dir, data)
    size = config.batch_size or trained.config.data.micro_batch
    order = data.order(trained.config.seed, 1, size, trained.config.data.window_blocks)
    count = min(config.batches, order.steps_per_epoch)
    with progress("batches", count) as watch:
        return diagnose(trained.module, _batches(data, order, count, trained), trained.config.seed, watch)


def require_targets(run_dir: str, data: Mixture) -> None:
    """Check that a dataset has the targets that a run learned.

    Raises:
        ConfigError: it has not.
    """
    learned = Labels.of(RunDirectory(run_dir).dataset()).targets.names
    if data.target_names != learned:
        raise ConfigError(
            f"{data.path} has the targets {', '.join(data.target_names)}, {run_dir} was trained on "
            f"{', '.join(learned)}. Preprocess with target_columns=[{','.join(learned)}]."
        )


def _own_data(run_dir: str, config: DataConfig) -> Mixture:
    """The dataset that the run was trained on. Where this machine caches shards is not for the run to say."""
    paths = (config.path, *(part.path for part in config.mix))
    require_trusted(Path(run_dir), [path for path in paths if path and is_url(path)])
    return open_data(replace(config, cache_dir=CACHE_FOLDER))


def _batches(data: Mixture, order: StepOrder, count: int, trained: Trained) -> Iterator[MoleculeBatch]:
    images = image_source(trained.config.model.image_size)
    stream = LaneStream(data, order, [0], trained.module.objective.required_fields, images)
    return (stream.step(step)[0].to(trained.device) for step in range(count))


def tables(found: Diagnosis) -> list[Table]:
    """Format the diagnostics as tables for a terminal."""
    deciles = [_deciles(found)] if found.deciles else []
    blend = [] if found.blend is None else [_recovered(found.blend)]
    distances = [_distances(found.blend)] if found.blend and found.blend.distance else []
    return [_summary(found), *deciles, *blend, *distances, _gradients(found)]


def _summary(found: Diagnosis) -> Table:
    table = Table(title=f"representations of {found.molecules:,} molecules", show_header=False)
    for name, value in found.metrics.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    table.add_row("alignment of 2D and 3D (0 equal, 2 orthogonal)", f"{found.alignment:.4f}")
    for side, value in found.uniformity.items():
        table.add_row(f"uniformity, {side} (0 collapsed, -4 even)", f"{value:.4f}")
    for side, value in found.effective_rank.items():
        table.add_row(f"effective rank, {side}", f"{value:.1f}")
    bound = f"{found.information_bound:.3f} of at most {found.largest_bound:.3f} nats"
    table.add_row("mutual information of 2D and 3D, at least", bound)
    return table


def _deciles(found: Diagnosis) -> Table:
    table = Table(title="mean loss by diffusion time")
    table.add_column("time")
    for name in found.deciles:
        table.add_column(name.replace("_", " "), justify="right")
    for number, row in enumerate(zip(*found.deciles.values(), strict=True)):
        cells = ["-" if decile.loss is None else f"{decile.loss:.4f}" for decile in row]
        table.add_row(f"{number / NUM_DECILES:.1f} to {(number + 1) / NUM_DECILES:.1f}", *cells)
    return table


def _recovered(found: BlendDiagnosis) -> Table:
    shown = ", ".join(f"{name} {share:.1%}" for name, share in found.shown.items())
    table = Table(title="relations that were not shown, and are predicted", caption=f"shown: {shown}")
    for name in ("relation", "predicted", "most frequent class", "most frequent given what is shown", "of"):
        table.add_column(name, justify="left" if name == "relation" else "right")
    for name, accuracy in (("path length", found.path_length), ("path bonds", found.path_bonds)):
        if accuracy is not None:
            shares = (accuracy.predicted, accuracy.majority, accuracy.given_shown)
            table.add_row(name, *(f"{share:.2%}" for share in shares), f"{accuracy.count:,}")
    return table


def _distances(found: BlendDiagnosis) -> Table:
    table = Table(title="mean absolute error of distances that were not shown, in angstrom")
    for name in ("distance", "predicted", "mean given the path length", "of"):
        table.add_column(name, justify="left" if name == "distance" else "right")
    assert found.distance is not None
    for name, error in {**found.distance_by_angstrom, "all": found.distance}.items():
        table.add_row(name, f"{error.predicted:.3f}", f"{error.given_length:.3f}", f"{error.count:,}")
    return table


def _gradients(found: Diagnosis) -> Table:
    table = Table(title="norm of a weighted term's gradient on the encoders")
    table.add_column("branch")
    for encoder in next(iter(found.gradient_norm.values())):
        table.add_column(encoder.replace("_", " "), justify="right")
    for branch, norms in found.gradient_norm.items():
        table.add_row(branch, *(f"{norm:.3g}" for norm in norms.values()))
    return table


def write_diagnosis(found: Diagnosis, run_dir: str | Path) -> Path:
    """Write the diagnostics as JSON to the run directory; returns the file."""
    output = Path(run_dir) / FILE
    write_atomically(output, (json.dumps(asdict(found), indent=1) + "\n").encode())
    return output
