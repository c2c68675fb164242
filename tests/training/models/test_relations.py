"""Relations of atoms: shortest paths and the bonds on them against networkx and RDKit, and the handedness of atoms."""

from itertools import pairwise

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from molstream.training.models.graph import molecule_pairs
from molstream.training.models.layers import gaussian_basis
from molstream.training.models.paths import shortest_paths
from molstream.training.models.relations import (
    CHIRAL_RADIUS,
    Chirality,
    GeometricRelation,
    TopologicalRelation,
    pair_vectors,
    topology,
)
from tests.support.molecules import AWKWARD, DRUGS, molecule_batch, rotation, seeded

FUSED = ("c1ccc2cc3ccccc3cc2c1", "C1CC2CCC1CC2", "C12C3C4C1C5C2C3C45", "C1=CC=CCCCC1", "O=C1CCCCC1")
"""Rings, so that many atoms are joined by several shortest paths over different bonds."""


def by_networkx(edge_index, kind, num_kinds, pairs, max_hops):
    graph = networkx.Graph()
    graph.add_nodes_from(pairs.flatten().tolist())
    for (i, j), value in zip(edge_index.T.tolist(), kind.tolist(), strict=True):
        graph.add_edge(i, j, kind=value)
    distances, bonds = [], []
    for i, j in pairs.T.tolist():
        paths = list(networkx.all_shortest_paths(graph, i, j)) if networkx.has_path(graph, i, j) else []
        distance = len(paths[0]) - 1 if paths else max_hops + 2
        distances.append(min(distance, max_hops + 1) if paths else distance)
        steps = [graph.edges[step]["kind"] for path in paths for step in pairwise(path)]
        bonds.append([steps.count(value) if distance <= max_hops else 0 for value in range(num_kinds)])
    return distances, bonds


@pytest.mark.parametrize("max_hops", [1, 3, 16])
def test_molecules_give_networkx_paths(max_hops):
    batch = molecule_batch([*AWKWARD, *DRUGS[:6], *FUSED, "CCCCCCCC.CCCCCCC=CC", "C"])
    pairs, kind = molecule_pairs(batch.batch), batch.edge_attr[:, 0]
    paths = shortest_paths(batch.edge_index, kind, 5, batch.batch, pairs, max_hops)
    distances, bonds = by_networkx(batch.edge_index, kind, 5, pairs, max_hops)
    assert paths.distance.tolist() == distances
    assert paths.bonds.tolist() == bonds


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_graphs_give_networkx_paths(data):
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    bonds, first = {}, 0
    for size in sizes:
        atom = st.integers(first, first + size - 1)
        drawn = data.draw(st.lists(st.tuples(atom, atom, st.integers(0, 2)), max_size=12))
        bonds |= {(min(i, j), max(i, j)): kind for i, j, kind in drawn if i != j}
        first += size
    directed = [edge for i, j in bonds for edge in ((i, j), (j, i))]
    edge_index = torch.tensor(directed, dtype=torch.long).view(-1, 2).T
    kind = torch.tensor(list(bonds.values()), dtype=torch.long).repeat_interleave(2)
    batch = torch.repeat_interleave(torch.tensor(sizes))
    max_hops = data.draw(st.integers(1, 4))
    pairs = molecule_pairs(batch)
    paths = shortest_paths(edge_index, kind, 3, batch, pairs, max_hops)
    assert [part.tolist() for part in paths] == list(by_networkx(edge_index, kind, 3, pairs, max_hops))


def test_distances_are_rdkits():
    for smiles in (*DRUGS, *FUSED):
        batch = molecule_batch([smiles])
        pairs = molecule_pairs(batch.batch)
        paths = shortest_paths(batch.edge_index, batch.edge_attr[:, 0], 5, batch.batch, pairs, 16)
        expected = torch.from_numpy(Chem.GetDistanceMatrix(Chem.MolFromSmiles(smiles)))
        assert torch.equal(paths.distance, expected[pairs[0], pairs[1]].long())


def test_a_long_chain_is_further_and_a_second_one_not_connected():
    """Across 200 atoms in random order: whether a path exists is known however long it is."""
    order = torch.randperm(200, generator=seeded())
    chain = torch.stack([order[:-1], order[1:]])[:, torch.arange(199) != 99]  # cut in the middle
    edge_index = torch.cat([chain, chain.flip(0)], dim=1)
    place = torch.empty_like(order).scatter(0, order, torch.arange(200))
    batch = torch.zeros(200, dtype=torch.long)
    pairs = molecule_pairs(batch)
    paths = shortest_paths(edge_index, torch.zeros(396, dtype=torch.long), 1, batch, pairs, 16)
    apart = (place[pairs[0]] - place[pairs[1]]).abs()
    connected = (place[pairs[0]] < 100) == (place[pairs[1]] < 100)
    assert torch.equal(paths.distance, torch.where(connected, apart.clamp(max=17), 18))


