"""Pretrained encoders as a module: the embedder's vectors, gradients, strictness, and clear words where it cannot."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Batch

from molstream.errors import CheckpointError, ConfigError, DataError
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import SCHEMA_VERSION, MoleculeSample
from molstream.training.checkpoint.format import checkpoints, load_checkpoint
from molstream.training.data.batch import MoleculeBatch
from molstream.training.data.collate import collate_samples
from molstream.training.data.dataset import MoleculeDataset
from molstream.training.inference.config import ExportConfig
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.export import export_run
from molstream.training.inference.pretrained import load_pretrained
from tests.support.datasets import DRUGS
from tests.support.road import GOLDEN

REPRESENTATIONS = ["2d", "3d", "both"]


@pytest.fixture(scope="module")
def molecules(export: Path) -> list[MoleculeSample]:
    """Molecules with conformers, as the export's featurizer makes them."""
    config = load_pretrained(export).featurize
    samples = [featurize(smiles, config) for smiles in DRUGS[:8]]
    assert all(isinstance(sample, MoleculeSample) and len(sample.positions) for sample in samples)
    return samples


@pytest.fixture(scope="module")
def batch(molecules) -> MoleculeBatch:
    return collate_samples(molecules)


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("source", ["export", "small_run"])
def test_it_gives_the_embedder_s_vectors(request, export, source, representation, batch):
    vectors = MoleculeEmbedder(export, representation=representation).transform(DRUGS[:8])
    model = load_pretrained(request.getfixturevalue(source), representation=representation)
    assert not model.training
    for molecules in (batch, batch.to_pyg()):
        found = model(molecules)
        assert found.dtype == torch.float32
        assert found.shape == (8, model.width)
        np.testing.assert_allclose(found.detach(), vectors, rtol=1e-5, atol=1e-6)
    assert (MoleculeEmbedder(request.getfixturevalue(source), representation).transform(DRUGS[:8]) == vectors).all()


def test_parts_and_atoms(export, batch):
    model = load_pretrained(export)
    parts, nodes = model(batch), model.nodes(batch)
    assert list(parts) == list(nodes) == list(model.widths) == ["2d", "3d"]
    assert torch.equal(torch.cat(list(parts.values()), 1), load_pretrained(export, representation="both")(batch))
    for name, rows in nodes.items():
        assert rows.shape == (batch.num_nodes, 64)
        assert model.widths[name] == (3 * 64 if name == "2d" else 64)
        means = torch.stack([part.mean(0) for part in rows.split(batch.ptr.diff().tolist())])
        torch.testing.assert_close(parts[name][:, :64], means)
    assert list(model.molecules(batch, ["3d"])) == ["3d"]
    assert model.width == sum(model.widths.values())


