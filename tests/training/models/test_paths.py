"""Paths that the order of atoms selects: against Floyd and Warshall's algorithm, networkx, and known answers.

``shortest_paths``, which the same search serves, is tested in ``test_relations.py``.
"""

import csv
import gzip
from itertools import combinations, pairwise

import networkx
import numpy as np
import pytest
import torch
from rdkit import Chem, rdBase

from molstream.training.models.paths import floyd_warshall_paths
from tests.support.diverse import DIVERSE, TRILAURIN, pubchem_substances, zinc
from tests.support.floyd_warshall import Graph, floyd_warshall_rows, together
from tests.support.molecules import AWKWARD, DRUGS

CHAIN = "C" * 40
MACROCYCLES = (
    "C1" + "C" * 22 + "C1",
    "C1COCCOCCOCCOCCOCCO1",
    "C1=CC2=CC3=CC=C(N3)C=C4C=CC(=N4)C=C5C=CC(=CC1=N2)N5",
    "CCC1OC(=O)C(C)C(OC2CC(C)(OC)C(O)C(C)O2)C(C)C(OC2OC(C)CC(N(C)C)C2O)C(C)(O)CC(C)C(=O)C(C)C(O)C1(C)O",
)
"""A ring of 24 atoms, 18-crown-6, porphine and erythromycin."""
SALTS = ("[Na+].[Cl-]", "[Na+].[Na+].O=C([O-])CCCCCCCCC(=O)[O-]", "C1CCC1.C1CCCCC1.C")
HARD = (CHAIN, TRILAURIN, *MACROCYCLES, *SALTS, "C", *AWKWARD, *DRUGS, *DIVERSE.values())


def random_graphs(count, seed=0):
    """Graphs of 1 to 20 atoms: half with any bonds, half rings with chords; often in several parts."""
    rng = np.random.default_rng(seed)
    graphs = []
    for number in range(count):
        size = int(rng.integers(1, 21))
        bonds = {
            pair for pair in combinations(range(size), 2) if rng.random() < rng.choice([0.2, 1.0, 1.5, 2.5]) / size
        }
        if number % 2 and size > 2:
            ring = rng.permutation(size)[: int(rng.integers(3, size + 1))].tolist()
            bonds |= {(min(bond), max(bond)) for bond in pairwise([*ring, ring[0]])}
        graphs.append(Graph(size, sorted(bonds)))
    return graphs


def graph_of(smiles):
    mol = Chem.MolFromSmiles(smiles)
    return mol and Graph(mol.GetNumAtoms(), [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()])


def renumbered(graph, rng):
    """The same graph with other numbers; ``number[i]`` is the new number of atom i."""
    number = rng.permutation(graph.size).tolist()
    return Graph(graph.size, [(number[i], number[j]) for i, j in graph.bonds]), number


def found_paths(graphs, max_hops):
    """The paths of molecules by pair of atoms, each as the atoms from i on."""
    edge_index, batch, pairs = together(graphs)
    paths = floyd_warshall_paths(edge_index, batch, pairs, max_hops)
    begin, end = edge_index.tolist()
    ordered = [*zip(*pairs.tolist()), *zip(*pairs.flip(0).tolist())]
    found = {}
    for (i, j), distance, bonds in zip(ordered, paths.distance.tolist(), paths.bonds.tolist(), strict=True):
        hops = [bond for bond in bonds if bond >= 0]
        assert bonds == hops + [-1] * (max_hops - len(hops))
        assert len(hops) == max(0, min(distance, max_hops))
        atoms = [i, *(end[bond] for bond in hops)]
        assert [begin[bond] for bond in hops] == atoms[:-1]
        found[i, j] = distance, atoms
    return found


def assert_those_of_floyd_and_warshall(graphs, max_hops):
    joined = together(graphs)
    paths = floyd_warshall_paths(*joined, max_hops)
    assert paths.distance.dtype == paths.bonds.dtype == torch.long
    distances, bonds = floyd_warshall_rows(graphs, joined, max_hops)
    assert paths.distance.tolist() == distances
    assert paths.bonds.tolist() == bonds


def assert_distances_are_those_of_networkx(graphs):
    joined = together(graphs)
    graph = networkx.Graph(joined.edge_index.T.tolist())
    graph.add_nodes_from(range(joined.batch.numel()))
    lengths = dict(networkx.all_pairs_shortest_path_length(graph))
    distances = [lengths[i].get(j, -1) for i, j in joined.pairs.T.tolist()]
    assert floyd_warshall_paths(*joined, 1).distance.tolist() == distances * 2


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_random_graphs_have_the_paths_of_floyd_and_warshall(count):
    """Whole paths, too: what remains of a recorded path after any hop is a recorded path."""
    graphs = random_graphs(count)
    assert_those_of_floyd_and_warshall(graphs, 20)
    assert_distances_are_those_of_networkx(graphs)


@pytest.mark.parametrize("max_hops", [1, 5, 45])
def test_molecules_have_the_paths_of_floyd_and_warshall(max_hops):
    graphs = [graph_of(smiles) for smiles in HARD]
    assert_those_of_floyd_and_warshall(graphs, max_hops)
    assert_distances_are_those_of_networkx(graphs)


