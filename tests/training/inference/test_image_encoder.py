"""An export with an encoder of drawings: its vectors, alone and beside others; molecules that cannot be drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from molstream.errors import ConfigError, DataError
from molstream.preprocessing.drawing import image_of
from molstream.preprocessing.featurize import featurize
from molstream.training.data import images as images_of_batches
from molstream.training.data.collate import collate_samples
from molstream.training.inference.embedder import MoleculeEmbedder
from molstream.training.inference.encoding import UNDRAWN
from molstream.training.inference.pretrained import load_pretrained
from molstream.training.models.config import ResNetConfig
from tests.support.datasets import DRUGS
from tests.support.exports import BOTH, write_export

RESNET = ResNetConfig(width=8, image_size=64)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A 2D encoder (96 numbers), a 3D encoder (32) and one of drawings (64)."""
    return write_export(tmp_path_factory.mktemp("three") / "export", replace(BOTH, resnet=RESNET))


@pytest.fixture(scope="module")
def samples(export):
    config = load_pretrained(export).featurize
    return [featurize(smiles, config) for smiles in DRUGS[:5]]


@pytest.fixture
def undrawable(monkeypatch) -> str:
    """A molecule that RDKit can read, and from now on cannot draw."""
    text = "CCO"
    drawn = lambda smiles, *rest: None if smiles == text else image_of(smiles, *rest)  # noqa: E731
    monkeypatch.setattr(images_of_batches, "image_of", drawn)
    return text


def test_vectors_are_those_of_the_plain_drawing(export, samples):
    embedder = MoleculeEmbedder(export, representation="image")
    vectors = embedder.transform(DRUGS[:5])
    encoder = load_pretrained(export, representation="image")
    images = torch.from_numpy(np.stack([image_of(sample.smiles, 64) for sample in samples]))
    np.testing.assert_allclose(vectors, encoder.encoders["image"](images).detach(), rtol=1e-4, atol=1e-5)
    assert vectors.shape == (5, 64)
    assert len({row.tobytes() for row in vectors}) == 5
    assert embedder.get_feature_names_out()[0] == "molecule_image_0"
    batch = collate_samples(samples, image_size=encoder.image_size)
    np.testing.assert_allclose(encoder(batch).detach(), vectors, rtol=1e-4, atol=1e-5)
    # Neither the spelling nor what stands beside a molecule matters.
    np.testing.assert_allclose(embedder.transform(["OCC", DRUGS[0]])[1], vectors[0], rtol=1e-4, atol=1e-5)


def test_it_stands_beside_the_others(export, samples):
    parts = load_pretrained(export)(collate_samples(samples, image_size=64))
    assert {name: part.shape[1] for name, part in parts.items()} == {"2d": 96, "3d": 32, "image": 64}
    together = MoleculeEmbedder(export).transform(DRUGS[:5])
    alone = [MoleculeEmbedder(export, representation=name).transform(DRUGS[:5]) for name in parts]
    np.testing.assert_allclose(together, np.hstack(alone), rtol=1e-4, atol=1e-5)
    both = MoleculeEmbedder(export, representation="both").transform(DRUGS[:5])
    np.testing.assert_allclose(both, np.hstack(alone[:2]), rtol=1e-4, atol=1e-5)
    several = MoleculeEmbedder(export, num_conformers=2).transform(DRUGS[:2])
    np.testing.assert_allclose(several[:, 128:], alone[2][:2], rtol=1e-4, atol=1e-5)


def test_atoms_have_no_image(export):
    [atoms] = MoleculeEmbedder(export).transform_atoms(["CCO"])
    assert atoms.shape == (3, 32 + 32)
    with pytest.raises(ConfigError, match="representation='image': a drawing has no atoms"):
        MoleculeEmbedder(export, representation="image").transform_atoms(["CCO"])
    assert list(load_pretrained(export).nodes(collate_samples([featurize("CCO")]))) == ["2d", "3d"]


def test_a_molecule_that_cannot_be_drawn_fails_alone(export, undrawable):
    embedder = MoleculeEmbedder(export, representation="image", descriptors=True)
    vectors = embedder.transform([DRUGS[0], undrawable, "nothing", "OCC"])
    assert np.isnan(vectors).all(1).tolist() == [False, True, True, True]
    assert {row: text for row, text in embedder.failures_.items() if row != 2} == {1: UNDRAWN, 3: UNDRAWN}
    assert np.isnan(embedder.transform(["nothing"])).all()
    with pytest.raises(DataError, match="row 0, 'CCO': image: undrawable"):
        MoleculeEmbedder(export, on_error="raise").transform([undrawable])
    assert not np.isnan(MoleculeEmbedder(export, representation="both").transform([undrawable])).any()


def test_isotopes_that_graphs_do_not_show_are_drawn(export):
    embedder = MoleculeEmbedder(export, representation="image")
    one, other = embedder.transform(["CCCO", "CC[13CH2]O"])
    assert not np.allclose(one, other)


def test_batches_without_images_are_refused(export, samples, undrawable):
    encoder = load_pretrained(export, representation="image")
    with pytest.raises(DataError, match=r"batch.images is nothing: expected uint8 \[g, 3, 64, 64\].*image_size=64"):
        encoder(collate_samples(samples))
    with pytest.raises(DataError, match=r"batch.images is torch.uint8 \[5, 3, 32, 32\]"):
        encoder(collate_samples(samples, image_size=32))
    lacking = collate_samples([*samples, featurize(undrawable, encoder.featurize)], image_size=64)
    with pytest.raises(DataError, match=r"1 of 6 molecules of the batch cannot be drawn.*: numbers 5\."):
        encoder(lacking)


def test_choices_are_named(export, tmp_path):
    with pytest.raises(ConfigError, match="representation='4d': expected 2d, 3d or both, or image"):
        load_pretrained(export, representation="4d")
    flat = write_export(tmp_path / "flat", replace(BOTH, geometry_transformer=None))
    with pytest.raises(ConfigError, match=r"the model has no image encoder. It offers 2d"):
        load_pretrained(flat, representation="image")
    assert load_pretrained(flat).image_size is None
