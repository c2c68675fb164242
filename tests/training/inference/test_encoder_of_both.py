"""Vectors of an encoder that sees both modalities: of either, of both, of atoms, and of several conformers."""

import numpy as np
import pytest
import torch

from molstream.errors import ConfigError, DataError
from molstream.preprocessing.featurize import featurize
from molstream.training.data.collate import collate_samples
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.pretrained import load_pretrained
from molstream.training.models.encoders import encode
from tests.support.datasets import DRUGS
from tests.support.exports import BOTH, write_export
from tests.support.molecules import model_config

REPRESENTATIONS = ["2d", "3d", "both"]


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("joint") / "export", model_config("moleblend_tiny"))


@pytest.fixture(scope="module")
def batch(joint):
    config = load_pretrained(joint).featurize
    return collate_samples([featurize(smiles, config) for smiles in DRUGS[:6]])


@pytest.mark.parametrize("modality", REPRESENTATIONS)
def test_one_set_of_weights_gives_vectors_of_either_and_of_both(joint, batch, modality):
    embedder = MoleculeEmbedder(joint, representation=modality)
    vectors = embedder.transform(DRUGS[:6])
    model = load_pretrained(joint, representation=modality)
    encoder = model.encoders[modality]
    nodes = encode(encoder, modality, batch)
    expected = encoder.readout(nodes, batch.batch, batch.num_graphs).detach()
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    assert vectors.shape == (6, 192)
    assert embedder.get_feature_names_out()[0] == f"molecule_{modality}_0"
    found = model(batch)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.detach(), vectors, rtol=1e-4, atol=1e-5)
    [atoms] = embedder.transform_atoms(["CCO"])
    assert atoms.shape == (3, 64)


def test_representations_differ_and_all_of_them_are_two(joint, batch):
    parts = load_pretrained(joint)(batch)
    assert list(parts) == ["2d", "3d"]
    both = load_pretrained(joint, representation="both")(batch)
    for vectors in parts.values():
        assert vectors.shape == both.shape
        assert not torch.allclose(vectors, both, atol=1e-3)
    assert not torch.allclose(parts["2d"], parts["3d"], atol=1e-3)


def test_its_parameters_are_there_once(joint):
    model = load_pretrained(joint)
    names = {name.split(".")[1] for name, _ in model.named_parameters()}
    assert names == {"2d"}  # PyTorch lists what two parts share under the first one
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.encoders["3d"].parameters())


def test_fewer_layers_are_cut_once(joint):
    model = load_pretrained(joint, num_layers=1)
    assert len(model.encoders["2d"].trunk.blocks) == 1


def test_both_at_once_needs_a_conformer_and_averages_over_several(joint, batch):
    model = load_pretrained(joint, representation="both")
    missing = collate_samples([featurize("CCO", load_pretrained(joint).featurize)])
    lacking = type(missing)(**{**vars(missing), "has_pos": torch.tensor([False])})
    with pytest.raises(DataError, match="1 of 1 molecules of the batch have no positions"):
        model(lacking)
    first = MoleculeEmbedder(joint, representation="both").transform(["CCCCO"])
    mean = MoleculeEmbedder(joint, representation="both", num_conformers=3).transform(["CCCCO"])
    assert mean.shape == first.shape
    assert not np.allclose(mean, first)
    with pytest.raises(ConfigError, match="num_conformers"):
        MoleculeEmbedder(joint, representation="2d", num_conformers=3).transform(["CCO"])


def test_two_encoders_have_both_one_after_the_other(tmp_path):
    pair = write_export(tmp_path / "pair", BOTH)
    both = MoleculeEmbedder(pair, representation="both").transform(["CCO"])
    parts = [MoleculeEmbedder(pair, representation=modality).transform(["CCO"]) for modality in ("2d", "3d")]
    np.testing.assert_allclose(both, np.concatenate(parts, axis=1), rtol=1e-5)