def test_the_order_of_the_bonds_does_not_matter():
    batch = molecule_batch([*DRUGS[:4], *FUSED])
    relation = TopologicalRelation(8).double()
    order = torch.randperm(batch.edge_index.shape[1], generator=seeded())
    expected = relation(topology(batch.edge_index, batch.edge_attr, batch.batch))
    assert torch.equal(relation(topology(batch.edge_index[:, order], batch.edge_attr[order], batch.batch)), expected)


def test_gaussians_resolve_every_distance_equally():
    distance = torch.linspace(1.0, 11.0, 1000, dtype=torch.float64)
    length = gaussian_basis(distance, 12.0, 64).norm(dim=1)
    torch.testing.assert_close(length, torch.full_like(length, torch.pi**0.25), rtol=1e-3, atol=0)
    assert gaussian_basis(torch.tensor([50.0]), 12.0, 64).sum() == 0.0


def pseudoscalars(chirality, z, pos):
    return chirality(z, pair_vectors(pos, torch.zeros(len(z), dtype=torch.long)))


def test_pseudoscalars_change_sign_in_the_mirror_and_not_by_motion():
    chirality = Chirality().double()
    batch = molecule_batch(["C[C@H](N)C(=O)O"])
    z, pos = batch.x[:, 0], batch.pos.double()
    turn = rotation(seeded())
    values = pseudoscalars(chirality, z, pos)
    assert values.abs().max() > 1e-2
    torch.testing.assert_close(pseudoscalars(chirality, z, pos @ turn.T + 5.0), values, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(pseudoscalars(chirality, z, -pos @ turn.T), -values, rtol=1e-9, atol=1e-12)


def test_pseudoscalars_vanish_where_the_surroundings_are_their_own_mirror_image():
    chirality = Chirality().double()
    planar = torch.rand(7, 3, generator=seeded(), dtype=torch.float64) * 3 * torch.tensor([1.0, 1.0, 0.0])
    line = torch.rand(5, 1, generator=seeded(), dtype=torch.float64) * torch.ones(1, 3)
    dichloromethane = torch.tensor(
        [[0, 0, 0], [0, 0.9, -0.6], [0, -0.9, -0.6], [1.5, 0, 0.9], [-1.5, 0, 0.9]], dtype=torch.float64
    )
    for z, pos in (([5, 6, 7, 5, 8, 5, 16], planar), ([5, 6, 7, 8, 5], line), ([5, 0, 0, 16, 16], dichloromethane)):
        turned = pos @ rotation(seeded(3)).T
        assert pseudoscalars(chirality, torch.tensor(z), turned).abs().max() < 1e-14
    torch.manual_seed(0)
    bromochloromethane = torch.tensor([5, 0, 0, 16, 34])
    assert pseudoscalars(chirality, bromochloromethane, dichloromethane)[0].abs().max() < 1e-14
    chiral = torch.tensor([5, 0, 8, 16, 34])
    assert pseudoscalars(chirality, chiral, dichloromethane)[0].abs().max() > 1e-3


def test_handedness_is_local():
    chirality = Chirality().double()
    near = torch.rand(5, 3, generator=seeded(), dtype=torch.float64)
    far = near[:1] + torch.tensor([[CHIRAL_RADIUS + 1e-9, 0.0, 0.0]])
    z = torch.tensor([5, 6, 7, 8, 5, 16])
    assert torch.equal(pseudoscalars(chirality, z, torch.cat([near, far]))[0], pseudoscalars(chirality, z[:5], near)[0])


@pytest.mark.parametrize("place", [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], ids=["coincident", "collinear"])
def test_gradients_of_degenerate_positions_are_finite(place):
    z, batch = torch.tensor([5, 6, 7, 8]), torch.zeros(4, dtype=torch.long)
    pos = (torch.arange(4.0).unsqueeze(1) * torch.tensor([place])).requires_grad_()
    geometry = pair_vectors(pos, batch)
    (Chirality()(z, geometry).sum() + GeometricRelation(8)(z, geometry).sum()).backward()
    assert pos.grad is not None
    assert pos.grad.isfinite().all()


def test_pseudoscalars_are_smooth():
    """Automatic derivatives equal finite differences, also where atoms enter the radius."""
    chirality = Chirality().double()
    generator = seeded()
    pos = torch.rand(6, 3, generator=generator, dtype=torch.float64) * CHIRAL_RADIUS
    z = torch.tensor([5, 6, 7, 8, 5, 16])
    pos.requires_grad_()
    assert torch.autograd.gradcheck(lambda pos: pseudoscalars(chirality, z, pos), pos)


def test_geometry_stays_float32_in_a_bfloat16_network():
    chirality, batch = Chirality(), molecule_batch(DRUGS[:6])
    geometry = pair_vectors(batch.pos, batch.batch)
    exact = chirality(batch.x[:, 0], geometry)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(chirality(batch.x[:, 0], geometry), exact)
    chirality.bfloat16()
    turned = pair_vectors(batch.pos @ rotation(seeded()).float().T, batch.batch)
    rounded, there = chirality(batch.x[:, 0], geometry), chirality(batch.x[:, 0], turned)
    assert geometry.distance.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(there, rounded, rtol=0, atol=1e-5)  # weights are rounded, rotations still change nothing