def test_every_checkpoint_of_a_run_can_be_loaded(small_run, batch):
    newest, first = load_pretrained(small_run), load_pretrained(small_run, step=3)
    assert (newest.description["step"], first.description["step"]) == (6, 3)
    assert not torch.allclose(newest(batch)["2d"], first(batch)["2d"])
    stored = load_checkpoint(checkpoints(small_run / "checkpoints")[-1]).weights
    for name, tensor in newest.encoders["2d"].state_dict().items():
        assert torch.equal(tensor, stored[f"encoders.encoder_2d.{name}"])


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_gradients_reach_every_parameter(export, batch, representation):
    model = load_pretrained(export, representation=representation).train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    model(batch).square().sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    held = {name.split(".")[1] for name, _ in model.named_parameters()}
    assert held == ({"2d", "3d"} if representation == "both" else {representation})


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_fine_tuning_lowers_the_loss(export, dataset, representation):
    molecules = MoleculeDataset(dataset, batch_size=40, shuffle=True)
    torch.manual_seed(0)
    encoder = load_pretrained(export, representation=representation)
    model = nn.Sequential(encoder, nn.Linear(encoder.width, 1)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for epoch in range(15):
        molecules.set_epoch(epoch)
        losses.append(0.0)
        for batch in molecules:
            loss = nn.functional.mse_loss(model(batch), batch.y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1] += loss.item()
    assert losses[-1] < 0.3 * losses[0]


def test_molecules_without_positions_are_refused_by_the_3d_encoder_alone(export, molecules):
    bare = [
        replace(sample, positions=sample.positions[:0]) if k in (1, 6) else sample for k, sample in enumerate(molecules)
    ]
    batch = collate_samples(bare)
    assert torch.isfinite(load_pretrained(export, representation="2d")(batch)).all()
    assert torch.isfinite(load_pretrained(export).molecules(batch, ["2d"])["2d"]).all()
    for representation in ("3d", "both", None):
        with pytest.raises(DataError, match=r"2 of 8 molecules .* no positions.*numbers 1, 6\. .*representation='2d'"):
            load_pretrained(export, representation=representation)(batch)
    flat = batch.to_pyg()
    del flat.pos
    with pytest.raises(DataError, match=r"no positions \(batch\.pos\)"):
        load_pretrained(export, representation="3d")(flat)


def test_what_is_no_batch_of_featurized_molecules_is_refused(export, batch):
    model = load_pretrained(export, representation="2d")
    single = batch.to_pyg()[0]
    with pytest.raises(DataError, match=r"batch.batch, the molecule of each atom, is missing.*from_data_list"):
        model(single)
    assert model(Batch.from_data_list([single])).shape == (1, model.width)
    for x, found in ((batch.x.float(), r"torch.float32 \[\d+, 9\]"), (batch.x[:, :2], r"torch.int64 \[\d+, 2\]")):
        with pytest.raises(DataError, match=rf"batch.x is {found}: expected int64 \[n, 9\]"):
            model(replace(batch, x=x))


def test_wrong_arguments_and_damaged_sources_are_refused(export, small_run, tmp_path):
    with pytest.raises(ConfigError, match=r"representation='4d': expected 2d, 3d or both"):
        load_pretrained(export, representation="4d")
    with pytest.raises(ConfigError, match=r"step=3: .* is an export"):
        load_pretrained(export, step=3)
    with pytest.raises(ConfigError, match=r"device=tpu"):
        load_pretrained(export, device="tpu")
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 4; there are \[3, 6\]"):
        load_pretrained(small_run, step=4)
    with pytest.raises(CheckpointError, match=r"is neither an export nor a run: expected .*config\.json.*config\.yaml"):
        load_pretrained(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(export, copy)
    (copy / "model.safetensors").write_bytes((export / "model.safetensors").read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"copy/model\.safetensors cannot be read"):
        load_pretrained(copy)
    shutil.copy(export / "model.safetensors", copy)
    config = json.loads((export / "config.json").read_text())
    config["model"]["graph_transformer"]["num_layers"] += 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"missing encoder_2d"):
        load_pretrained(copy)


def test_an_export_of_an_older_molstream_loads():
    model = load_pretrained(GOLDEN / "export")
    assert model.description["library"] == "molstream"
    assert all(width > 0 for width in model.widths.values())


def test_the_featurizer_of_a_model_computes_no_descriptors(small_run, tmp_path):
    """No encoder reads them; the one of an older molstream does not even know the word."""
    assert "descriptors" not in json.loads((GOLDEN / "export" / "config.json").read_text())["featurizer"]["config"]
    assert "rdkit2d" in (small_run / "dataset.json").read_text()
    exported = export_run(ExportConfig(run_dir=str(small_run), output=str(tmp_path / "export"), purpose="test"))
    for source in (GOLDEN / "export", GOLDEN / "narrow", small_run, exported):
        found = featurize("CCO", load_pretrained(source).featurize)
        assert isinstance(found, MoleculeSample)
        assert found.descriptors.shape == (0,)


def test_an_export_of_an_older_schema_says_what_may_differ(tmp_path, capsys):
    """Its vectors are those of its own time for nearly all molecules; one of another layout is refused."""
    copy = tmp_path / "copy"
    shutil.copytree(GOLDEN / "export", copy)
    config = json.loads((copy / "config.json").read_text())
    for schema in (2, 3, 1, SCHEMA_VERSION + 1):
        config["featurizer"]["schema_version"] = schema
        (copy / "config.json").write_text(json.dumps(config))
        if schema == 2:
            load_pretrained(copy)
            assert "was trained on molecules of schema 2" in capsys.readouterr().err
        elif schema == 3:
            load_pretrained(copy)
            assert "schema" not in capsys.readouterr().err
        else:
            with pytest.raises(CheckpointError, match=rf"schema version {schema}, .* with schemas 2, 3, 4"):
                load_pretrained(copy)


def test_the_export_of_an_older_run_says_what_its_model_learnt_from(tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(GOLDEN / "narrow", run)
    record = json.loads((run / "dataset.json").read_text())
    folder = export_run(ExportConfig(run_dir=str(run), output=str(tmp_path / "export"), purpose="test"))
    assert f"{run} was trained on molecules of schema 2" in capsys.readouterr().err
    featurizer = load_pretrained(folder).description["featurizer"]
    assert (featurizer["schema_version"], featurizer["rdkit"]) == (2, record["versions"]["rdkit"])
    assert f"{folder} was trained on molecules of schema 2" in capsys.readouterr().err
    (run / "dataset.json").write_text(json.dumps({**record, "schema_version": 1}))
    with pytest.raises(CheckpointError, match="molecules of schema 1, this molstream reads models of schemas 2, 3, 4"):
        export_run(ExportConfig(run_dir=str(run), output=str(tmp_path / "other")))
    with pytest.raises(CheckpointError, match="molecules of schema 1"):
        load_pretrained(run)


def test_atoms_are_pooled_as_asked(export, batch):
    parts = {name: load_pretrained(export, representation="2d", readout=name) for name in ("mean", "sum", "max")}
    joined = load_pretrained(export, representation="2d", readout="mean_sum_max")
    assert joined.width == 3 * parts["mean"].width
    mean, total, largest = (parts[name](batch) for name in parts)
    torch.testing.assert_close(joined(batch), torch.cat([mean, total / 20, largest], dim=1))
    names = MoleculeEmbedder.from_pretrained(export, representation="2d", readout="mean").get_feature_names_out()
    assert len(names) == parts["mean"].width
    with pytest.raises(ConfigError, match=r"readout='median': expected one of mean, sum, max, mean_sum_max"):
        load_pretrained(export, readout="median")


def test_the_first_layers_alone_are_another_representation(export, batch):
    whole = load_pretrained(export, representation="2d")
    first = load_pretrained(export, representation="2d", num_layers=1)
    assert first.width == whole.width
    assert sum(p.numel() for p in first.parameters()) < sum(p.numel() for p in whole.parameters())
    assert not torch.allclose(first(batch), whole(batch))
    embedder = MoleculeEmbedder.from_pretrained(export, representation="2d", num_layers=1)
    vectors = embedder.transform(DRUGS[:2])
    np.testing.assert_allclose(vectors, first(batch)[:2].detach().numpy(), rtol=1e-4, atol=1e-5)
    embedder.set_params(num_layers=None)
    assert not np.allclose(embedder.transform(DRUGS[:2]), vectors)
    with pytest.raises(ConfigError, match=r"num_layers=9: expected 1 to 2"):
        load_pretrained(export, num_layers=9)
