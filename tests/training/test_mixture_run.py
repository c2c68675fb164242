"""Training on several datasets by weight: the same molecules at every step, however the run is spread and stopped."""

import zlib
from pathlib import Path

import pytest

from molstream.errors import CheckpointError
from molstream.pipeline.order.mixture import Mixture
from molstream.training.data.datasets import open_data
from molstream.training.data.stream import LaneStream
from molstream.training.metrics.records import read_metrics
from molstream.training.run.directory import RunDirectory
from tests.support.molecules import DRUGS, write_featurized
from tests.support.processes import run_ranks

LANES, STEPS, WEIGHTS = 4, 8, (5, 3)
SETTINGS = ("model=tiny", f"data.lanes={LANES}", "data.micro_batch=4", "data.window_blocks=2", f"steps={STEPS}")


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A second dataset, small: it begins anew while the first is still in its first epoch."""
    return write_featurized(tmp_path_factory.mktemp("other") / "shards", DRUGS[:24])


@pytest.mark.slow
def test_molecules_and_losses_do_not_depend_on_processes_or_stops_and_shares_are_as_asked(dataset, other, tmp_path):
    mix = ", ".join(f"{{path: {path}, weight: {weight}}}" for path, weight in zip((dataset, other), WEIGHTS))
    command = ["training/pretrain.py", f"data.mix=[{mix}]", *SETTINGS]
    run_ranks(1, [*command, f"run_dir={tmp_path / 'whole'}"])
    run_ranks(2, [*command, f"run_dir={tmp_path / 'stopped'}", "stop_at=3"])
    assert "restored step 3" in run_ranks(1, [*command, f"run_dir={tmp_path / 'stopped'}"])
    whole, stopped = (read_metrics(tmp_path / name) for name in ("whole", "stopped"))
    assert [record["step"] for record in whole] == list(range(1, STEPS + 1))
    for name in ("data/digest", "data/epoch", "optim/grad_norm", *(k for k in whole[0] if k.startswith("train/"))):
        assert [record[name] for record in stopped] == [record[name] for record in whole], name

    # Which molecules the digests stand for.
    run = RunDirectory(tmp_path / "stopped")
    config = run.config()
    data = open_data(config.data)
    order = data.order(config.seed, LANES, config.data.micro_batch, config.data.window_blocks)
    stream = LaneStream(data, order, range(LANES))
    second = [0] * LANES
    for step, record in enumerate(whole):
        batches = stream.step(step)
        assert record["data/digest"] == sum(zlib.crc32(batch.index.numpy().tobytes()) & 0xFFFFFF for batch in batches)
        for lane, batch in enumerate(batches):
            second[lane] += int((batch.index >= data.datasets[0].num_rows).sum())
            taken = (step + 1) * config.data.micro_batch
            assert abs(second[lane] - taken * WEIGHTS[1] / sum(WEIGHTS)) <= 0.5
    assert sum(second) > data.datasets[1].num_rows

    run.check(config, Mixture(data.datasets, [10 * weight for weight in WEIGHTS]))
    with pytest.raises(CheckpointError, match="the same weights and order"):
        run.check(config, Mixture(data.datasets, [1, 1]))
