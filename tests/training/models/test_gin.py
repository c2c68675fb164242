"""GIN: size, layout against torch_geometric's own layer, and the batches that break batch normalisation."""

import torch
from torch_geometric.nn import GINEConv

from molstream.training.models.config import GINConfig
from molstream.training.models.gin import ATOM_VOCABULARY_SIZES, BOND_VOCABULARY_SIZES, GIN
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch, num_parameters, seeded

SMALL = GINConfig(hidden=24, num_layers=3)


def inputs(smiles):
    batch = molecule_batch(smiles)
    return batch.x, batch.edge_index, batch.edge_attr, batch.batch


def test_number_of_parameters_is_the_papers():
    assert num_parameters(GIN(GINConfig(), atom_vocabulary_sizes=(119, 4, 12, 12, 10, 6, 6, 2, 2))) == 1_884_905
    assert num_parameters(GIN(GINConfig())) == 1_885_205


def test_vocabularies_are_those_of_the_featurizer():
    from molstream.preprocessing import graph

    assert ATOM_VOCABULARY_SIZES == graph.ATOM_VOCABULARY_SIZES
    assert BOND_VOCABULARY_SIZES == graph.BOND_VOCABULARY_SIZES


def test_outputs_and_gradients_equal_torch_geometric_layers_in_float64():
    gin = GIN(SMALL).double()
    x, edge_index, edge_attr, batch = inputs(DRUGS[:6])

    def reference():
        columns = gin.atom_embedding.weight.split(list(ATOM_VOCABULARY_SIZES))
        h = sum(table[x[:, column]] for column, table in enumerate(columns))
        for number, layer in enumerate(gin.layers, start=1):
            convolution = GINEConv(torch.nn.Identity(), train_eps=True)
            convolution.eps = layer.eps
            bonds = layer.bond_embedding.weight.split(list(BOND_VOCABULARY_SIZES))
            edges = sum(table[edge_attr[:, column]] for column, table in enumerate(bonds))
            h = layer.norm(layer.mlp(convolution(h, edge_index, edges)))
            h = h.relu() if number < len(gin.layers) else h
        return h

    weights = torch.randn(x.shape[0], SMALL.hidden, dtype=torch.float64, generator=seeded())
    results = []
    for forward in (lambda: gin(x, edge_index, edge_attr, batch), reference):
        gin.zero_grad()
        output = forward()
        (output * weights).sum().backward()
        results.append([output.detach()] + [parameter.grad.clone() for parameter in gin.parameters()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_embedding_columns_start_as_tables_of_their_own():
    embedding = GIN(GINConfig()).atom_embedding.weight
    for column, size in zip(embedding.split(list(ATOM_VOCABULARY_SIZES)), ATOM_VOCABULARY_SIZES, strict=True):
        bound = (6.0 / (size + 300)) ** 0.5
        assert column.abs().max() <= bound
        assert column.abs().max() > 0.9 * bound


def test_one_atom_alone_can_be_trained_on():
    gin = GIN(SMALL).train()
    output = gin(*inputs(["C"]))
    output.sum().backward()
    assert output.isfinite().all()
    assert all(parameter.grad is not None for parameter in gin.parameters())
    assert torch.equal(gin.layers[0].norm.running_var, torch.ones(SMALL.hidden))


def test_bondless_molecules_are_finite():
    assert GIN(SMALL).train()(*inputs(AWKWARD)).isfinite().all()


def test_dropout_comes_from_the_generator():
    gin = GIN(GINConfig(hidden=24, num_layers=2, dropout=0.5)).train()
    first, again, other = (gin(*inputs(DRUGS[:3]), generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.4 < (first == 0).float().mean() < 0.6
