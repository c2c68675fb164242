"""The encoder that travels in the package: found by its name, whole, described, and the one where none is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from molstream import MoleculeEmbedder, load_pretrained
from molstream.compose import compose
from molstream.config import tree_of
from molstream.errors import ConfigError
from molstream.training.checkpoint.exported import CARD_FILE, ENCODER_FILES, REQUIRED_FILES
from molstream.training.config import PretrainConfig
from molstream.training.hubs.source import push_target
from molstream.training.shipped import MINI, located
from tests.support.datasets import DRUGS, molstream
from tests.support.hub_server import TOKEN, hub_serving
from tests.support.processes import REPOSITORY

FOLDER = located(MINI, "export")
MOST_BYTES = 10_000_000


def test_it_is_small_whole_and_described():
    files = sorted(path.name for path in FOLDER.iterdir())
    assert set(REQUIRED_FILES) | {CARD_FILE} <= set(files) <= set(ENCODER_FILES)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MOST_BYTES
    config = json.loads((FOLDER / "config.json").read_text())
    experiment = compose("pretrain", PretrainConfig, ["experiment=mini", "data.path=dataset", "run_dir=run"])
    assert config["purpose"] == "pretrained"
    assert config["model"] == {"graph_transformer": tree_of(experiment.model.graph_transformer)}
    assert config["training"]["objective"] == tree_of(experiment.objective)
    assert config["training"]["steps"] == experiment.steps
    card = (FOLDER / "README.md").read_text()
    assert "## Sources" in card
    assert "CC BY-SA 3.0" in card
    # Its own evaluation, of these weights: `molstream export` puts no other into a card.
    assert "mean of R2 and ROC-AUC: encoder against untrained: better by" in card


def test_its_vectors_are_those_it_was_shipped_with():
    golden = np.load(REPOSITORY / "tests" / "golden" / "molstream_mini.npy")
    np.testing.assert_allclose(MoleculeEmbedder().transform(DRUGS[: len(golden)]), golden, rtol=1e-4, atol=1e-4)


def test_it_is_the_encoder_where_none_is_named(tmp_path):
    vectors = MoleculeEmbedder().transform(DRUGS[:4])
    assert vectors.shape == (4, 480)
    assert (MoleculeEmbedder(MINI).transform(DRUGS[:4]) == vectors).all()
    assert load_pretrained(representation="2d").width == 480
    (tmp_path / "drugs.smi").write_text("\n".join(DRUGS[:4]) + "\n")
    molstream("embed", f"input={tmp_path / 'drugs.smi'}", f"output={tmp_path / 'drugs.npy'}")
    np.testing.assert_allclose(np.load(tmp_path / "drugs.npy"), vectors, rtol=1e-4, atol=1e-5)


def test_it_travels_to_a_hub_and_to_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with hub_serving(tmp_path / "hf"):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        done = push_target("hf://org/mini", True, None).push(FOLDER, True, None)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "another"))
        (tmp_path / "drugs.smi").write_text("\n".join(DRUGS[:4]) + "\n")
        for source, name in ((done.address, "pulled"), (MINI, "here")):
            words = (f"input={tmp_path / 'drugs.smi'}", f"output={tmp_path / name}.npy", "num_cpus=1")
            molstream("embed", f"export={source}", *words)
    np.testing.assert_array_equal(np.load(tmp_path / "pulled.npy"), np.load(tmp_path / "here.npy"))
    assert (tmp_path / "another" / "hub" / "models--org--mini").is_dir()


def test_a_folder_of_its_name_makes_the_name_unclear(tmp_path, monkeypatch, export):
    monkeypatch.chdir(tmp_path)
    Path(MINI).symlink_to(export)
    with pytest.raises(ConfigError, match=r"a folder here. Give ./molstream-mini for the folder"):
        MoleculeEmbedder().transform(["CCO"])
    width = MoleculeEmbedder(export).transform(["CCO"]).shape[1]
    assert MoleculeEmbedder(f"./{MINI}").transform(["CCO"]).shape[1] == width
    assert MoleculeEmbedder(Path(MINI)).transform(["CCO"]).shape[1] == width
