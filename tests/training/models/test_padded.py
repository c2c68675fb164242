"""Padded molecules: the same topology and vectors as the lists of a batch give, whatever the padding."""

from dataclasses import replace

import pytest
import torch

from molstream.errors import ConfigError
from molstream.preprocessing.config import FeaturizeConfig, StandardizeConfig
from molstream.preprocessing.featurize import featurize
from molstream.training.data.collate import collate_samples
from molstream.training.models.config import BlendTransformerConfig, GINConfig, GraphTransformerConfig, ModelConfig
from molstream.training.models.encoders import Encoders, encode
from molstream.training.models.padded import PADDED, PaddedEncoder, padded_topology
from molstream.training.models.relations import MAX_HOPS, topology
from tests.support.exports import SMALL
from tests.support.padding import padded

AS_DRAWN = FeaturizeConfig(
    standardize=StandardizeConfig(largest_fragment=False, neutralise=False), descriptors="none", max_atoms=400
)
AS_DRAWN = replace(AS_DRAWN, conformers=replace(AS_DRAWN.conformers, num_conformers=0))
STRANGE = ("C", "CC", "[Na+].[Cl-].O", "C" * 60, "C12C3C4C1C5C2C3C45", "C1" + "C" * 40 + "1", "CCO.c1ccccc1", "C#N")
"""Single atoms, salts, paths and rings that are longer than MAX_HOPS, and a cube, with many shortest paths."""
SIZES = {
    "gin": GINConfig(hidden=16, num_layers=3),
    "graph_transformer": GraphTransformerConfig(**SMALL),
    "blend_transformer": BlendTransformerConfig(**SMALL),
}
SAMPLES = [featurize(text, AS_DRAWN) for text in STRANGE]


def test_every_padded_encoder_is_tested():
    assert PADDED.keys() == SIZES.keys()


@pytest.mark.parametrize("extra", [0, 5])
def test_the_topology_is_that_of_the_lists(extra):
    batch, molecules = collate_samples(SAMPLES), padded(SAMPLES, extra)
    expected, found = topology(batch.edge_index, batch.edge_attr, batch.batch), padded_topology(molecules)
    slot = torch.arange(molecules.real.numel())[molecules.real.flatten()]
    g, s = molecules.real.shape
    lists = slot[expected.pairs]
    for first, second in (lists, lists.flip(0)):
        entry = first * s + second % s
        assert torch.equal(found.pairs[:, entry], torch.stack([first, second]))
        assert torch.equal(found.distance[entry], expected.distance)
        assert torch.equal(found.bond[entry], expected.bond)
        assert torch.equal(found.along[entry].long(), expected.along)
    assert {1, MAX_HOPS, MAX_HOPS + 1, MAX_HOPS + 2} <= set(expected.distance.tolist())
    itself = slot * s + slot % s
    assert not found.distance[itself].any()
    assert not found.bond[itself].any()
    assert found.distance.numel() == g * s * s


@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("readout", ["mean", "mean_sum_max"])
@pytest.mark.parametrize("name", SIZES)
def test_vectors_are_those_of_the_encoder(name, readout, extra):
    torch.manual_seed(3)
    encoder = Encoders(ModelConfig(**{name: replace(SIZES[name], readout=readout)})).eval().encoder("2d")
    batch = collate_samples(SAMPLES)
    with torch.no_grad():
        expected = encoder.readout(encode(encoder, "2d", batch), batch.batch, batch.num_graphs)
        found = PaddedEncoder(name, encoder)(*padded(SAMPLES, extra))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["schnet", "blend_transformer_paper"])
def test_another_encoder_is_refused_by_name(name):
    with pytest.raises(
        ConfigError, match=f"{name} cannot be exported as a program: expected .* gin, graph_transformer"
    ):
        PaddedEncoder(name, None)
