"""A run with an image encoder: one curve and one set of images, however it is spread, drawn and stopped."""

import numpy as np
import pytest

from molstream.training.checkpoint.exported import CARD_FILE
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.export import export_run
from molstream.training.metrics.records import read_metrics
from molstream.training.report.overview import overview
from tests.support.datasets import DRUGS
from tests.support.processes import run_ranks

SETTINGS = (
    "model=mini",
    "model/encoder_2d=gin",
    "model.gin={hidden: 16, num_layers: 2}",
    "model/encoder_image=resnet",
    "model.resnet={width: 8, image_size: 64}",
    "objective=descriptors",
    "data.lanes=4",
    "data.micro_batch=4",
    "steps=6",
    "log_every=2",
)


@pytest.mark.slow
def test_losses_do_not_depend_on_processes_children_and_stops(dataset, tmp_path):
    command = ["training/pretrain.py", f"data.path={dataset}", f"data.validation={dataset}", *SETTINGS]
    run_ranks(1, [*command, f"run_dir={tmp_path / 'whole'}", "data.image_workers=0", "data.prefetch=0"])
    run_ranks(2, [*command, f"run_dir={tmp_path / 'stopped'}", "stop_at=3", "deepspeed.zero_stage=2"])
    assert "restored step 3" in run_ranks(1, [*command, f"run_dir={tmp_path / 'stopped'}", "data.image_workers=1"])
    whole, stopped = (read_metrics(tmp_path / name) for name in ("whole", "stopped"))
    assert [record["step"] for record in stopped] == [record["step"] for record in whole] == list(range(1, 7))
    names = [name for name in whole[0] if name.startswith("train/")]
    assert "train/image_loss" in names
    for name in (*names, "data/digest", "data/undrawn"):
        assert [record[name] for record in stopped] == [record[name] for record in whole], name
    assert stopped[-1]["validation/image_loss"] == whole[-1]["validation/image_loss"]

    export = export_run(ExportConfig(run_dir=str(tmp_path / "whole")))
    assert "encoders gin (2d), resnet (image)" in overview(export)
    assert "RDKit's drawing of the standardized molecule, 64 x 64 pixels" in (export / CARD_FILE).read_text()
    vectors = MoleculeEmbedder(export).transform(DRUGS[:3])
    assert vectors.shape == (3, 16 + 64)
    assert np.array_equal(MoleculeEmbedder(tmp_path / "whole").transform(DRUGS[:3]), vectors)
    assert np.array_equal(MoleculeEmbedder(export, representation="image").transform(DRUGS[:3]), vectors[:, 16:])
