"""The hypergraph of molecules: its members against loops, and its convolution against dense matrices."""

import numpy as np
import pytest
import torch

from molstream.training.objectives.mmsa import hypergraph
from molstream.training.objectives.mmsa.hypergraph import Hypergraph, nearest, random
from tests.support.molecules import seeded

SIZE, WIDTH, COUNT = 23, 6, 5


def vertices(size=SIZE):
    u = torch.randn(size, WIDTH, dtype=torch.float64, generator=seeded())
    return u, torch.arange(size), torch.ones(size, dtype=torch.bool)


def dense(graph: Hypergraph) -> np.ndarray:
    """H [V, E]."""
    h = np.zeros((len(graph.members), len(graph.members)))
    for e, (members, weight) in enumerate(zip(graph.members.tolist(), graph.weight.tolist())):
        for v, value in zip(members, weight):
            h[v, e] += value
    return h


def propagation(h: np.ndarray, symmetric=False) -> np.ndarray:
    """G [V, V], by the formula."""
    de, dv = np.diag(1 / h.sum(0)), np.diag(1 / h.sum(1))
    return np.sqrt(dv) @ h @ de @ h.T @ np.sqrt(dv) if symmetric else dv @ h @ de @ h.T


@pytest.mark.parametrize("rows", [1024, 4])
def test_a_hyperedge_has_the_nearest_vertices(monkeypatch, rows):
    monkeypatch.setattr(hypergraph, "ROWS_OF_BLOCK", rows)
    u, key, real = vertices()
    graph = nearest(u, key, real, COUNT)
    unit = u.numpy() / np.linalg.norm(u.numpy(), axis=1, keepdims=True)
    for v in range(SIZE):
        distance = np.linalg.norm(unit - unit[v], axis=1)
        assert graph.members[v].tolist() == np.argsort(distance)[:COUNT].tolist()
        assert graph.members[v, 0] == v
    h = dense(graph)
    np.testing.assert_array_equal(h.sum(0), COUNT)
    np.testing.assert_allclose(propagation(h).sum(1), 1.0)


@pytest.mark.parametrize("incidence", ["binary", "distance"])
@pytest.mark.parametrize("normalization", ["row", "symmetric"])
def test_the_convolution_is_that_of_dense_matrices(incidence, normalization):
    u, key, real = vertices()
    graph = nearest(u, key, real, COUNT, incidence)
    g = torch.from_numpy(propagation(dense(graph), normalization == "symmetric"))
    s = torch.randn(SIZE, 3, dtype=torch.float64, generator=seeded(1), requires_grad=True)
    z = graph.convolve(s, normalization)
    torch.testing.assert_close(z, g @ s)
    upstream = torch.randn(SIZE, 3, dtype=torch.float64, generator=seeded(2))
    [gradient] = torch.autograd.grad(z, s, upstream)
    torch.testing.assert_close(gradient, g.T @ upstream)


def test_weights_of_members_fall_with_their_distance():
    u, key, real = vertices()
    graph = nearest(u, key, real, COUNT, "distance")
    unit = u / u.norm(dim=1, keepdim=True)
    distance = (unit[graph.members] - unit.unsqueeze(1)).norm(dim=2)
    expected = torch.exp(-distance.square() / (2 * distance[:, 1:].mean() ** 2))
    torch.testing.assert_close(graph.weight, expected)
    assert torch.equal(graph.weight[:, 0], torch.ones(SIZE, dtype=torch.float64))


def test_the_order_of_vertices_changes_nothing():
    u, key, real = vertices()
    s = torch.randn(SIZE, 3, dtype=torch.float64, generator=seeded(1))
    order = torch.randperm(SIZE, generator=seeded(3))
    z = nearest(u, key, real, COUNT).convolve(s)
    moved = nearest(u[order], key[order], real, COUNT).convolve(s[order])
    torch.testing.assert_close(moved, z[order])


def test_a_vertex_alone_keeps_its_row():
    u, key, real = vertices()
    s = torch.randn(SIZE, 3, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(nearest(u, key, real, 1).convolve(s), s)


def test_the_same_molecule_is_not_its_own_neighbour():
    u, key, real = vertices()
    u[[4, 9, 17]], key[[9, 17]] = u[4].clone(), 4
    for graph in (nearest(u, key, real, COUNT), random(key, real, COUNT, seeded())):
        for v in (4, 9, 17):
            assert {4, 9, 17} & set(graph.members[v].tolist()) == {v}
        assert torch.equal(graph.weight, torch.ones(SIZE, COUNT, dtype=graph.weight.dtype))


@pytest.mark.parametrize("incidence", ["binary", "distance"])
def test_vertices_that_are_not_real_take_no_part(incidence):
    u, key, real = vertices()
    whole = nearest(u[:3], key[:3], real[:3], COUNT, incidence)
    real[3:] = False
    u[3:], key[3:] = 0.0, 0
    s = torch.randn(SIZE, 3, dtype=torch.float64, generator=seeded(1))
    z = nearest(u, key, real, COUNT, incidence).convolve(s)
    # Three real vertices are fewer than a hyperedge has room for.
    assert whole.members.shape == (3, 3)
    torch.testing.assert_close(z[:3], whole.convolve(s[:3]))
    assert not z[3:].any()


def test_random_hyperedges_have_the_same_degree_and_other_members():
    _, key, real = vertices(200)
    graph = random(key, real, COUNT, seeded())
    assert torch.equal(graph.members[:, 0], torch.arange(200))
    assert all(len(set(row)) == COUNT for row in graph.members.tolist())
    np.testing.assert_array_equal(dense(graph).sum(0), COUNT)
    assert torch.equal(graph.members, random(key, real, COUNT, seeded()).members)
    assert not torch.equal(graph.members, random(key, real, COUNT, seeded(1)).members)
    # Every vertex is drawn about as often.
    drawn = torch.bincount(graph.members[:, 1:].flatten(), minlength=200).double()
    assert drawn.var(correction=0).item() == pytest.approx(COUNT - 1, rel=0.3)
