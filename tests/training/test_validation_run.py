"""Validation in a run: what plain evaluation gives, on any number of processes, and without a trace in the training."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from molstream.pipeline.shards.reader import ShardDataset
from molstream.randomness import keyed_seed
from molstream.training.checkpoint.format import load_checkpoint, name_of
from molstream.training.config import PretrainConfig
from molstream.training.data.collate import COLLATED_FIELDS, collate
from molstream.training.metrics.records import Record, read_metrics
from molstream.training.module import build_module
from molstream.training.run.directory import RunDirectory
from tests.support.molecules import DRUGS, write_featurized
from tests.support.processes import run_ranks

MICRO_BATCH = 4
SETTINGS = ("model=tiny", "data.lanes=4", f"data.micro_batch={MICRO_BATCH}", "data.window_blocks=2", "steps=6")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory) -> Path:
    """21 molecules: six batches, of three or four, for the four lanes."""
    return write_featurized(tmp_path_factory.mktemp("held_out") / "shards", DRUGS[:21])


def named(run_dir: Path, prefix: str) -> dict[int, Record]:
    """By step, what has a name that begins so."""
    parts = {int(r["step"]): {k: v for k, v in r.items() if k.startswith(prefix)} for r in read_metrics(run_dir)}
    return {step: part for step, part in parts.items() if part}


def evaluated(config: PretrainConfig, weights: dict[str, torch.Tensor], path: Path) -> Record:
    """The mean over molecules of everything that the objective gives, batch after batch in manifest order."""
    module = build_module(config.model, config.objective, config.seed)
    module.load_state_dict(weights)
    module.eval()
    dataset = ShardDataset(str(path))
    num_batches = -(-dataset.num_rows // MICRO_BATCH)
    bounds = [k * dataset.num_rows // num_batches for k in range(num_batches + 1)]
    mean: Record = {}
    for number, (first, end) in enumerate(pairwise(bounds)):
        index = np.arange(first, end)
        batch = collate(dataset.read_rows(index, COLLATED_FIELDS), index, np.zeros(len(index), np.uint64))
        with torch.no_grad():
            output = module(batch, torch.Generator().manual_seed(keyed_seed(config.seed, 2**62, number)))
        for name, value in {"loss": output.loss, **output.metrics}.items():
            key = f"validation/{name}"
            mean[key] = mean.get(key, 0.0) + float(value) * len(index) / dataset.num_rows
    return mean


@pytest.mark.slow
def test_it_is_plain_evaluation_on_any_number_of_processes_and_training_does_not_feel_it(dataset, held_out, tmp_path):
    trained, validated = {}, {}
    for world_size, every in ((1, 2), (2, 3)):
        run_dir = tmp_path / f"{world_size}"
        data = (f"data.path={dataset}", f"data.validation={held_out}", f"run_dir={run_dir}")
        more = ("deepspeed.zero_stage=3", f"validate_every={every}", f"save_every={every}")
        run_ranks(world_size, ["training/pretrain.py", *data, *SETTINGS, *more])
        trained[world_size], validated[world_size] = (named(run_dir, prefix) for prefix in ("train/", "validation/"))
    assert sorted(trained[1]) == [1, 2, 3, 4, 5, 6]
    assert trained[1] == trained[2]
    assert (sorted(validated[1]), sorted(validated[2])) == ([2, 4, 6], [3, 6])
    assert validated[1][6] == validated[2][6]

    config = RunDirectory(tmp_path / "1").config()
    for step, found in validated[1].items():
        checkpoint = load_checkpoint(tmp_path / "1" / "checkpoints" / name_of(step))
        assert found == pytest.approx(evaluated(config, checkpoint.weights, held_out), rel=1e-5)
        # Retention by validation judges by it.
        assert checkpoint.state.validation_loss == found["validation/loss"]