@pytest.mark.slow
def test_real_molecules_have_the_paths_of_floyd_and_warshall(shared_data):
    with gzip.open(shared_data / "geom3d" / "pcqm4mv2" / "pcqm4mv2-2k.csv.gz", "rt") as file:
        pcqm4mv2 = [row["smiles"] for row in csv.DictReader(file)][::10]
    texts = [*pcqm4mv2, *zinc(shared_data)[:4000:20], *pubchem_substances(shared_data)[:120]]
    with rdBase.BlockLogs():
        graphs = [graph for text in texts if (graph := graph_of(text)) and graph.size]
    assert len(graphs) >= 500
    assert_those_of_floyd_and_warshall(graphs, 5)
    assert_distances_are_those_of_networkx(graphs)


def test_the_first_atoms_of_a_ring_are_preferred():
    """Benzene has two paths between para positions; of their greatest inner atoms, the lesser one decides."""
    paths = found_paths([graph_of("c1ccccc1")], 5)
    assert paths[0, 3] == (3, [0, 1, 2, 3])
    assert paths[1, 4] == (3, [1, 2, 3, 4])
    assert paths[2, 5] == (3, [2, 1, 0, 5])
    assert paths[5, 2] == (3, [5, 0, 1, 2])


def test_a_chain_is_followed_from_end_to_end():
    paths = found_paths([graph_of(CHAIN)], 5)
    assert paths[0, 39] == (39, [0, 1, 2, 3, 4, 5])
    assert paths[39, 0] == (39, [39, 38, 37, 36, 35, 34])
    assert paths[10, 13] == (3, [10, 11, 12, 13])
    assert found_paths([graph_of(CHAIN)], 39)[39, 0] == (39, list(range(39, -1, -1)))


def test_fragments_are_not_connected():
    paths = found_paths([graph_of("CC.O")], 2)
    assert paths.pop((0, 1)) == (1, [0, 1])
    assert paths.pop((1, 0)) == (1, [1, 0])
    assert paths == {(i, j): (-1, [i]) for i, j in ((0, 2), (1, 2), (2, 0), (2, 1))}


@pytest.mark.parametrize("graphs", [[Graph(1, [])] * 3, [Graph(2, []), Graph(1, [])]])
def test_atoms_without_any_bond_in_the_batch(graphs):
    joined = together(graphs)
    paths = floyd_warshall_paths(*joined, 5)
    num_rows = 2 * joined.pairs.shape[1]
    assert paths.distance.tolist() == [-1] * num_rows
    assert paths.bonds.shape == (num_rows, 5)
    assert (paths.bonds == -1).all()


def test_hops_are_bonds_that_lead_from_the_first_atom_towards_the_last():
    paths = found_paths([graph_of(smiles) for smiles in HARD], 5)
    for (i, j), (distance, atoms) in paths.items():
        left = [paths[atom, j][0] if atom != j else 0 for atom in atoms]
        assert left == [distance - hop for hop in range(len(atoms))]
        assert atoms[-1] == j or len(atoms) == 6 or distance < 0, (i, j)


def test_the_way_back_is_the_same_path():
    paths = found_paths([graph_of(smiles) for smiles in HARD], 45)
    assert all(paths[j, i] == (distance, atoms[::-1]) for (i, j), (distance, atoms) in paths.items() if distance > 0)


def test_a_molecule_has_the_same_paths_alone_and_in_a_batch():
    graphs = [graph_of(smiles) for smiles in HARD]
    paths, start = found_paths(graphs, 5), 0
    for graph in graphs:
        for (i, j), (distance, atoms) in found_paths([graph], 5).items():
            assert paths[start + i, start + j] == (distance, [start + atom for atom in atoms])
        start += graph.size


def test_only_pairs_that_are_asked_for_are_answered():
    edge_index, batch, pairs = together([graph_of(smiles) for smiles in HARD])
    paths = floyd_warshall_paths(edge_index, batch, pairs, 5)
    some = torch.arange(0, pairs.shape[1], 7)
    fewer = floyd_warshall_paths(edge_index, batch, pairs[:, some], 5)
    rows = torch.cat([some, pairs.shape[1] + some])
    assert torch.equal(fewer.distance, paths.distance[rows])
    assert torch.equal(fewer.bonds, paths.bonds[rows])


def numbers_of_shortest_paths(graph):
    """How many shortest paths join each pair of atoms: the walks along as many bonds as the shortest one has."""
    bonded = np.zeros((graph.size, graph.size), dtype=np.int64)
    for i, j in graph.bonds:
        bonded[i, j] = bonded[j, i] = 1
    walks = number = np.eye(graph.size, dtype=np.int64)
    for _ in range(graph.size):
        walks = walks @ bonded
        number = np.where(number == 0, walks, number)
    return number


def test_other_numbers_of_atoms_change_only_which_of_several_shortest_paths_is_selected():
    rng, changed = np.random.default_rng(0), 0
    for graph in [*map(graph_of, HARD), *random_graphs(20)]:
        other, number = renumbered(graph, rng)
        paths, others, several = found_paths([graph], 5), found_paths([other], 5), numbers_of_shortest_paths(graph) > 1
        for (i, j), (distance, atoms) in paths.items():
            other_distance, other_atoms = others[number[i], number[j]]
            assert distance == other_distance
            if [number[atom] for atom in atoms] != other_atoms:
                assert several[i, j]
                changed += 1
    assert changed > 100
