"""One call from SMILES to vectors: row by row, the same for every spelling, without Ray and DeepSpeed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem
from safetensors.torch import load_file
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline

from molstream.errors import CheckpointError, ConfigError, DataError
from molstream.training.checkpoint.format import checkpoints, load_checkpoint
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.export import load_export
from tests.support.datasets import DRUGS, REPOSITORY, SMILES, molstream


@pytest.fixture(scope="module")
def embedder(export):
    return MoleculeEmbedder.from_pretrained(export)


def test_rows_stay_aligned_and_failures_have_reasons(embedder):
    good = ["CCO", "c1ccccc1O", "CC(=O)Nc1ccc(O)cc1"]
    vectors = embedder.transform([good[0], "not a molecule", good[1], "*C", "", good[2]])
    assert vectors.shape == (6, 3 * 64 + 64)
    assert vectors.dtype == np.float32
    assert sorted(embedder.failures_) == [1, 3, 4]
    assert "unparsable" in embedder.failures_[1]
    assert "dummy_atom" in embedder.failures_[3]
    assert np.isnan(vectors[[1, 3, 4]]).all()
    np.testing.assert_allclose(vectors[[0, 2, 5]], embedder.transform(good), rtol=1e-4, atol=1e-5)
    assert embedder.failures_ == {}


def test_any_spelling_and_any_batch_give_the_same_vector(embedder, export):
    smiles = [s for s in SMILES if len(s) > 6][:12]
    respelled = [Chem.MolToSmiles(Chem.MolFromSmiles(s), doRandom=True) for s in smiles]
    assert respelled != smiles
    vectors = embedder.transform(smiles)
    np.testing.assert_array_equal(vectors, embedder.transform(respelled))
    one_by_one = MoleculeEmbedder.from_pretrained(export, batch_size=1).transform(smiles)
    np.testing.assert_allclose(vectors, one_by_one, rtol=1e-4, atol=1e-5)
    assert len(np.unique(vectors.round(3), axis=0)) == len(smiles)


def test_spellings_of_one_molecule_have_one_vector_wherever_they_are_in_a_call():
    for spelled in (["CCO", "OCC"], ["CCO", "CCN", "OCC"], ["CCO", *DRUGS[:6], "OCC"]):
        vectors = MoleculeEmbedder(batch_size=7).transform(spelled)
        np.testing.assert_array_equal(vectors[0], vectors[-1], err_msg=str(spelled))


def test_parts_are_the_halves_of_both(embedder, export):
    both = embedder.transform(["CCO", "CCN"])
    graph = MoleculeEmbedder.from_pretrained(export, representation="2d").transform(["CCO", "CCN"])
    geometry = MoleculeEmbedder.from_pretrained(export, representation="3d").transform(["CCO", "CCN"])
    np.testing.assert_allclose(both, np.hstack([graph, geometry]), rtol=1e-5, atol=1e-6)


def test_it_is_a_scikit_learn_transformer(export):
    pipeline = make_pipeline(MoleculeEmbedder(str(export), representation="2d"), Ridge())
    target = np.arange(len(SMILES), dtype=float)
    predicted = clone(pipeline).fit(SMILES, target).predict(SMILES)
    assert np.corrcoef(predicted, target)[0, 1] > 0.5
    frame = MoleculeEmbedder(export).set_params(representation="3d").get_feature_names_out()
    assert list(frame[:2]) == ["molecule_3d_0", "molecule_3d_1"]


def test_wrong_settings_are_refused(export):
    with pytest.raises(ConfigError, match="representation='4d': expected 2d, 3d or both"):
        MoleculeEmbedder.from_pretrained(export, representation="4d")
    with pytest.raises(DataError, match=r"row 1, 'XX': parse: unparsable"):
        MoleculeEmbedder.from_pretrained(export, on_error="raise").transform(["C", "XX"])
    with pytest.raises(CheckpointError, match="is neither an export nor a run"):
        MoleculeEmbedder.from_pretrained("/nowhere")


def test_the_export_is_the_checkpoint(small_run, export):
    checkpoint = load_checkpoint(checkpoints(small_run / "checkpoints")[-1])
    exported = load_file(export / "model.safetensors")
    expected = {k.removeprefix("encoders."): v for k, v in checkpoint.weights.items() if k.startswith("encoders.")}
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[k], expected[k]) for k in expected)
    config = json.loads((export / "config.json").read_text())
    assert config["training"]["steps"] == 6
    assert config["training"]["dataset_fingerprint"] == checkpoint.state.dataset_fingerprint
    card = (export / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: molstream")
    assert checkpoint.state.dataset_fingerprint in card


def test_pretrained_differs_from_untrained(embedder):
    assert not np.allclose(embedder.transform(["CCO"]), embedder.untrained(0).transform(["CCO"]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["model"]["graph_transformer"].update(hiden=3), "hiden"),
        (lambda c: c["model"]["graph_transformer"].update(hidden=32), "has shape"),
        (lambda c: c.update(format_version=9), "this molstream reads"),
        (lambda c: c.pop("featurizer"), "featurizer"),
    ],
)
def test_an_export_loads_strictly_or_not_at_all(export, tmp_path, damage, message):
    copy = tmp_path / "copy"
    copy.mkdir()
    config = json.loads((export / "config.json").read_text())
    damage(config)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").write_bytes((export / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=message):
        load_export(copy)


BLOCKER = """
import sys

