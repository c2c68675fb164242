"""Distances along bonds against networkx."""

import networkx as nx
import numpy as np
import pytest
from rdkit import Chem

from molstream.preprocessing.graph import bonds
from molstream.preprocessing.pairwise import UNREACHABLE, extended_edges, shortest_path_distances
from tests.support.diverse import DIVERSE

MOLECULES = [*DIVERSE.values(), "C", "[Na+].[Cl-]", "CCO.c1ccccc1", "C" * 60, "C1CCCCCCCCCCCCCCCCCCCC1"]


def graph(text: str) -> tuple[int, np.ndarray, nx.Graph]:
    mol = Chem.MolFromSmiles(text)
    bond_index = bonds(mol)[0]
    expected = nx.Graph(bond_index.T.tolist())
    expected.add_nodes_from(range(mol.GetNumAtoms()))
    return mol.GetNumAtoms(), bond_index, expected


@pytest.mark.parametrize("text", MOLECULES)
def test_shortest_paths(text):
    num_atoms, bond_index, expected = graph(text)
    lengths = dict(nx.all_pairs_shortest_path_length(expected))
    distances = shortest_path_distances(num_atoms, bond_index)
    assert distances.dtype == np.int16
    assert distances.tolist() == [[lengths[i].get(j, UNREACHABLE) for j in range(num_atoms)] for i in range(num_atoms)]


@pytest.mark.parametrize("hops", [1, 2, 4])
@pytest.mark.parametrize("text", MOLECULES)
def test_extended_edges(text, hops):
    num_atoms, bond_index, expected = graph(text)
    pairs = nx.all_pairs_shortest_path_length(expected, cutoff=hops)
    edges = extended_edges(num_atoms, bond_index, hops)
    assert edges.dtype == np.int64
    assert edges.T.tolist() == sorted([i, j] for i, near in pairs for j, distance in near.items() if distance >= 1)
