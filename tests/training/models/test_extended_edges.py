"""Hop-limited edges and segment helpers against networkx and plain loops."""

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from molstream.preprocessing import pairwise
from molstream.training.models.graph import extended_edges, segment_mean, segment_sum, to_dense
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch


def by_networkx(edge_index, num_nodes, max_hops):
    graph = networkx.Graph()
    graph.add_nodes_from(range(num_nodes))
    graph.add_edges_from(edge_index.T.tolist())
    lengths = dict(networkx.all_pairs_shortest_path_length(graph, cutoff=max_hops))
    return [[i, j] for i in range(num_nodes) for j in sorted(lengths[i]) if i != j]


@pytest.mark.parametrize("max_hops", [1, 2, 3, 4, 7])
def test_molecules_give_the_pairs_within_reach(max_hops):
    batch = molecule_batch([*AWKWARD, *DRUGS[:8], "C"])
    edges = extended_edges(batch.edge_index, batch.num_nodes, max_hops)
    assert edges.T.tolist() == by_networkx(batch.edge_index, batch.num_nodes, max_hops)
    assert torch.equal(batch.batch[edges[0]], batch.batch[edges[1]])
    featurizers = pairwise.extended_edges(batch.num_nodes, batch.edge_index.numpy(), max_hops)
    assert edges.tolist() == featurizers.tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_graphs_give_the_pairs_within_reach(data):
    num_nodes = data.draw(st.integers(1, 14))
    atom = st.integers(0, num_nodes - 1)
    bonds = [(i, j) for i, j in data.draw(st.lists(st.tuples(atom, atom), max_size=20)) if i != j]
    edge_index = torch.tensor([pair for i, j in bonds for pair in ((i, j), (j, i))], dtype=torch.long).view(-1, 2).T
    max_hops = data.draw(st.integers(1, 5))
    assert extended_edges(edge_index, num_nodes, max_hops).T.tolist() == by_networkx(edge_index, num_nodes, max_hops)


def test_no_bonds_give_no_edges():
    assert extended_edges(torch.zeros(2, 0, dtype=torch.long), 3, 4).shape == (2, 0)


def test_segments():
    values, index = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([2, 0, 2])
    assert segment_sum(values, index, 4).tolist() == [[3, 4], [0, 0], [6, 8], [0, 0]]
    assert segment_mean(values, index, 4).tolist() == [[3, 4], [0, 0], [3, 4], [0, 0]]
    assert segment_mean(values[:0], index[:0], 2).tolist() == [[0, 0], [0, 0]]


def test_dense_rows_stand_in_their_slots():
    rows = torch.arange(1.0, 4.0).unsqueeze(1)
    assert to_dense(rows, torch.tensor([0, 1, 3]), 2, 3).squeeze(2).tolist() == [[1, 2, 0], [3, 0, 0]]