class Refuse:
    # What a machine without these packages does.
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "deepspeed", "webdataset", "tensorboard", "matplotlib", "jinja2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def test_a_fresh_process_without_ray_and_deepspeed_gets_the_same_vectors(embedder, export, tmp_path):
    script = (
        BLOCKER
        + f"""
import numpy as np
from molstream.training.inference.embedder import MoleculeEmbedder
embedder = MoleculeEmbedder.from_pretrained({str(export)!r})
np.save({str(tmp_path / "vectors.npy")!r}, embedder.transform(["CCO", "c1ccccc1"]))
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment, timeout=120)
    np.testing.assert_allclose(
        np.load(tmp_path / "vectors.npy"), embedder.transform(["CCO", "c1ccccc1"]), rtol=1e-4, atol=1e-5
    )


def test_a_missing_extra_is_named(tmp_path):
    script = BLOCKER + 'from molstream.cli.main import main; sys.exit(main(["preprocess", "input=a.csv", "output=b"]))'
    (tmp_path / "a.csv").write_text("smiles\nC\n")
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert "needs ray: pip install 'molstream[preprocess]'" in result.stderr


def test_files_are_embedded_row_by_row(export, tmp_path):
    (tmp_path / "in.csv").write_text("id,smiles\n1,CCO\n2,XX\n3,c1ccccc1\n4\n")
    output = tmp_path / "out.parquet"
    result = molstream("embed", f"export={export}", f"input={tmp_path / 'in.csv'}", f"output={output}")
    assert result.stderr.count("2 of 4 molecules embedded, 2 failed") == 1
    assert result.stdout == ""
    table = pq.read_table(output).to_pylist()
    assert [row["row"] for row in table] == [0, 1, 2, 3]
    assert [row["failure"] is None for row in table] == [True, False, True, False]
    assert "malformed_row" in table[3]["failure"]
    vectors = MoleculeEmbedder.from_pretrained(export).transform(["CCO"])
    np.testing.assert_allclose(table[0]["embedding"], vectors[0], rtol=1e-4, atol=1e-5)


def test_embed_refuses_what_it_cannot_read(export, tmp_path):
    result = molstream("embed", f"export={export}", "input=/nowhere.csv", f"output={tmp_path / 'o.csv'}", check=False)
    assert result.returncode == 1
    assert "no such file" in result.stderr
    assert not Path(tmp_path / "o.csv").exists()


def test_child_processes_give_the_same_vectors_and_a_molecule_that_hangs_is_a_row_of_nan(embedder, export):
    molecules = ["CCO", "junk", "C" * 250, "c1ccccc1O", *SMILES[:20]]
    bounded = MoleculeEmbedder.from_pretrained(export, n_jobs=2, deadline_s=0.5)
    vectors = bounded.transform(molecules)
    assert sorted(bounded.failures_) == [1, 2]
    assert bounded.failures_[2] == "sandbox: deadline: more than 0.5 s of CPU time"
    good = [k for k in range(len(molecules)) if k not in (1, 2)]
    assert np.isnan(vectors[[1, 2]]).all()
    expected = embedder.transform([molecules[k] for k in good])
    np.testing.assert_allclose(vectors[good], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_jobs", [0, -2, 1.5, "2"])
def test_a_number_of_processes_that_is_none_is_refused(export, n_jobs):
    with pytest.raises(ConfigError, match="n_jobs"):
        MoleculeEmbedder(export, n_jobs=n_jobs).fit(["C"])


def test_a_file_is_embedded_within_limits(export, tmp_path):
    (tmp_path / "m.smi").write_text(f"CCO\n{'C' * 250}\nCCN\n")
    output = tmp_path / "v.parquet"
    molstream("embed", f"export={export}", f"input={tmp_path / 'm.smi'}", f"output={output}", "sandbox.deadline_s=0.5")
    failures = pq.read_table(output)["failure"].to_pylist()
    assert failures == [None, "sandbox: deadline: more than 0.5 s of CPU time", None]
