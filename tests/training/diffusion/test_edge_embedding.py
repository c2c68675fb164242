"""Normalised sums of both ends of an edge against BatchNorm1d, ReLU and a linear layer on a row per edge."""

import pytest
import torch
from torch import nn

from molstream.training.diffusion.edge_embedding import EDGES_OF_BLOCK, EdgeNorm, RectifiedEnds
from molstream.training.models.graph import Incidence, extended_edges
from tests.support.molecules import DRUGS, molecule_batch, seeded

WIDTH, OUT = 12, 5


def edges_of(smiles):
    batch = molecule_batch(smiles)
    edges = extended_edges(batch.edge_index, batch.num_nodes, 4)
    return edges, batch.num_nodes


def embed_by_atoms(norm, linear, u, v, edges):
    source, target = (Incidence(index, len(u)) for index in edges)
    u, v = norm.of_ends(u, v, source, target)
    return RectifiedEnds.apply(u, v, linear.weight, linear.bias, source, target)


def embed_by_edges(norm, linear, u, v, edges):
    return linear(norm(u[edges[0]] + v[edges[1]]).relu())


def prepared(training):
    torch.manual_seed(0)
    norm, linear = EdgeNorm(WIDTH).double().train(training), nn.Linear(WIDTH, OUT).double()
    generator = seeded(1)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    return norm, linear


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("smiles", [DRUGS[:20], ["CC"], ["C", "CCO"]], ids=["drugs", "pair", "alone"])
def test_outputs_gradients_and_statistics_are_those_of_a_row_per_edge(smiles, training):
    edges, n = edges_of(smiles)
    assert (edges.shape[1] > EDGES_OF_BLOCK) == (len(smiles) == 20)
    results = []
    for embed in (embed_by_atoms, embed_by_edges):
        norm, linear = prepared(training)
        generator = seeded(2)
        u, v = (
            (shift + torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)).requires_grad_()
            for shift in (3.0, -1.0)
        )
        output = embed(norm, linear, u, v, edges)
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        (output * weights).sum().backward()
        parameters = [*norm.parameters(), *linear.parameters()]
        results.append([output.detach(), u.grad, v.grad, *(parameter.grad for parameter in parameters)])
        results[-1] += [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


def test_without_edges_nothing_is_counted():
    norm, linear = prepared(training=True)
    before = [norm.running_mean.clone(), norm.running_var.clone()]
    u, v = (torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2))
    output = embed_by_atoms(norm, linear, u, v, torch.zeros(2, 0, dtype=torch.long))
    output.sum().backward()
    assert output.shape == (0, OUT)
    assert torch.equal(u.grad, torch.zeros_like(u))
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    assert norm.num_batches_tracked == 0


def test_equal_sums_of_different_ends_are_finite():
    """Two atoms whose ends contribute the same: the variance is zero, and rounding must not make it negative."""
    norm = EdgeNorm(64)
    edges = torch.tensor([[0, 1], [1, 0]])
    u = 1e3 * torch.randn(2, 64, generator=seeded())
    u, v = norm.of_ends(u, u.clone(), *(Incidence(index, 2) for index in edges))
    assert u.isfinite().all()
    assert v.isfinite().all()
